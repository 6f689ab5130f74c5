"""Export of a `Plan` as an ONNX model that takes pixels from 0 to 255.

Between layers images are (n, channels, height, width), the layout of ONNX. Vectors keep our
order, so images are transposed before they are flattened. A tied layer refers to its owner's
kernel, which is stored once.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, assert_never

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

from cnnbench._version import __version__
from cnnbench.analysis.trained_network import TrainedNetwork
from cnnbench.data.scaling import Scaling, TargetScaling
from cnnbench.errors import UsageError
from cnnbench.export.verify import Exported, VerificationImages, description, provenance, verify
from cnnbench.graph.geometry import geometry
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
from cnnbench.layers.activation import Activation
from cnnbench.layers.attention import sincos2d
from cnnbench.layers.base import INPUT, Shape
from cnnbench.layers.conv import conv_pads
from cnnbench.layers.correlation import Pads
from cnnbench.layers.reshape import Rearrangement, channels_first
from cnnbench.runs.weights import Weights
from cnnbench.system import commands

OPSET = 20  # the first with Gelu
IMAGES, OUTPUTS, BATCH = "images", "outputs", "batch"
TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def export_onnx(network: TrainedNetwork, probe: VerificationImages) -> Exported:
    """Export a plan or a Python model to ONNX, verified in onnxruntime."""
    import onnxruntime

    scaling = network.experiment.dataset.scaling
    rows: int | None = None
    if network.plan is None:
        model, rows = _converted(network, probe.images.shape[1:])
    else:
        targets = network.experiment.dataset.target_scaling
        notes = provenance(network)
        model = onnx_model(network.plan, network.weights, scaling, notes, targets)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = verify(network, lambda images: session.run(None, {IMAGES: images})[0], probe, rows)
    checked = f"{found}, in onnxruntime {onnxruntime.__version__}"
    lines = description(network, probe, str(rows or BATCH), checked)
    return Exported(content, (*lines, f"opset    {OPSET}"))


def onnx_model(
    plan: Plan,
    weights: Weights,
    scaling: Scaling,
    notes: Mapping[str, str],
    targets: TargetScaling | None = None,
) -> onnx.ModelProto:
    """The network in evaluation mode as an ONNX model.

    Its input is ``images``, uint8 (batch, height, width, channels), its output ``outputs``,
    float32 (batch, *output shape of the plan), for any batch size.

    Args:
      plan: the layers.
      weights: arrays by name, such as ``conv1.kernel``, in our layout.
      scaling: scaling of the pixel values.
      notes: metadata of the model.
      targets: normalization of the targets, which the model undoes; None for none.
    """
    graph = _Graph(plan, weights)
    values = {INPUT: graph.enter(scaling)}
    for node in plan.nodes:
        values[node.name] = _layer(graph, node, [values[name] for name in node.inputs])
    graph.leave(values[plan.output], targets)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, (BATCH, *plan.input_shape))],
            [
                helper.make_tensor_value_info(
                    OUTPUTS, TensorProto.FLOAT, (BATCH, *plan.output_shape)
                )
            ],
            list(graph.constants.values()),
        ),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="cnnbench",
        producer_version=__version__,
    )
    helper.set_model_props(model, dict(notes))
    checker.check_model(model, full_check=True)
    return model


def _converted(network: TrainedNetwork, image_shape: tuple[int, ...]) -> tuple[Any, int | None]:
    """A Python model converted by jax2onnx, and its fixed batch size (None if dynamic).

    Raises:
      UsageError: jax2onnx is not installed, or does not support an operation of the model.
    """
    what = f"{network.path}: '{network.experiment.model.python}' is a Python model"
    if importlib.util.find_spec("jax2onnx") is None:
        install = commands.pip_install("cnnbench[export-python]")
        message = f"{what}, and converting it to ONNX needs the package 'jax2onnx'"
        raise UsageError(f"{message}; run {install}, or use --to stablehlo.")
    import jax
    import jax2onnx
    from jax import export

    rest, reason = ", ".join(map(str, image_shape)), ""
    for rows in (None, 1):  # a Python model may use the batch size, for example by `len(x)`
        shape = export.symbolic_shape(f"{rows or BATCH}, {rest}")
        images = jax.ShapeDtypeStruct(shape, np.uint8)
        try:
            model: Any = jax2onnx.to_onnx(
                network.apply, [images], opset=OPSET, input_names=[IMAGES]
            )
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        else:
            del model.graph.value_info[:]  # some intermediate shapes are wrong
            onnx.helper.set_model_props(model, provenance(network))
            return model, rows
        finally:  # drop programs traced with jax2onnx's own primitives, unknown to XLA
            jax.clear_caches()
    message = f"{what}, which jax2onnx {version('jax2onnx')} cannot convert ({reason})"
    raise UsageError(f"{message}; use --to stablehlo.")


@dataclass(slots=True)
class _Graph:
    """ONNX nodes under construction, named after their layers, such as ``conv1.Relu``."""

    plan: Plan
    weights: Weights
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, kind: str, layer: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        name = f"{layer}.{kind}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def learned(self, layer: str, key: str) -> str:
        """Add a parameter; convolution kernels are transposed to (out, in, height, width)."""
        name = f"{layer}.{key}"
        value = self.weights[name]
        return self.constant(name, value.transpose(3, 2, 0, 1) if value.ndim == 4 else value)

    def factor(self, node: Node, key: str) -> str:
        """Add scale or bias of a normalization; ones or zeros if the layer has none."""
        if key in node.layout.params:
            return self.learned(node.owner, key)
        values = np.full(node.layout.shape[-1], float(key == "scale"), np.float32)
        return self.constant(f"{node.name}.{key}", values)

    def per_channel(self, node: Node, key: str) -> str:
        """Add a parameter with one value per channel of images or per unit of vectors."""
        name, image = f"{node.owner}.{key}", len(node.layout.shape) == 3
        value = self.weights[name]
        return self.constant(name, value.reshape(-1, 1, 1) if image else value)

    def bias(self, node: Node) -> list[str]:
        """The bias, if the layer has one."""
        return [self.learned(node.owner, "bias")] if "bias" in node.layout.params else []

    def enter(self, scaling: Scaling) -> str:
        """Add the scaling of pixels to floats, channels first."""
        floats = self.add("Cast", INPUT, IMAGES, to=TensorProto.FLOAT)
        if scaling.mean:
            offset = self.constant(f"{INPUT}.offset", scaling.offsets)
            floats = self.add("Sub", INPUT, floats, offset)
        scale = self.constant(f"{INPUT}.scale", scaling.divisors)
        return self.add(
            "Transpose", INPUT, self.add("Div", INPUT, floats, scale), perm=TO_CHANNELS_FIRST
        )

    def leave(self, x: str, targets: TargetScaling | None) -> None:
        """Add the output, in our layout; targets in their own unit."""
        kind, options = "Identity", dict[str, Any]()
        if targets:
            std, mean = (np.array(each, np.float32) for each in (targets.std, targets.mean))
            x = self.add("Mul", OUTPUTS, x, self.constant(f"{OUTPUTS}.std", std))
            x = self.add("Add", OUTPUTS, x, self.constant(f"{OUTPUTS}.mean", mean))
        if len(self.plan.output_shape) == 3:
            kind, options = "Transpose", {"perm": TO_CHANNELS_LAST}
        self.nodes.append(helper.make_node(kind, [x], [OUTPUTS], OUTPUTS, **options))

    def vector(self, node: Node, x: str) -> str:
        """A layer's input flattened per image, in the order height, width, channel."""
        if len(node.in_shapes[0]) == 1:
            return x
        last = self.add("Transpose", node.name, x, perm=TO_CHANNELS_LAST)
        return self.add("Flatten", node.name, last)

    def _bounds(self, layer: str, *bounds: float) -> list[str]:
        names = (f"{layer}.least", f"{layer}.most")
        pairs = zip(names, bounds, strict=True)
        return [self.constant(name, np.array(bound, np.float32)) for name, bound in pairs]

    def activate(self, node: Node, x: str, activation: Activation) -> str:
        """Add an activation function."""
        layer = node.name
        match activation:
            case "linear":
                return x
            case "relu":
                return self.add("Relu", layer, x)
            case "tanh":
                return self.add("Tanh", layer, x)
            case "sigmoid":
                return self.add("Sigmoid", layer, x)
            case "leaky_relu":
                return self.add("LeakyRelu", layer, x, alpha=0.01)
            case "elu":
                return self.add("Elu", layer, x)
            case "gelu":
                return self.add("Gelu", layer, x, approximate="tanh")
            case "silu":
                return self.add("Mul", layer, x, self.add("Sigmoid", layer, x))
            case "softplus":
                return self.add("Softplus", layer, x)
            case "relu6":
                return self.add("Clip", layer, x, *self._bounds(layer, 0, 6))
            case "hard_sigmoid":
                return self.add("HardSigmoid", layer, x, alpha=1 / 6, beta=0.5)
            case "hard_silu":
                return self.add("HardSwish", layer, x)
            case "mish":
                return self.add("Mish", layer, x)
            case "selu":
                return self.add("Selu", layer, x)
            case "gelu_exact":
                return self.add("Gelu", layer, x)
            case _:
                assert_never(activation)


