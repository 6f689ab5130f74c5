"""A `Plan` as an idiomatic Flax NNX module."""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnbench.graph.geometry import activation_of, geometry, output_number, sources
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import (
    Activate,
    Add,
    Attention,
    AvgPool,
    BatchNorm,
    ChannelShuffle,
    ClassToken,
    Concat,
    Conv,
    ConvTranspose,
    Crop,
    Dense,
    DepthToSpace,
    Dropout,
    DropPath,
    Flatten,
    GaussianNoise,
    GlobalAvgPool,
    GlobalMaxPool,
    GroupNorm,
    LayerNorm,
    MaskingNoise,
    MaxPool,
    Multiply,
    Permute,
    PositionEmbedding,
    PReLU,
    Reshape,
    Sample,
    Scale,
    Slice,
    Softmax,
    SpaceToDepth,
    SpatialDropout,
    Upscale,
    VectorQuantizer,
    ZeroPad,
)
from cnnbench.layers.attention import sincos2d
from cnnbench.layers.base import Shape
from cnnbench.layers.conv import conv_pads
from cnnbench.layers.correlation import ConvGeometry
from cnnbench.layers.reshape import (
    Rearrangement,
    crop_slices,
    moved_blocks,
    pad_widths,
    shuffled,
)
from cnnbench.nn.graph_net import ACTIVATIONS
from cnnbench.system.arrays import LayerWeights


