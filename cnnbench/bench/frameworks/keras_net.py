"""A `Plan` as a functional Keras model; import it after Keras' backend is chosen."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, assert_never

import keras
from keras import layers, ops

from cnnbench.data.scaling import Scaling
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
    output_of,
)
from cnnbench.layers.activation import Activation
from cnnbench.layers.attention import sincos2d
from cnnbench.layers.base import Shape
from cnnbench.layers.correlation import ConvGeometry
from cnnbench.layers.reshape import Rearrangement, pad_widths
from cnnbench.system.arrays import Array, LayerWeights

Tensor = Any
Made = Mapping[str, keras.Layer]
Params = dict[str, dict[str, keras.Variable]]


def _entry(scaling: Scaling) -> keras.Layer:
    """The layer that scales the pixels."""
    if not scaling.mean:
        return layers.Rescaling(1 / scaling.pixel_scale)
    variance = scaling.divisors.astype(float) ** 2
    return layers.Normalization(mean=scaling.offsets, variance=variance)


def build_model(
    plan: Plan, weights: LayerWeights, scaling: Scaling, seed: int
) -> tuple[keras.Model, Params]:
    """The model, and its parameters by our names, in our layout, which is also Keras'.

    Args:
      plan: the layers.
      weights: initial parameters.
      scaling: scaling of the pixel values.
      seed: seed of dropout.
    """
    pixels = keras.Input(plan.input_shape, dtype="uint8")
    values: list[Tensor] = [_entry(scaling)(pixels)]
    made: dict[str, keras.Layer] = {}
    for number, (node, read) in enumerate(zip(plan.nodes, sources(plan), strict=True)):
        inputs = [values[i] for i in read]
        made[node.name], result = _apply(plan, node, inputs, made, seed + number)
        values.append(result)
    params = {n.name: _params(n, made[n.name]) for n in plan.nodes if n.params}
    for layer, named in params.items():
        for key, variable in named.items():
            variable.assign(weights[layer][key])
    return keras.Model(pixels, values[output_number(plan)]), params


def _params(node: Node, layer: keras.Layer) -> dict[str, keras.Variable]:
    names = {"scale": "gamma"}
    if isinstance(node.op, BatchNorm | LayerNorm | GroupNorm):
        names["bias"] = "beta"
    return {key: getattr(layer, names.get(key, key)) for key in node.layout.params}


def _apply(
    plan: Plan, node: Node, inputs: list[Tensor], made: Made, seed: int
) -> tuple[keras.Layer, Tensor]:
    """The layer of a node, and its output for given inputs."""
    x, op = inputs[0], node.op
    if isinstance(op, Conv) and isinstance(op.padding, tuple):
        x = layers.ZeroPadding2D(op.padding)(x)
    if isinstance(op, Dense) and len(node.in_shapes[0]) == 3:
        x = layers.Flatten()(x)
    layer = made.get(node.owner) or _layer(plan, node, made, seed)
    return layer, layer(inputs if op.merges else x)


def _layer(plan: Plan, node: Node, made: Made, seed: int) -> keras.Layer:
    op, activation = node.op, _ACTIVATIONS[activation_of(node.op)]
    if isinstance(op, Rearrangement):
        return _rearranged(node, op)
    match op:
        case Conv():
            return layers.Conv2D(
                op.filters,
                op.kernel,
                op.stride,
                padding=op.padding if isinstance(op.padding, str) else "valid",
                dilation_rate=op.dilation,
                groups=op.num_groups(node.in_shapes[0][2]),
                activation=activation,
                use_bias=op.use_bias,
            )
        case ConvTranspose():
            return _conv_transpose(plan, node, op, made)
        case Dense():
            return layers.Dense(op.units, activation=activation, use_bias=op.use_bias)
        case MaxPool() | AvgPool():
            return _pool(op, node.in_shapes[0])
        case Dropout() | SpatialDropout() | DropPath() | GaussianNoise() | MaskingNoise():
            return _random_layer(op, node.layout.shape, seed)
        case Sample() | VectorQuantizer():
            raise AssertionError(f"{op.op} is rejected by make_trainer")
        case Concat():
            return layers.Concatenate()
        case Add():
            return layers.Add()
        case Multiply():
            return layers.Multiply()
        case Activate():
            return layers.Activation(activation)
        case Attention():
            return KerasAttention(op.heads, op.use_bias)
        case PositionEmbedding():
            return KerasPositions(None if node.layout.params else sincos2d(node.layout.shape))
        case ClassToken():
            return KerasClassToken()
        case PReLU():
            return LearnedSlope(node.layout.params["slope"])
        case Softmax():
            return layers.Softmax()
        case BatchNorm():
            return layers.BatchNormalization(
                momentum=op.momentum, epsilon=op.epsilon, center=op.center, scale=op.scale
            )
        case LayerNorm():
            return layers.LayerNormalization(-1, op.epsilon, center=op.center, scale=op.scale)
        case GroupNorm():
            return layers.GroupNormalization(
                op.groups, epsilon=op.epsilon, center=op.center, scale=op.scale
            )
        case Scale():
            if op.trainable:
                return LearnedScale(node.layout.params["scale"])
            return layers.Rescaling(op.value)
        case GlobalAvgPool():
            return layers.GlobalAveragePooling2D()
        case GlobalMaxPool():  # ties share the gradient; ours gives it to the first
            return layers.GlobalMaxPooling2D()
        case _:
            assert_never(op)


def _rearranged(node: Node, op: Rearrangement) -> keras.Layer:
    """The layer of a node that moves, repeats or removes values."""
    match op:
        case Upscale():
            return layers.UpSampling2D(op.size)
        case Slice():
            return layers.Lambda(lambda x: x[..., op.start : op.start + op.size])
        case ZeroPad():
            widths = pad_widths(op.padding, op.channels)
            return layers.Lambda(partial(ops.pad, pad_width=widths))
        case Crop():
            top, bottom, left, right = op.cropping
            return layers.Cropping2D(((top, bottom), (left, right)))
        case ChannelShuffle() | SpaceToDepth() | DepthToSpace():
            return layers.Lambda(partial(_regrouped, *_moves(op, node.in_shapes[0])))
        case Flatten():
            return layers.Flatten()
        case Reshape():
            return layers.Reshape(op.shape)
        case Permute():
            return layers.Permute(op.order)
        case _:
            assert_never(op)


def _random_layer(
    op: Dropout | SpatialDropout | DropPath | GaussianNoise | MaskingNoise, shape: Shape, seed: int
) -> keras.Layer:
    match op:
        case Dropout():
            return layers.Dropout(op.rate, seed=seed)
        case SpatialDropout():
            return layers.SpatialDropout2D(op.rate, seed=seed)
        case DropPath():
            one_per_image = (None, *op.drawn_shape(shape))
            return layers.Dropout(op.rate, noise_shape=one_per_image, seed=seed)
        case GaussianNoise():
            return layers.GaussianNoise(op.stddev, seed=seed)
        case MaskingNoise():
            return Mask(op.rate, seed)
        case _:
            assert_never(op)


def _pool(op: MaxPool | AvgPool, shape: Shape) -> keras.Layer:
    """Pooling; Keras has neither `ceil_mode` nor numbers of rows to add."""
    extended = any(map(any, op.reach(shape)))
    counted = isinstance(op, AvgPool) and op.count_include_pad and extended
    if isinstance(op.padding, str) and not (op.ceil_mode or counted):
        kind = layers.MaxPooling2D if isinstance(op, MaxPool) else layers.AveragePooling2D
        return kind(op.size, op.stride, padding=op.padding)
    return layers.Lambda(partial(_pooled, op=op, shape=shape))


def _pooled(x: Any, *, op: MaxPool | AvgPool, shape: Shape) -> Any:
    widths = ((0, 0), *op.reach(shape), (0, 0))
    if isinstance(op, MaxPool):
        padded = ops.pad(x, widths, constant_values=-math.inf)
        return ops.max_pool(padded, op.size, op.steps)
    shares = op.shares(shape)
    mean = ops.average_pool(ops.pad(x, widths), op.size, op.steps)
    return mean if shares is None else mean * shares[:, :, None].astype("float32")


def _moves(
    op: ChannelShuffle | SpaceToDepth | DepthToSpace, shape: Shape
) -> tuple[Shape, Shape, Shape]:
    """Sizes and order of the axes into which images are split, and the output shape."""
    (height, width, channels), out = shape, output_of(op, (shape,)).shape
    match op:
        case ChannelShuffle(groups=groups):
            return (height, width, groups, channels // groups), (0, 1, 2, 4, 3), out
        case SpaceToDepth(size=size):
            split = (out[0], size, out[1], size, channels)
            return split, (0, 1, 3, 5, 2, 4), out
        case DepthToSpace(size=size):
            return (height, width, out[2], size, size), (0, 1, 4, 2, 5, 3), out
        case _:
            assert_never(op)


def _regrouped(split: Shape, order: Shape, out: Shape, x: Tensor) -> Tensor:
    """Split the axes of images, reorder them, and merge them to another shape."""
    return ops.reshape(ops.transpose(ops.reshape(x, (-1, *split)), order), (-1, *out))


def _conv_transpose(plan: Plan, node: Node, op: ConvTranspose, made: Made) -> keras.Layer:
    """Keras' own layer if it is the required adjoint, otherwise `KerasTransposedConv`."""
    numbers, filters = geometry(plan, node), node.layout.shape[2]
    activation = _ACTIVATIONS[op.activation]
    wide = all(k >= s for k, s in zip(numbers.kernel, numbers.stride, strict=True))
    if op.tie is None and isinstance(op.padding, str) and wide:
        return layers.Conv2DTranspose(
            filters,
            numbers.kernel,
            numbers.stride,
            padding=op.padding,
            activation=activation,
            use_bias=op.use_bias,
        )
    return KerasTransposedConv(
        made[op.tie] if op.tie else None, numbers, filters, activation, op.use_bias
    )