def _conv(graph: _Graph, node: Node, x: str, op: Conv) -> str:
    return graph.add(
        "Conv",
        node.name,
        x,
        graph.learned(node.owner, "kernel"),
        *graph.bias(node),
        strides=op.stride,
        pads=_pads(conv_pads(op, node.in_shapes[0], op.extent)),
        dilations=op.dilation,
        group=op.num_groups(node.in_shapes[0][2]),
    )


def _zero_pad(graph: _Graph, name: str, x: str, op: ZeroPad) -> str:
    top, bottom, left, right = op.padding
    first, last = op.channels
    pads = np.array([0, first, top, left, 0, last, bottom, right], np.int64)
    return graph.add("Pad", name, x, graph.constant(f"{name}.pads", pads))


def _crop(graph: _Graph, node: Node, x: str, op: Crop) -> str:
    top, bottom, left, right = op.cropping
    height, width = node.in_shapes[0][:2]
    parts = {"starts": (top, left), "ends": (height - bottom, width - right), "axes": (2, 3)}
    edges = [
        graph.constant(f"{node.name}.{key}", np.array(numbers, np.int64))
        for key, numbers in parts.items()
    ]
    return graph.add("Slice", node.name, x, *edges)


def _regrouped(graph: _Graph, node: Node, x: str, split: Shape, order: Shape) -> str:
    """Split the axes of images (n, c, h, w), reorder them, and merge them to the output shape."""
    name, (height, width, channels) = node.name, node.layout.shape
    shapes = {"split": split, "merged": (channels, height, width)}
    sizes = {
        key: graph.constant(f"{name}.{key}", np.array([-1, *shape], np.int64))
        for key, shape in shapes.items()
    }
    parts = graph.add("Reshape", name, x, sizes["split"])
    moved = graph.add("Transpose", name, parts, perm=order)
    return graph.add("Reshape", f"{name}.merged", moved, sizes["merged"])


