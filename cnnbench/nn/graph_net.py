"""`nnx.Module` of a `Plan`."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnbench.graph.autoencoder import decoder
from cnnbench.graph.plan import Node, Plan
from cnnbench.graph.repeats import Loop, Unit, find_loops
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
from cnnbench.layers.base import INPUT
from cnnbench.layers.parameters import is_kernel
from cnnbench.layers.reshape import Rearrangement, crop_slices, moved_blocks, pad_widths, shuffled
from cnnbench.nn import transformer
from cnnbench.nn.initializers import initial_bias, initial_kernel
from cnnbench.nn.looping import Modules, repeat, stacked
from cnnbench.nn.lowering import Lowering, Plain, lower
from cnnbench.nn.microbatch import Head, Microbatching, stages, sum_in_rows
from cnnbench.nn.noise import RandomLayer, apply_noise, divergence
from cnnbench.nn.ops import batch_norm, convolution, dense, layout, norm, quantizer
from cnnbench.nn.ops.activation import gelu, relu6, softplus
from cnnbench.nn.ops.dense import LayerParams
from cnnbench.nn.result import Result
from cnnbench.nn.scopes import layer_scope

_lean = partial(jax.checkpoint, prevent_cse=False)  # keeps only the input for the gradient
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda x: x,
    "relu": nnx.relu,
    "tanh": jnp.tanh,
    "sigmoid": nnx.sigmoid,
    "leaky_relu": nnx.leaky_relu,
    "elu": nnx.elu,
    "gelu": _lean(nnx.gelu),
    "silu": _lean(nnx.silu),
    "softplus": softplus,
    "relu6": relu6,
    "hard_sigmoid": lambda x: relu6(x + 3) / 6,
    "hard_silu": lambda x: x * relu6(x + 3) / 6,
    "mish": _lean(lambda x: x * jnp.tanh(softplus(x))),
    "selu": nnx.selu,
    "gelu_exact": _lean(gelu),
}
COSTLY = frozenset(
    {"tanh", "sigmoid", "elu", "gelu", "silu", "softplus", "mish", "selu", "gelu_exact"}
)
# Layers that need not be compiled if equal blocks run as loops; with fewer, all are unrolled.
LEAST_SAVED = 100


class Frozen(nnx.Variable[Any]):
    """A parameter that is not trained; part of the other state of a network."""


class GraphNet(nnx.Module):
    """A network of named layers.

    Args:
      plan: the validated graph.
      form: algorithms for convolutions and pooling.
      rngs: random keys; ``params`` for kernels, ``dropout`` for random layers.
      cut: micro-batching for training with batch statistics; None for whole batches.

    Attributes:
      weights: kernel and bias by the layer that owns them. A tied layer has only a bias and uses
        the kernel of its owner, so that parameters are not duplicated.
      parts: modules by layer, for layers that behave differently in training.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        form: convolution.EngineName,
        rngs: nnx.Rngs,
        cut: Microbatching | None = None,
    ) -> None:
        self.plan = nnx.static(plan)
        self.lowering = nnx.static(lower(plan, form))
        self.cut = nnx.static(cut)
        units, loops = _order(plan, self.lowering, cut)
        self.units, self.loops = nnx.static(units), nnx.static(loops)
        self.weights = nnx.Dict({n.name: _weights(plan, n, rngs) for n in plan.nodes if _owns(n)})
        self.parts = nnx.Dict(
            {
                node.name: part
                for node in plan.nodes
                if node.owner == node.name
                and (part := _part(node, rngs, self.lowering.summation)) is not None
            }
        )

    def prepare(self) -> LayerParams:
        """Transformed kernels and biases by layer, which many calls can share.

        Those of a loop are stacked, by layer of its first repetition.
        """
        columns = {first: names for loop in self.loops for first, names in loop.columns.items()}
        looped = {name for names in columns.values() for name in names}
        own = {
            node.name: self._prepare(node, self._own(node))
            for node in self.plan.nodes
            if node.name not in looped
        }
        nodes = self.plan.by_name
        for first, names in columns.items():
            stack = stacked([self._own(nodes[name]) for name in names])
            prepare = partial(self._prepare, nodes[first])
            own[first] = jax.vmap(prepare)(stack) if stack else {}
        return own

    def _prepare_unrolled(self) -> LayerParams:
        return {node.name: self._prepare(node, self._own(node)) for node in self.plan.nodes}

    def _own(self, node: Node) -> dict[str, jax.Array]:
        """Weights of a layer, with the kernel that it uses."""
        own: Mapping[str, Any] = self.weights.get(node.owner, {})
        values = {key: own[key][...] for key in own}
        if isinstance(node.op, Conv | ConvTranspose):
            values["kernel"] = self.weights[node.kernel_owner]["kernel"][...]
        return values

    def _prepare(self, node: Node, own: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        values = dict(own)
        if isinstance(node.op, Conv | ConvTranspose):
            with layer_scope(node.name):
                values["kernel"] = self.lowering.prepare(node, values["kernel"])
        if isinstance(node.op, BatchNorm) and values:
            values = batch_norm.fixed(node.op.epsilon, **values)
        if isinstance(node.op, Dense):
            values[dense.KERNEL] = values.pop("kernel")
        return values

    def __call__(self, x: jax.Array, prepared: LayerParams | None = None) -> jax.Array:
        """Runs the network.

        Args:
          x: images, (n, height, width, channels).
          prepared: result of `prepare`, to share it between calls.

        Returns:
          (n, *output shape of the plan).
        """
        weights = self.prepare() if prepared is None else prepared
        return self.from_layout(self._values(x, weights)[self.plan.output])

    def result(
        self, x: jax.Array, prepared: LayerParams | None = None, numbers: jax.Array | None = None
    ) -> Result:
        """Runs the network, and returns everything that the loss depends on.

        Args:
          x: images, (n, height, width, channels).
          prepared: result of `prepare`, to share it between calls.
          numbers: image numbers, (n,), that determine random values; default: indices in `x`.
        """
        weights = self.prepare() if prepared is None else prepared
        return self.result_of(self._values(x, weights, numbers), weights)

    def result_of(self, values: Mapping[str, jax.Array], weights: LayerParams) -> Result:
        """Everything that the loss depends on.

        Args:
          values: those of `Plan.ends`.
          weights: result of `prepare` for `Plan.quantizers`.
        """
        return Result(
            self.from_layout(values[self.plan.output]),
            {
                node.name: self._divergence(*[values[name] for name in node.inputs])
                for node in self.plan.samples
            },
            {
                node.name: quantizer.distances(
                    values[node.inputs[0]],
                    weights[node.name]["codebook"],
                    node.op.commitment,
                    self._axes(values[node.inputs[0]]),
                )
                for node in self.plan.quantizers
                if isinstance(node.op, VectorQuantizer)
            },
        )

    def _divergence(self, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
        return divergence(mean, log_variance, self._axes(mean))

    def _axes(self, values: jax.Array) -> tuple[int, ...]:
        """All axes except that of the images."""
        return (*self.lowering.axes, -1) if values.ndim == 4 else (-1,)

    def activations(self, x: jax.Array) -> dict[str, jax.Array]:
        """Outputs of all layers, (n, *shape), by name; only for the form `plain`.

        The other forms fuse layers, and do not compute some of these values.
        """
        start, numbers = {INPUT: self.to_layout(x)}, jnp.arange(x.shape[0])
        values = self._run(self.plan.nodes, start, self._prepare_unrolled(), numbers)
        return {node.name: values[node.name] for node in self.plan.nodes}

    def output_from(self, layer: str, values: jax.Array) -> jax.Array:
        """Output computed from the values of a bottleneck layer, (n, *shape)."""
        nodes = decoder(self.plan, layer)
        assert nodes is not None
        start = self.to_layout(values) if values.ndim == 4 else values
        numbers = jnp.arange(values.shape[0])
        found = self._run(nodes, {layer: start}, self._prepare_unrolled(), numbers)
        return self.from_layout(found[self.plan.output])

    def _values(
        self, x: jax.Array, weights: LayerParams, numbers: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Outputs of layers by name, in the layout of the operations; not those inside of loops."""
        numbers = jnp.arange(x.shape[0]) if numbers is None else numbers
        values, done = {INPUT: self.to_layout(x)}, 0
        for loop in self.loops:
            self._run(_nodes(self.units[done : loop.start]), values, weights, numbers)
            self._repeat(loop, values, weights, numbers)
            done = loop.stop
        return self._run(_nodes(self.units[done:]), values, weights, numbers)

    def _repeat(
        self,
        loop: Loop,
        values: dict[str, jax.Array],
        weights: LayerParams,
        numbers: jax.Array,
    ) -> None:
        """Runs equal layers as a loop, and adds the outputs of the last repetition to `values`."""
        nodes = _nodes(self.units[loop.start : loop.start + loop.period])

        def once(carry: Mapping[str, jax.Array], parts: Modules, own: LayerParams) -> Any:
            start = dict(carry)
            if INPUT in values:
                start[INPUT] = values[INPUT]
            found = self._run(nodes, start, own, numbers, parts)
            return {name: found[later] for name, later in loop.carried.items()}

        start = {name: values[name] for name in loop.carried}
        own = {first: weights[first] for first in loop.columns}
        after = repeat(loop, once, start, self.parts, own)
        values.update({loop.after[name]: value for name, value in after.items()})

    def _run(
        self,
        nodes: Sequence[Node],
        values: dict[str, jax.Array],
        weights: LayerParams,
        numbers: jax.Array,
        parts: Modules | None = None,
    ) -> dict[str, jax.Array]:
        """Computes the outputs of some layers, and adds them to `values`."""
        parts = self.parts if parts is None else parts
        for node in nodes:
            inputs = [values[name] for name in node.inputs]
            with layer_scope(node.name):
                values[node.name] = self._output(node, parts, inputs, weights, numbers)
        return values

    def _output(
        self,
        node: Node,
        parts: Modules,
        inputs: Sequence[jax.Array],
        weights: LayerParams,
        numbers: jax.Array,
    ) -> jax.Array:
        part = parts.get(node.owner)
        if isinstance(part, RandomLayer):
            return self._apply_noise(node, part, inputs, numbers)
        if part:
            relu = self.lowering.activated.get(node.name)
            # Running statistics are float32, but must not promote a bfloat16 network.
            normalized: jax.Array = part(*inputs, relu=relu).astype(inputs[0].dtype)
            return normalized
        return self.apply(node, inputs, weights)

    def _apply_noise(
        self, node: Node, part: RandomLayer, inputs: Sequence[jax.Array], numbers: jax.Array
    ) -> jax.Array:
        """Output of a random layer, in the layout of the operations."""
        if not part.active:
            return inputs[0]
        drawn = part.draw((len(numbers), *node.layout.shape), numbers)
        if drawn.ndim != 4:
            return apply_noise(part.op, drawn, *inputs)
        return self.lowering.materialize(apply_noise(part.op, self.to_layout(drawn), *inputs))

    def sum_of(
        self,
        x: jax.Array,
        prepared: LayerParams,
        head: Head,
        others: tuple[jax.Array, ...],
        numbers: jax.Array | None = None,
    ) -> jax.Array:
        """Sum over images in training, such as the sum of their losses.

        Args:
          x: images, (n, height, width, channels).
          prepared: result of `prepare`.
          head: maps the `Result` for some images, and their `others`, to a scalar.
          others: further inputs of `head`, such as targets, (n, ...) each.
          numbers: as in `result`; not used with micro-batching, where `x` is the whole batch.
        """
        if self.cut:
            return sum_in_rows(self, x, prepared, self.cut, head, others)
        return head(self.result(x, prepared, numbers), *others)

    def to_layout(self, x: jax.Array) -> jax.Array:
        """Converts images to the layout of the operations."""
        return self.lowering.to_layout(x)

    def from_layout(self, result: jax.Array) -> jax.Array:
        """Converts the output to the layout of images, if it is an image."""
        return self.lowering.from_layout(result) if len(self.plan.output_shape) == 3 else result

    def apply(self, node: Node, inputs: Sequence[jax.Array], weights: LayerParams) -> jax.Array:
        """Computes a layer that is not in `parts`, in the layout of the operations."""
        x, op, lowering = inputs[0], node.op, self.lowering
        if isinstance(op, Rearrangement):
            return self._rearranged(node, op, x)
        match op:
            case Conv() | ConvTranspose():
                z = lowering.convolve(node, x, weights[node.name]["kernel"])
                if node.name in lowering.deferred.values():
                    return z
                repeat = layout.each_channel if _is_product(op) else layout.repeat_channels
                return self._finished(z, op.activation, weights[node.name], repeat)
            case Dense():
                z = dense.multiply(self._vectors(node, x), weights[node.name])
                return self._finished(z, op.activation, weights[node.name])
            case MaxPool():
                y = lowering.max_pool(node, self._extended(node, op, x, -jnp.inf))
                return self._finish_pooled(node, y, weights)
            case AvgPool():
                y = lowering.avg_pool(self._extended(node, op, x, 0), op.size, op.steps)
                return self._shared(node, op, y)
            case Concat():
                return lowering.keep(jnp.concatenate(inputs, axis=-1), costly=False)
            case Add():
                return layout.elementwise(lambda first, *others: sum(others, first), *inputs)
            case Multiply():
                return self._product(node, inputs)
            case Activate():
                return self._activated(node, op, x)
            case Attention() | PositionEmbedding() | ClassToken():
                images, own = lowering.from_layout(x), weights[node.name]
                y = transformer.of_images(op, images, own, lowering.attention)
                return lowering.to_layout(y)
            case PReLU():
                return _sloped(x, weights[node.name]["slope"])
            case Softmax():
                return nnx.softmax(x)
            case GlobalAvgPool():
                return x.mean(axis=lowering.axes)
            case GlobalMaxPool():
                return _largest(x, lowering.axes)
            case VectorQuantizer():
                return quantizer.quantize(x, weights[node.name]["codebook"])
            case BatchNorm() | LayerNorm() | GroupNorm() | Scale():
                return self._normalized(op, x, weights[node.name])
            case (
                Dropout()
                | SpatialDropout()
                | DropPath()
                | GaussianNoise()
                | MaskingNoise()
                | Sample()
            ):
                raise AssertionError(f"{op.op} is one of the parts")
            case _:
                assert_never(op)

    def _activated(self, node: Node, op: Activate, x: Any) -> jax.Array:
        if isinstance(x, batch_norm.Pending):
            return x  # type: ignore[return-value]  # read by a convolution only
        done = node.inputs[0] in self.lowering.activated
        y = x if done else self._finished(x, op.activation, {})
        return self.lowering.keep(y, costly=op.activation in COSTLY)

    def _normalized(
        self,
        op: BatchNorm | LayerNorm | GroupNorm | Scale,
        x: jax.Array,
        weights: Mapping[str, jax.Array],
    ) -> jax.Array:
        match op:
            case BatchNorm():  # frozen
                return batch_norm.normalize(self.lowering.summation, x, **weights, relu=None)
            case LayerNorm():
                return self.lowering.layer_norm(x, weights, op.epsilon)
            case GroupNorm():
                places = self.lowering.axes
                return norm.scaled(
                    norm.standardized_groups(x, op.groups, places, op.epsilon), weights
                )
            case Scale():
                if op.per == "all":
                    return x * weights["scale"]
                return norm.scaled(x, weights) if op.trainable else x * op.value
            case _:
                assert_never(op)

    def _rearranged(self, node: Node, op: Rearrangement, x: jax.Array) -> jax.Array:
        """Moves, repeats or removes values."""
        lowering = self.lowering
        match op:
            case Upscale():
                return lowering.upscale(node, x)
            case Flatten() | Reshape():
                y = self._vectors(node, x).reshape(-1, *node.layout.shape)
                return lowering.to_layout(y) if len(node.layout.shape) == 3 else y
            case Permute():
                return lowering.to_layout(lowering.from_layout(x).transpose(0, *op.order))
            case Slice():
                return x[..., op.start : op.start + op.size]
            case ZeroPad():
                return jnp.pad(x, pad_widths(op.padding, op.channels, lowering.axes))
            case Crop():
                return x[crop_slices(pad_widths(op.cropping, axes=lowering.axes))]
            case ChannelShuffle():
                return shuffled(x, op.groups)
            case SpaceToDepth() | DepthToSpace():
                return moved_blocks(op, x, lowering.axes)
            case _:
                assert_never(op)

    def _extended(self, node: Node, op: MaxPool | AvgPool, x: jax.Array, value: float) -> jax.Array:
        """Pads images so that all windows are complete."""
        pads, widths = op.reach(node.in_shapes[0]), [(0, 0)] * x.ndim
        for axis, pad in zip(self.lowering.axes, pads, strict=True):
            widths[axis] = pad
        return jnp.pad(x, widths, constant_values=value) if any(map(any, widths)) else x

    def _shared(self, node: Node, op: AvgPool, y: jax.Array) -> jax.Array:
        """Means over the values that count, from means over whole windows."""
        shares = op.shares(node.in_shapes[0])
        if shares is None:
            return y
        axes = tuple(i for i in range(y.ndim) if i not in self.lowering.axes)
        return y * jnp.expand_dims(jnp.asarray(shares, y.dtype), axes)

    def _product(self, node: Node, inputs: Sequence[jax.Array]) -> jax.Array:
        """Product; a vector or a 1x1 image multiplies every position of an image."""
        if len(set(node.in_shapes)) == 1:
            return layout.elementwise(_multiplied, *inputs)
        axes = self.lowering.axes
        factors = [x if x.ndim == 4 else jnp.expand_dims(x, axes) for x in inputs]
        if axes != (0, 1):
            return _multiplied(*factors)
        return layout.unfold_channels(
            _multiplied(*map(layout.fold_channels, factors)), factors[0].shape[2:]
        )

    def _vectors(self, node: Node, x: jax.Array) -> jax.Array:
        """Flattens images to vectors, in the order height, width, channels."""
        images = self.lowering.from_layout(x) if len(node.in_shapes[0]) == 3 else x
        return images.reshape(images.shape[0], -1)

    def _finish_pooled(self, node: Node, y: jax.Array, weights: LayerParams) -> jax.Array:
        """Applies bias and activation that were deferred from a convolution to its pool."""
        source = self.lowering.deferred.get(node.name)
        if source is None:
            return y
        op = self.plan.by_name[source].op
        assert isinstance(op, Conv)
        finished = self._finished(y, op.activation, weights[source])
        return self.lowering.keep(finished, costly=False)

    def _finished(
        self,
        z: jax.Array,
        activation: str,
        weights: Mapping[str, jax.Array],
        repeat: Callable[[jax.Array, jax.Array], jax.Array] = layout.repeat_channels,
    ) -> jax.Array:
        """Adds the bias, if there is one, and applies an activation."""
        in_c = self.lowering.in_c.get(activation)
        if in_c and z.dtype == jnp.float32 and (activation != "linear" or "bias" in weights):
            return in_c(z, weights.get("bias", jnp.zeros(z.shape[-1], z.dtype)))
        values = layout.fold_channels(z)
        if "bias" in weights:
            values = values + repeat(weights["bias"], z)
        return ACTIVATIONS[activation](values).reshape(z.shape)


def _largest(x: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Maximum over height and width; in ties, the first one gets the gradient.

    The gradient of XLA's maximum would be distributed among them.
    """
    flat = x.reshape(*x.shape[: axes[0]], -1, *x.shape[axes[1] + 1 :])
    place = jax.lax.broadcasted_iota(jnp.int32, flat.shape, axes[0])
    first = flat.argmax(axes[0], keepdims=True)
    return jnp.where(place == first, flat, 0).sum(axes[0])


def _multiplied(*factors: jax.Array) -> jax.Array:
    return reduce(jnp.multiply, factors)


def _is_product(op: Conv | ConvTranspose) -> bool:
    """True if the gradient of the outputs is computed before its sum, for a matrix product."""
    return isinstance(op, Conv) and op.kernel == op.stride == (1, 1)


def _sloped(x: jax.Array, slopes: jax.Array) -> jax.Array:
    """Multiplies negative values by a slope, (1,), or a slope per channel, (c,)."""
    values = layout.fold_channels(x)
    factors = layout.repeat_channels(slopes, x) if slopes.size > 1 else slopes
    return jnp.where(values >= 0, values, values * factors).reshape(x.shape)


def _order(
    plan: Plan, lowering: Lowering, cut: Microbatching | None
) -> tuple[tuple[Unit, ...], tuple[Loop, ...]]:
    """The layers in the order of execution, and the blocks of them that run as loops.

    A loop copies what its backward pass needs, so only deep networks have loops. XLA's own
    convolutions are slow inside loops on CPUs, unless it calls YNNPACK.
    """
    units = [stage.nodes for stage in stages(plan)] if cut else [(node,) for node in plan.nodes]
    if type(lowering) is Plain:
        return tuple(units), ()
    normed = {node.inputs[0] for node in plan.nodes if node.op.uses_batch}
    last = {node.name for node in units[-1]}

    def key(node: Node) -> Hashable:
        return lowering.key(node), node.name in normed, node.name in last

    loops = find_loops(plan, units, key)
    pays = sum(loop.saved for loop in loops) >= LEAST_SAVED
    return tuple(units), loops if pays else ()


def _nodes(units: Iterable[Unit]) -> list[Node]:
    return [node for unit in units for node in unit]


def _owns(node: Node) -> bool:
    """True for layers with parameters, except for batch norms in training mode."""
    return bool(node.params) and not node.op.uses_batch


def _weights(plan: Plan, node: Node, rngs: nnx.Rngs) -> nnx.Dict[nnx.Variable[jax.Array]]:
    """Initial parameters of a layer, with the running statistics of a frozen batch norm."""
    if isinstance(node.op, BatchNorm):
        values = batch_norm.initial(node.layout.shape[-1], node.layout.params)
        return nnx.Dict({name: Frozen(jnp.asarray(value)) for name, value in values.items()})
    kind = nnx.Param if node.op.is_trained else Frozen
    return nnx.Dict(
        {
            name: kind(jnp.asarray(_initial(plan, name, node, rngs.params())))
            for name in node.layout.params
        }
    )


def _initial(plan: Plan, name: str, node: Node, key: jax.Array) -> Any:
    op, rng = node.op, np.random.default_rng(np.asarray(jax.random.key_data(key)))
    shape = node.layout.params[name]
    if isinstance(op, Scale):
        return np.full(shape, op.value, np.float32)
    if isinstance(op, PReLU):
        return np.full(shape, op.init, np.float32)
    if isinstance(op, PositionEmbedding | ClassToken):
        return rng.normal(0, op.stddev, shape).astype(np.float32)
    if isinstance(op, Attention):
        return initial_kernel(op.init if is_kernel(name) else "zeros", shape, rng)
    if isinstance(op, VectorQuantizer):
        return rng.uniform(-1 / op.codes, 1 / op.codes, shape).astype(np.float32)
    if not isinstance(op, Conv | ConvTranspose | Dense):
        return np.full(shape, float(name == "scale"), np.float32)
    kernel = plan.by_name[node.kernel_owner].layout.params["kernel"]
    if isinstance(op, ConvTranspose):  # has the kernel of its adjoint, (h, w, out, in)
        kernel = (*kernel[:2], kernel[3], kernel[2])
    match op:
        case Conv() | ConvTranspose() | Dense() if name == "bias":
            return initial_bias(op.bias_init, shape[0], kernel, rng)
        case ConvTranspose():
            return np.swapaxes(initial_kernel(op.init, kernel, rng), 2, 3)
        case Conv():
            return initial_kernel(op.init, kernel, rng, op.num_groups(node.in_shapes[0][2]))
        case Dense():
            return initial_kernel(op.init, kernel, rng)
        case _:
            assert_never(op)


def _part(node: Node, rngs: nnx.Rngs, summation: batch_norm.Summation) -> nnx.Module | None:
    """Module of a layer that behaves differently in training; None for other layers."""
    match node.op:
        case (
            Dropout() | SpatialDropout() | DropPath() | GaussianNoise() | MaskingNoise() | Sample()
        ):
            return RandomLayer(node.op, rngs)
        case BatchNorm() as op if op.uses_batch:
            return batch_norm.StableBatchNorm(
                node.layout.shape[-1],
                summation,
                momentum=op.momentum,
                epsilon=op.epsilon,
                use_scale=op.scale,
                use_bias=op.center,
                rngs=rngs,
            )
        case _:
            return None