class FlaxNet(nnx.Module):
    """The network.

    Args:
      plan: the layers.
      weights: initial parameters, in our layout, which is also Flax's.
      rngs: random streams; ``dropout`` is used for the masks.
    """

    def __init__(self, plan: Plan, weights: LayerWeights, rngs: nnx.Rngs) -> None:
        self.sources = nnx.static(sources(plan))
        self.output = output_number(plan)
        self.activations = nnx.static(
            tuple(ACTIVATIONS[activation_of(node.op)] for node in plan.nodes)
        )
        layers: dict[str, nnx.Module] = {}
        for node in plan.nodes:
            layers[node.name] = layers.get(node.owner) or _layer(plan, node, layers, rngs)
        self.layers = nnx.List(list(layers.values()))
        self.owned = nnx.static(
            tuple((i, n.name, tuple(n.params)) for i, n in enumerate(plan.nodes))
        )
        for layer, params in self.params.items():
            for key, param in params.items():
                param[...] = jnp.asarray(weights[layer][key])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs for images (n, height, width, channels)."""
        values = [x]
        for layer, activation, read in zip(
            self.layers, self.activations, self.sources, strict=True
        ):
            values.append(activation(layer(*[values[i] for i in read])))
        return values[self.output]

    @property
    def params(self) -> Mapping[str, Mapping[str, nnx.Param[jax.Array]]]:
        """Parameters by layer and name; a tied kernel is listed with its owner only."""
        return {
            name: {key: getattr(self.layers[i], key) for key in keys}
            for i, name, keys in self.owned
            if keys
        }


class _Function(nnx.Module):
    """A layer without parameters."""

    def __init__(self, function: Callable[..., jax.Array]) -> None:
        self.function = nnx.static(function)

    def __call__(self, *inputs: jax.Array) -> jax.Array:
        return self.function(*inputs)


class _Scale(nnx.Module):
    """Product with learned factors, (c,) or (1,)."""

    def __init__(self, shape: Shape) -> None:
        self.scale = nnx.Param(jnp.ones(shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.scale[...]


class _PReLU(nnx.Module):
    """Product of negative values with learned slopes, (c,) or (1,); Flax has one for all."""

    def __init__(self, shape: Shape) -> None:
        self.slope = nnx.Param(jnp.zeros(shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x >= 0, x, self.slope[...] * x)


class _Noise(nnx.Module):
    """Additive Gaussian noise or random zeroing of values, in training only."""

    def __init__(self, op: GaussianNoise | MaskingNoise, rngs: nnx.Rngs) -> None:
        self.op = nnx.static(op)
        self.deterministic = False
        self.rngs = rngs.fork()

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.deterministic:
            return x
        key = self.rngs.dropout()
        if isinstance(self.op, MaskingNoise):
            return x * jax.random.bernoulli(key, 1 - self.op.rate, x.shape)
        return x + self.op.stddev * jax.random.normal(key, x.shape)


class _Attention(nnx.Module):
    """Multi-head self-attention over the pixels of an image, with one kernel for q, k and v."""

    def __init__(self, node: Node, op: Attention) -> None:
        self.heads = op.heads
        made = {key: nnx.Param(jnp.zeros(shape)) for key, shape in node.layout.params.items()}
        self.kernel, self.out_kernel = made["kernel"], made["out_kernel"]
        self.bias, self.out_bias = made.get("bias"), made.get("out_bias")

    def __call__(self, x: jax.Array) -> jax.Array:
        sequence = x.reshape(len(x), -1, x.shape[-1])
        z = sequence @ self.kernel[...]
        z = z if self.bias is None else z + self.bias[...]
        parts = z.reshape(*sequence.shape[:2], 3 * self.heads, -1)
        query, key, value = jnp.split(parts, 3, axis=2)
        mixed = nnx.dot_product_attention(query, key, value)
        y: jax.Array = mixed.reshape(x.shape) @ self.out_kernel[...]
        return y if self.out_bias is None else y + self.out_bias[...]


class _Positions(nnx.Module):
    """Learned or fixed vectors that are added to the pixels of an image."""

    def __init__(self, node: Node) -> None:
        shape = node.layout.shape
        self.embedding = nnx.Param(jnp.zeros(shape)) if node.layout.params else None
        self.shape = nnx.static(shape)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + (sincos2d(self.shape) if self.embedding is None else self.embedding[...])


class _ClassToken(nnx.Module):
    """A learned token before the pixels of an image."""

    def __init__(self, channels: int) -> None:
        self.token = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        pixels = x.reshape(len(x), -1, 1, x.shape[-1])
        first = jnp.broadcast_to(self.token[...], pixels[:, :1].shape)
        return jnp.concatenate([first, pixels], axis=1)


class _TiedTranspose(nnx.Module):
    """A transposed convolution with the kernel of another layer and a separate bias."""

    def __init__(self, owner: nnx.Module, numbers: ConvGeometry, biases: int) -> None:
        self.owner: Any = owner
        self.numbers = nnx.static(numbers)
        self.bias = nnx.Param(jnp.zeros(biases)) if biases else None

    def __call__(self, x: jax.Array) -> jax.Array:
        pads, stride = _stamps(self.numbers), self.numbers.stride
        y: jax.Array = jax.lax.conv_transpose(
            x, self.owner.kernel[...], stride, pads, transpose_kernel=True
        )
        return y if self.bias is None else y + self.bias[...]


def _stamps(numbers: ConvGeometry) -> list[tuple[int, int]]:
    """Padding of the dilated input of a transposed convolution."""
    return [
        (kernel - 1 - before, kernel - 1 - after + remainder)
        for kernel, (before, after), remainder in zip(
            numbers.kernel, numbers.pads, numbers.remainder, strict=True
        )
    ]


def _layer(plan: Plan, node: Node, made: Mapping[str, nnx.Module], rngs: nnx.Rngs) -> nnx.Module:
    op = node.op
    if isinstance(op, Rearrangement):
        return _rearranged(node, op)
    match op:
        case Conv():
            return _conv(node, op, rngs)
        case ConvTranspose():
            return _conv_transpose(plan, node, op, made, rngs)
        case Dense():
            return _Dense(node, op, rngs)
        case Dropout():
            return nnx.Dropout(op.rate, rngs=rngs)
        case SpatialDropout() | DropPath():
            shared = [i for i, n in enumerate(op.drawn_shape(node.layout.shape), 1) if n == 1]
            return nnx.Dropout(op.rate, broadcast_dims=shared, rngs=rngs)
        case GaussianNoise() | MaskingNoise():
            return _Noise(op, rngs)
        case Sample() | VectorQuantizer():
            raise AssertionError(f"{op.op} is rejected by make_trainer")
        case BatchNorm() | LayerNorm() | GroupNorm():
            return _norm(node, op, rngs)
        case Scale():
            if op.trainable:
                return _Scale(node.layout.params["scale"])
            return _Function(partial(jnp.multiply, op.value))
        case MaxPool() | AvgPool():
            return _Function(_pool(op, node.in_shapes[0]))
        case Concat():
            return _Function(_join)
        case Add():
            return _Function(_sum)
        case Multiply():
            return _Function(partial(_product, rank=len(node.layout.shape)))
        case Activate():
            return _Function(ACTIVATIONS["linear"])
        case Attention():
            return _Attention(node, op)
        case PositionEmbedding():
            return _Positions(node)
        case ClassToken():
            return _ClassToken(node.layout.shape[2])
        case PReLU():
            return _PReLU(node.layout.params["slope"])
        case Softmax():
            return _Function(nnx.softmax)
        case GlobalAvgPool():
            return _Function(partial(jnp.mean, axis=(1, 2)))
        case GlobalMaxPool():  # ties share the gradient; ours gives it to the first
            return _Function(partial(jnp.max, axis=(1, 2)))
        case _:
            assert_never(op)


def _rearranged(node: Node, op: Rearrangement) -> nnx.Module:
    """The module of a node that moves, repeats or removes values."""
    match op:
        case Slice():
            return _Function(partial(_slice, start=op.start, size=op.size))
        case ZeroPad():
            return _Function(partial(jnp.pad, pad_width=pad_widths(op.padding, op.channels)))
        case Crop():
            inner = crop_slices(pad_widths(op.cropping))
            return _Function(lambda x: x[inner])
        case ChannelShuffle():
            return _Function(partial(shuffled, groups=op.groups))
        case SpaceToDepth() | DepthToSpace():
            return _Function(partial(moved_blocks, op))
        case Upscale():
            return _Function(partial(_repeat, size=op.size))
        case Flatten() | Reshape():
            return _Function(partial(_reshape, shape=node.layout.shape))
        case Permute():
            return _Function(partial(jnp.transpose, axes=(0, *op.order)))
        case _:
            assert_never(op)


def _norm(node: Node, op: BatchNorm | LayerNorm | GroupNorm, rngs: nnx.Rngs) -> nnx.Module:
    channels = node.layout.shape[-1]
    learned: dict[str, Any] = {"use_scale": op.scale, "use_bias": op.center}
    if isinstance(op, BatchNorm):
        pace = op.momentum
        return nnx.BatchNorm(channels, momentum=pace, epsilon=op.epsilon, **learned, rngs=rngs)
    if isinstance(op, LayerNorm):
        return nnx.LayerNorm(channels, epsilon=op.epsilon, **learned, rngs=rngs)
    return nnx.GroupNorm(channels, op.groups, epsilon=op.epsilon, **learned, rngs=rngs)


def _pool(op: MaxPool | AvgPool, shape: Shape) -> Callable[[jax.Array], jax.Array]:
    pads, shares = op.reach(shape), op.shares(shape) if isinstance(op, AvgPool) else None
    kind = nnx.max_pool if isinstance(op, MaxPool) else nnx.avg_pool
    pool = partial(kind, window_shape=op.size, strides=op.steps, padding=pads)
    return pool if shares is None else partial(_scaled_pool, pool=pool, factors=shares)


def _scaled_pool(
    x: jax.Array, *, pool: Callable[[jax.Array], jax.Array], factors: np.ndarray
) -> jax.Array:
    return pool(x) * factors[:, :, None].astype(np.float32)


def _conv(node: Node, op: Conv, rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Conv(
        node.in_shapes[0][2],
        op.filters,
        op.kernel,
        op.stride,
        padding=conv_pads(op, node.in_shapes[0], op.extent),
        kernel_dilation=op.dilation,
        feature_group_count=op.num_groups(node.in_shapes[0][2]),
        use_bias=op.use_bias,
        rngs=rngs,
    )


def _conv_transpose(
    plan: Plan,
    node: Node,
    op: ConvTranspose,
    made: Mapping[str, nnx.Module],
    rngs: nnx.Rngs,
) -> nnx.Module:
    numbers, filters = geometry(plan, node), node.layout.shape[2]
    if op.tie:
        return _TiedTranspose(made[op.tie], numbers, filters if op.use_bias else 0)
    return nnx.ConvTranspose(
        node.in_shapes[0][2],
        filters,
        numbers.kernel,
        numbers.stride,
        padding=_stamps(numbers),
        use_bias=op.use_bias,
        transpose_kernel=True,
        rngs=rngs,
    )


class _Dense(nnx.Linear):
    """A dense layer that flattens its input."""

    def __init__(self, node: Node, op: Dense, rngs: nnx.Rngs) -> None:
        rows = node.layout.params["kernel"][0]
        super().__init__(rows, op.units, use_bias=op.use_bias, rngs=rngs)

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        return super().__call__(inputs.reshape(inputs.shape[0], -1), out_sharding)


def _repeat(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    return jnp.repeat(jnp.repeat(x, size[0], axis=1), size[1], axis=2)


def _reshape(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return x.reshape(x.shape[0], *shape)


def _slice(x: jax.Array, start: int, size: int) -> jax.Array:
    return x[..., start : start + size]


def _join(*inputs: jax.Array) -> jax.Array:
    return jnp.concatenate(inputs, axis=-1)


def _sum(first: jax.Array, *others: jax.Array) -> jax.Array:
    return sum(others, first)


def _product(*inputs: jax.Array, rank: int) -> jax.Array:
    """Broadcast vectors over the pixels of an image."""
    return reduce(jnp.multiply, (x[:, None, None] if x.ndim <= rank else x for x in inputs))