def _layer_norm(graph: _Graph, node: Node, x: str, op: LayerNorm) -> str:
    """Layer norm, which normalizes the last axis in ONNX."""
    name, learned = node.name, [graph.factor(node, "scale"), *graph.bias(node)]
    image = len(node.layout.shape) == 3
    last = graph.add("Transpose", f"{name}.last", x, perm=TO_CHANNELS_LAST) if image else x
    y = graph.add("LayerNormalization", name, last, *learned, axis=-1, epsilon=op.epsilon)
    return graph.add("Transpose", f"{name}.first", y, perm=TO_CHANNELS_FIRST) if image else y


def _group_norm(graph: _Graph, node: Node, x: str, op: GroupNorm) -> str:
    """Group norm as instance norm of the groups, as PyTorch exports it."""
    name, (height, width, channels) = node.name, node.layout.shape
    size = channels // op.groups
    split = graph.constant(f"{name}.groups", np.array([0, op.groups, size * height * width]))
    whole = graph.constant(f"{name}.image", np.array([0, channels, height, width]))
    ones, zeros = (
        graph.constant(f"{name}.{key}", np.full(op.groups, value, np.float32))
        for key, value in (("ones", 1), ("zeros", 0))
    )
    y = graph.add("Reshape", f"{name}.split", x, split)
    y = graph.add("InstanceNormalization", name, y, ones, zeros, epsilon=op.epsilon)
    y = graph.add("Reshape", f"{name}.joined", y, whole)
    for kind, key in (("Mul", "scale"), ("Add", "bias")):
        if key in node.layout.params:
            y = graph.add(kind, name, y, graph.per_channel(node, key))
    return y