class LearnedScale(keras.layers.Layer):
    """Product with learned factors, (c,) or (1,)."""

    def __init__(self, factors: Shape) -> None:
        super().__init__()
        self.factors = factors

    def build(self, _shape: tuple[int | None, ...]) -> None:
        """Create the factors."""
        self.gamma = self.add_weight(shape=self.factors, initializer="ones", name="gamma")

    def call(self, x: Tensor) -> Tensor:
        """Apply the module."""
        return x * self.gamma


class LearnedSlope(keras.layers.Layer):
    """Product of negative values with learned slopes, (c,) or (1,), unlike (1, 1, c) in Keras."""

    def __init__(self, slopes: Shape) -> None:
        super().__init__()
        self.slopes = slopes

    def build(self, _shape: tuple[int | None, ...]) -> None:
        """Create the slopes."""
        self.slope = self.add_weight(shape=self.slopes, name="slope")

    def call(self, x: Tensor) -> Tensor:
        """Apply the module."""
        return ops.relu(x) - self.slope * ops.relu(-x)


class Mask(keras.layers.Layer):
    """Zeroes values in training without rescaling the others, unlike Keras' Dropout."""

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__()
        self.rate, self.seed_generator = rate, keras.random.SeedGenerator(seed)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        """Apply the module."""
        if not training:
            return x
        drawn = keras.random.uniform(ops.shape(x), seed=self.seed_generator)
        return ops.where(drawn >= self.rate, x, 0)