def _scale(graph: _Graph, node: Node, x: str, op: Scale) -> str:
    factors = (
        graph.per_channel(node, "scale")
        if op.trainable
        else graph.constant(f"{node.name}.factor", np.array(op.value, np.float32))
    )
    return graph.add("Mul", node.name, x, factors)


def _pooled(graph: _Graph, node: Node, x: str, op: MaxPool | AvgPool) -> str:
    """Pooling with explicit padding, because runtimes disagree about `ceil_mode`."""
    image = node.in_shapes[0]
    (top, bottom), (left, right) = op.reach(image)
    window = {"kernel_shape": op.size, "strides": op.steps, "pads": (top, left, bottom, right)}
    if isinstance(op, MaxPool):
        return graph.add("MaxPool", node.name, x, **window)
    y = graph.add("AveragePool", node.name, x, **window, count_include_pad=1)
    shares = op.shares(image)
    if shares is None:
        return y
    return graph.add(
        "Mul", node.name, y, graph.constant(f"{node.name}.shares", shares.astype(np.float32))
    )


def _rearranged(graph: _Graph, node: Node, x: str, op: Rearrangement) -> str:
    """Add a layer that moves, repeats or removes values."""
    name = node.name
    match op:
        case Upscale():
            scales = graph.constant(f"{name}.scales", np.array([1, 1, *op.size], np.float32))
            rule = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            return graph.add("Resize", name, x, "", scales, mode="nearest", **rule)
        case Slice():
            ends = (("starts", op.start), ("ends", op.start + op.size), ("axes", 1))
            numbers = [graph.constant(f"{name}.{key}", np.array([n], np.int64)) for key, n in ends]
            return graph.add("Slice", name, x, *numbers)
        case ZeroPad():
            return _zero_pad(graph, name, x, op)
        case Crop():
            return _crop(graph, node, x, op)
        case ChannelShuffle(groups=groups):
            height, width, channels = node.layout.shape
            grouped = (groups, channels // groups, height, width)
            return _regrouped(graph, node, x, grouped, (0, 2, 1, 3, 4))
        case SpaceToDepth(size=size):  # ONNX' own operation has TensorFlow's order of channels
            height, width, _ = node.layout.shape
            blocks = (node.in_shapes[0][2], height, size, width, size)
            return _regrouped(graph, node, x, blocks, (0, 1, 3, 5, 2, 4))
        case DepthToSpace():
            return graph.add("DepthToSpace", name, x, blocksize=op.size, mode="CRD")
        case Flatten():
            return graph.vector(node, x)
        case Reshape():
            return _reshape(graph, node, graph.vector(node, x), op.shape)
        case Permute():
            return graph.add("Transpose", name, x, perm=channels_first(op.order))
        case _:
            assert_never(op)


def _layer(graph: _Graph, node: Node, inputs: Sequence[str]) -> str:
    """Add a layer and return the name of its result."""
    x, op, name = inputs[0], node.op, node.name
    if isinstance(op, Rearrangement):
        return _rearranged(graph, node, x, op)
    match op:
        case Conv():
            return graph.activate(node, _conv(graph, node, x, op), op.activation)
        case ConvTranspose():
            return graph.activate(node, _conv_transpose(graph, node, x), op.activation)
        case Dense():
            kernel, flat = graph.learned(node.owner, "kernel"), graph.vector(node, x)
            z = graph.add("Gemm", name, flat, kernel, *graph.bias(node))
            return graph.activate(node, z, op.activation)
        case MaxPool() | AvgPool():
            return _pooled(graph, node, x, op)
        case (
            Dropout() | SpatialDropout() | DropPath() | GaussianNoise() | MaskingNoise() | Sample()
        ):
            return x  # the identity in evaluation mode
        case Concat():
            return graph.add("Concat", name, *inputs, axis=1)
        case Add():
            return graph.add("Sum", name, *inputs)
        case Multiply():
            return _product(graph, node, inputs)
        case Activate():
            return graph.activate(node, x, op.activation)
        case VectorQuantizer():
            return _quantized(graph, node, x)
        case Attention():
            return _attention(graph, node, x, op.heads)
        case PositionEmbedding():
            return graph.add("Add", name, x, _positions(graph, node))
        case ClassToken():
            return _after_token(graph, node, x)
        case PReLU():
            return graph.add("PRelu", name, x, graph.per_channel(node, "slope"))
        case Softmax():
            return graph.add("Softmax", name, x, axis=1)
        case BatchNorm():
            factors = [graph.factor(node, key) for key in ("scale", "bias")]
            statistics = [graph.learned(node.owner, key) for key in ("mean", "var")]
            inputs = [x, *factors, *statistics]
            return graph.add("BatchNormalization", name, *inputs, epsilon=op.epsilon)
        case LayerNorm():
            return _layer_norm(graph, node, x, op)
        case GroupNorm():
            return _group_norm(graph, node, x, op)
        case Scale():
            return _scale(graph, node, x, op)
        case GlobalAvgPool():
            return graph.add("Flatten", name, graph.add("GlobalAveragePool", name, x))
        case GlobalMaxPool():
            return graph.add("Flatten", name, graph.add("GlobalMaxPool", name, x))
        case _:
            assert_never(op)


def _positions(graph: _Graph, node: Node) -> str:
    """The vectors of a position embedding, (c, h, w)."""
    owner = node.owner if node.layout.params else node.name
    name = f"{owner}.embedding"
    vectors = graph.weights[name] if node.layout.params else sincos2d(node.layout.shape)
    return graph.constant(name, vectors.transpose(2, 0, 1))


def _after_token(graph: _Graph, node: Node, x: str) -> str:
    """A token and the pixels of images (n, c, h, w), as (n, c, 1 + h * w, 1)."""
    name, channels = node.name, node.layout.shape[2]
    rest = graph.constant(f"{name}.rest", np.array([channels, 1, 1], np.int64))
    sequence = graph.constant(f"{name}.sequence", np.array([0, channels, -1, 1], np.int64))
    source = f"{node.owner}.token"
    token = graph.constant(source, graph.weights[source].reshape(-1, 1, 1))
    batch = graph.add("Shape", name, x, start=0, end=1)
    sizes = graph.add("Concat", f"{name}.sizes", batch, rest, axis=0)
    first = graph.add("Expand", name, token, sizes)
    pixels = graph.add("Reshape", name, x, sequence)
    return graph.add("Concat", name, first, pixels, axis=2)


def _attention(graph: _Graph, node: Node, x: str, heads: int) -> str:
    """Self-attention over the pixels of images (n, c, h, w)."""
    name, (height, width, channels) = node.name, node.layout.shape
    biases = {"kernel": "bias", "out_kernel": "out_bias"}

    def shaped(part: str, values: str, *shape: int) -> str:
        sizes = graph.constant(f"{part}.shape", np.array([-1, *shape], np.int64))
        return graph.add("Reshape", part, values, sizes)

    def projected(part: str, values: str, key: str) -> str:
        product = graph.add("MatMul", part, values, graph.learned(node.owner, key))
        if biases[key] not in node.layout.params:
            return product
        return graph.add("Add", part, product, graph.learned(node.owner, biases[key]))

    def head(part: str, values: str, order: Shape) -> str:
        split = shaped(part, values, height * width, heads, channels // heads)
        return graph.add("Transpose", part, split, perm=order)

    pixels = shaped(f"{name}.pixels", x, channels, height * width)
    sequence = graph.add("Transpose", f"{name}.pixels", pixels, perm=(0, 2, 1))
    inner = projected(f"{name}.in", sequence, "kernel")
    parts = [f"{name}.{part}" for part in ("query", "key", "value")]
    graph.nodes.append(
        helper.make_node("Split", [inner], parts, f"{name}.Split", axis=2, num_outputs=3)
    )
    orders = ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
    query, key, value = (head(part, part, order) for part, order in zip(parts, orders, strict=True))
    scale = graph.constant(f"{name}.scale", np.array((channels // heads) ** -0.5, np.float32))
    scores = graph.add("MatMul", f"{name}.scores", graph.add("Mul", name, query, scale), key)
    shares = graph.add("Softmax", name, scores, axis=-1)
    mixed = graph.add("MatMul", f"{name}.mixed", shares, value)
    merged = graph.add("Transpose", f"{name}.mixed", mixed, perm=(0, 2, 1, 3))
    joined = shaped(f"{name}.mixed", merged, height * width, channels)
    out = projected(f"{name}.out", joined, "out_kernel")
    first = graph.add("Transpose", f"{name}.out", out, perm=(0, 2, 1))
    return shaped(name, first, channels, height, width)


def _conv_transpose(graph: _Graph, node: Node, x: str) -> str:
    """The adjoint of a convolution: cropped by its padding, extended by the rows it dropped."""
    numbers = geometry(graph.plan, node)
    (top, bottom), (left, right) = numbers.pads
    ends = bottom - numbers.remainder[0], right - numbers.remainder[1]
    return graph.add(
        "ConvTranspose",
        node.name,
        x,
        graph.learned(node.kernel_owner, "kernel"),
        *graph.bias(node),
        strides=numbers.stride,
        pads=_pads(((top, max(ends[0], 0)), (left, max(ends[1], 0)))),
        output_padding=[max(-end, 0) for end in ends],
    )


def _quantized(graph: _Graph, node: Node, x: str) -> str:
    """The vector of the codebook with the largest product less half of its squared length."""
    name, image = node.name, len(node.in_shapes[0]) == 3
    codebook = graph.weights[f"{node.owner}.codebook"]
    codes = graph.constant(f"{node.owner}.codebook", codebook)
    across = graph.constant(f"{node.owner}.transposed", codebook.T)
    halves = graph.constant(f"{node.owner}.halves", np.square(codebook).sum(axis=1) / 2)
    vectors = graph.add("Transpose", name, x, perm=TO_CHANNELS_LAST) if image else x
    closeness = graph.add("Sub", name, graph.add("MatMul", name, vectors, across), halves)
    numbers = graph.add("ArgMax", name, closeness, axis=-1, keepdims=0)
    nearest = graph.add("Gather", name, codes, numbers, axis=0)
    # Node names have to be unique, and the input was transposed for this layer.
    return (
        graph.add("Transpose", f"{name}.image", nearest, perm=TO_CHANNELS_FIRST)
        if image
        else nearest
    )


def _product(graph: _Graph, node: Node, inputs: Sequence[str]) -> str:
    """Product of all factors; vectors are broadcast as 1x1 images if the result is an image."""
    rank, name, product = len(node.layout.shape), node.name, ""
    for number, (shape, factor) in enumerate(zip(node.in_shapes, inputs, strict=True), start=1):
        # Node names combine layer and operation and have to be unique, so factors are numbered.
        own = name if number == len(inputs) else f"{name}.{number}"
        if len(shape) < rank:
            axes = graph.constant(f"{name}.axes", np.array([2, 3], np.int64))
            factor = graph.add("Unsqueeze", own, factor, axes)  # noqa: PLW2901
        product = graph.add("Mul", own, product, factor) if product else factor
    return product


def _pads(pads: Pads) -> list[int]:
    """Padding in ONNX order: before rows and columns, then after."""
    return [pads[0][0], pads[1][0], pads[0][1], pads[1][1]]


def _reshape(graph: _Graph, node: Node, vector: str, shape: Shape) -> str:
    if len(shape) == 1:
        return vector
    sizes = graph.constant(f"{node.name}.shape", np.array([-1, *shape], np.int64))
    images = graph.add("Reshape", node.name, vector, sizes)
    # Node names have to be unique, and `vector` may have added a transpose for this layer.
    return graph.add("Transpose", f"{node.name}.image", images, perm=TO_CHANNELS_FIRST)