class KerasAttention(keras.layers.Layer):
    """Multi-head self-attention over the pixels of an image, with one kernel for q, k and v."""

    def __init__(self, heads: int, use_bias: bool) -> None:
        super().__init__()
        self.heads, self.use_bias = heads, use_bias

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the parameters."""
        size = input_shape[-1]
        assert size is not None
        self.kernel = self.add_weight(shape=(size, 3 * size), name="kernel")
        self.out_kernel = self.add_weight(shape=(size, size), name="out_kernel")
        if self.use_bias:
            self.bias = self.add_weight(shape=(3 * size,), name="bias")
            self.out_bias = self.add_weight(shape=(size,), name="out_bias")

    def call(self, x: Tensor) -> Tensor:
        """Apply the module."""
        _, height, width, size = x.shape
        z = ops.matmul(ops.reshape(x, (-1, height * width, size)), self.kernel)
        parts = ops.split(z + self.bias if self.use_bias else z, 3, axis=-1)
        shape = (-1, height * width, self.heads, size // self.heads)
        mixed = ops.dot_product_attention(*[ops.reshape(part, shape) for part in parts])
        y = ops.matmul(ops.reshape(mixed, (-1, height, width, size)), self.out_kernel)
        return y + self.out_bias if self.use_bias else y


class KerasPositions(keras.layers.Layer):
    """Learned or fixed vectors that are added to the pixels of an image."""

    def __init__(self, fixed: Array | None) -> None:
        super().__init__()
        self.fixed = fixed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the parameters."""
        if self.fixed is None:
            self.embedding = self.add_weight(shape=input_shape[1:], name="embedding")

    def call(self, x: Tensor) -> Tensor:
        """Apply the module."""
        return x + (self.embedding if self.fixed is None else ops.convert_to_tensor(self.fixed))


class KerasClassToken(keras.layers.Layer):
    """A learned token before the pixels of an image."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the parameters."""
        self.token = self.add_weight(shape=input_shape[-1:], name="token")

    def call(self, x: Tensor) -> Tensor:
        """Apply the module."""
        _, height, width, channels = x.shape
        pixels = ops.reshape(x, (-1, height * width, 1, channels))
        first = ops.broadcast_to(self.token, ops.shape(pixels[:, :1]))
        return ops.concatenate([first, pixels], axis=1)


class KerasTransposedConv(keras.layers.Layer):
    """The exact adjoint of a convolution of any padding and size, optionally sharing its kernel.

    Args:
      owner: the layer whose kernel is shared; None for a separate kernel.
      numbers: geometry of the convolution.
      filters: number of output channels.
      activation: function applied to the result.
      use_bias: True to add a bias.
    """

    def __init__(
        self,
        owner: keras.Layer | None,
        numbers: ConvGeometry,
        filters: int,
        activation: Callable[[Tensor], Tensor] | None,
        use_bias: bool,
    ) -> None:
        super().__init__()
        self.owner, self.numbers, self.filters = owner, numbers, filters
        self.activation, self.use_bias = activation, use_bias
        self.kernel = self.bias = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the parameters."""
        if self.owner is None:
            shape = (*self.numbers.kernel, self.filters, input_shape[-1])
            self.kernel = self.add_weight(shape=shape, name="kernel")
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), name="bias")

    def call(self, inputs: Tensor) -> Tensor:
        """Outputs (n, *size, filters) for images (n, height, width, channels)."""
        numbers = self.numbers
        kernel = self.kernel if self.owner is None else self.owner.kernel
        full = ops.conv_transpose(inputs, kernel, numbers.stride, padding="valid")
        (top, _), (left, _) = numbers.pads
        height, width = numbers.size
        missing = [max(height + top - full.shape[1], 0), max(width + left - full.shape[2], 0)]
        if any(missing):
            full = ops.pad(full, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
        y = full[:, top : top + height, left : left + width]
        y = y if self.bias is None else y + self.bias
        return y if self.activation is None else self.activation(y)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(n, *size, filters)."""
        return (input_shape[0], *self.numbers.size, self.filters)


_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor] | None] = {
    "linear": None,
    "relu": keras.activations.relu,
    "tanh": keras.activations.tanh,
    "sigmoid": keras.activations.sigmoid,
    "leaky_relu": partial(keras.activations.leaky_relu, negative_slope=0.01),
    "elu": keras.activations.elu,
    "gelu": partial(keras.activations.gelu, approximate=True),
    "silu": keras.activations.silu,
    "softplus": keras.activations.softplus,
    "relu6": keras.activations.relu6,
    "hard_sigmoid": keras.activations.hard_sigmoid,
    "hard_silu": keras.activations.hard_silu,
    "mish": keras.activations.mish,
    "selu": keras.activations.selu,
    "gelu_exact": partial(keras.activations.gelu, approximate=False),
}
