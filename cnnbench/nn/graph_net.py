"""A `Plan` to an `nnx.Module`."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnbench.graph.autoencoder import decoder
from cnnbench.graph.plan import Node, Plan
from cnnbench.layers import (
    Activate,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Flatten,
    GaussianNoise,
    GlobalAvgPool,
    GlobalMaxPool,
    MaskingNoise,
    MaxPool,
    Multiply,
    Reshape,
    Sample,
    Slice,
    Upscale,
)
from cnnbench.layers.base import INPUT, Shape
from cnnbench.nn.initializers import initial_kernel
from cnnbench.nn.lowering import lower
from cnnbench.nn.microbatch import Head, Microbatching, sum_in_rows
from cnnbench.nn.noise import RandomLayer, disturb, divergence
from cnnbench.nn.ops import batch_norm, convolution, dense, layout
from cnnbench.nn.ops.dense import LayerParams
from cnnbench.nn.result import Result

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda x: x,
    "relu": nnx.relu,
    "tanh": jnp.tanh,
    "sigmoid": nnx.sigmoid,
    "leaky_relu": nnx.leaky_relu,
    "elu": nnx.elu,
    "gelu": nnx.gelu,
    "silu": nnx.silu,
    "softplus": nnx.softplus,
}
COSTLY = frozenset({"tanh", "sigmoid", "elu", "gelu", "silu", "softplus"})


class GraphNet(nnx.Module):
    """A network of named layers.

    Args:
      plan: the checked graph.
      form: which algorithms compute convolutions and pooling.
      rngs: keys; ``params`` draws the kernels, ``dropout`` the masks.
      cut: for training with batch statistics; None leaves batches whole.

    Attributes:
      weights: kernel and bias by layer; a tied layer has only its bias, and
        reads its owner's kernel, so that no parameter stands in two places.
      parts: modules, by layer, for what is different in training.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        form: convolution.Form,
        rngs: nnx.Rngs,
        cut: Microbatching | None = None,
    ) -> None:
        self.plan = nnx.static(plan)
        self.lowering = nnx.static(lower(plan, form))
        self.cut = nnx.static(cut)
        self.weights = nnx.Dict({n.name: _weights(n, rngs) for n in plan.nodes if _owns(n)})
        self.parts = nnx.Dict(
            {node.name: part for node in plan.nodes if (part := _part(node, rngs)) is not None}
        )

    def prepare(self) -> LayerParams:
        """Kernels as the algorithms want them, and biases: what many images share."""
        return {node.name: self._prepare(node) for node in self.plan.nodes}

    def _prepare(self, node: Node) -> dict[str, jax.Array]:
        own: Mapping[str, Any] = self.weights.get(node.name, {})
        values = {key: own[key][...] for key in own}
        if isinstance(node.op, Conv | ConvTranspose):
            kernel = self.weights[node.kernel_owner]["kernel"][...]
            values["kernel"] = self.lowering.prepare(node, kernel)
        if isinstance(node.op, Dense):
            values[dense.KERNEL] = values.pop("kernel")
        return values

    def __call__(self, x: jax.Array, prepared: LayerParams | None = None) -> jax.Array:
        """Runs the network.

        Args:
          x: images, (n, height, width, channels).
          prepared: what `prepare` gave, so that many calls share it.

        Returns:
          (n, *output shape of the plan).
        """
        weights = self.prepare() if prepared is None else prepared
        return self.leave(self._values(x, weights)[self.plan.output])

    def result(
        self, x: jax.Array, prepared: LayerParams | None = None, numbers: jax.Array | None = None
    ) -> Result:
        """As a call, with what else the loss is made of.

        Args:
          x: images, (n, height, width, channels).
          prepared: what `prepare` gave, so that many calls share it.
          numbers: of the images, (n,), which random layers draw by; places in `x` if None.
        """
        weights = self.prepare() if prepared is None else prepared
        return self.result_of(self._values(x, weights, numbers))

    def result_of(self, values: Mapping[str, jax.Array]) -> Result:
        """What the loss is made of, from the values of `Plan.ends`."""
        return Result(
            self.leave(values[self.plan.output]),
            {
                node.name: self._divergence(*[values[name] for name in node.inputs])
                for node in self.plan.samples
            },
        )

    def _divergence(self, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
        axes = (*self.lowering.axes, -1) if mean.ndim == 4 else (-1,)
        return divergence(mean, log_variance, axes)

    def activations(self, x: jax.Array) -> dict[str, jax.Array]:
        """What each layer gives, (n, *its shape), by name; of the form `plain` only.

        The other forms compute layers together, and some of these values never.
        """
        values = self._values(x, self.prepare())
        return {node.name: values[node.name] for node in self.plan.nodes}

    def output_from(self, layer: str, values: jax.Array) -> jax.Array:
        """The result from a layer's values, (n, *its shape), which are all that it needs."""
        nodes = decoder(self.plan, layer)
        assert nodes is not None
        start = self.enter(values) if values.ndim == 4 else values
        numbers = jnp.arange(values.shape[0])
        found = self._run(nodes, {layer: start}, self.prepare(), numbers)
        return self.leave(found[self.plan.output])

    def _values(
        self, x: jax.Array, weights: LayerParams, numbers: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Every layer's result by name, in the layout of the operations."""
        numbers = jnp.arange(x.shape[0]) if numbers is None else numbers
        return self._run(self.plan.nodes, {INPUT: self.enter(x)}, weights, numbers)

    def _run(
        self,
        nodes: Sequence[Node],
        values: dict[str, jax.Array],
        weights: LayerParams,
        numbers: jax.Array,
    ) -> dict[str, jax.Array]:
        """Values with those of some layers."""
        for node in nodes:
            inputs = [values[name] for name in node.inputs]
            part = self.parts.get(node.name)
            if isinstance(part, RandomLayer):
                values[node.name] = self._disturbed(node, part, inputs, numbers)
            elif part:
                # Running statistics stay in float32, and must not make a bfloat16 network one.
                values[node.name] = part(*inputs).astype(inputs[0].dtype)
            else:
                values[node.name] = self.apply(node, inputs, weights)
        return values

    def _disturbed(
        self, node: Node, part: RandomLayer, inputs: Sequence[jax.Array], numbers: jax.Array
    ) -> jax.Array:
        """The result of a random layer, in the layout of the operations."""
        if not part.active:
            return inputs[0]
        drawn = part.draw((len(numbers), *node.layout.shape), numbers)
        if drawn.ndim != 4:
            return disturb(part.op, drawn, *inputs)
        return self.lowering.materialize(disturb(part.op, self.enter(drawn), *inputs))

    def sum_of(
        self,
        x: jax.Array,
        prepared: LayerParams,
        head: Head,
        others: tuple[jax.Array, ...],
        numbers: jax.Array | None = None,
    ) -> jax.Array:
        """A sum over images in training, such as that of their losses.

        Args:
          x: images, (n, height, width, channels).
          prepared: what `prepare` gave.
          head: a number from the `Result` for some images, and from `others` for them.
          others: what else it needs, such as targets, (n, ...) each.
          numbers: as in `result`; where the network cuts the batch itself, `x` is all of it.
        """
        if self.cut:
            return sum_in_rows(self, x, prepared, self.cut, head, others)
        return head(self.result(x, prepared, numbers), *others)

    def enter(self, x: jax.Array) -> jax.Array:
        """Images in the layout of the operations."""
        return self.lowering.enter(x)

    def leave(self, result: jax.Array) -> jax.Array:
        """The result in the layout of images, if it is one."""
        return self.lowering.leave(result) if len(self.plan.output_shape) == 3 else result

    def apply(self, node: Node, inputs: Sequence[jax.Array], weights: LayerParams) -> jax.Array:
        """Any layer but those in `parts`, on inputs in the layout of the operations."""
        x, op, lowering = inputs[0], node.op, self.lowering
        match op:
            case Conv() | ConvTranspose():
                z = lowering.convolve(node, x, weights[node.name]["kernel"])
                waits = node.name in lowering.deferred.values()
                return z if waits else _finish(z, op.activation, weights[node.name])
            case Dense():
                z = dense.multiply(self._vectors(node, x), weights[node.name])
                return _finish(z, op.activation, weights[node.name])
            case MaxPool():
                y = lowering.max_pool(x, op.size, op.stride or op.size)
                return self._finish_pooled(node, y, weights)
            case AvgPool():
                return lowering.avg_pool(x, op.size, op.stride or op.size)
            case Upscale():
                return lowering.upscale(node, x)
            case Flatten() | Reshape():
                y = self._vectors(node, x).reshape(-1, *node.layout.shape)
                return lowering.enter(y) if len(node.layout.shape) == 3 else y
            case Concat():
                return jnp.concatenate(inputs, axis=-1)
            case Add():
                return layout.each(lambda first, *others: sum(others, first), *inputs)
            case Multiply():
                return self._product(node, inputs)
            case Activate():
                y = layout.each(ACTIVATIONS[op.activation], x)
                return lowering.materialize(y) if op.activation in COSTLY and y.ndim == 4 else y
            case GlobalAvgPool():
                return x.mean(axis=lowering.axes)
            case GlobalMaxPool():
                return _largest(x, lowering.axes)
            case Slice():
                return x[..., op.start : op.start + op.size]
            case Dropout() | GaussianNoise() | MaskingNoise() | Sample() | BatchNorm():
                raise AssertionError(f"{op.op} is one of the parts")
            case _:
                assert_never(op)

    def _product(self, node: Node, inputs: Sequence[jax.Array]) -> jax.Array:
        """A vector, or an image of one place, multiplies every place of an image."""
        if len(set(node.in_shapes)) == 1:
            return layout.each(_multiplied, *inputs)
        axes = self.lowering.axes
        factors = [x if x.ndim == 4 else jnp.expand_dims(x, axes) for x in inputs]
        if axes != (0, 1):
            return _multiplied(*factors)
        return layout.unfold_channels(
            _multiplied(*map(layout.fold_channels, factors)), factors[0].shape[2:]
        )

    def _vectors(self, node: Node, x: jax.Array) -> jax.Array:
        """A vector for each image, in the order height, width, channel."""
        images = self.lowering.leave(x) if len(node.in_shapes[0]) == 3 else x
        return images.reshape(images.shape[0], -1)

    def _finish_pooled(self, node: Node, y: jax.Array, weights: LayerParams) -> jax.Array:
        """The bias and activation that a pooled convolution left out."""
        source = self.lowering.deferred.get(node.name)
        if source is None:
            return y
        op = self.plan.by_name[source].op
        assert isinstance(op, Conv)
        return _finish(y, op.activation, weights[source])


def _largest(x: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Maximum over height and width; of equal values the first takes the gradient.

    The gradient of XLA's own maximum would be shared out among them.
    """
    flat = x.reshape(*x.shape[: axes[0]], -1, *x.shape[axes[1] + 1 :])
    place = jax.lax.broadcasted_iota(jnp.int32, flat.shape, axes[0])
    first = flat.argmax(axes[0], keepdims=True)
    return jnp.where(place == first, flat, 0).sum(axes[0])


def _multiplied(*factors: jax.Array) -> jax.Array:
    return reduce(jnp.multiply, factors)


def _finish(z: jax.Array, activation: str, weights: Mapping[str, jax.Array]) -> jax.Array:
    values = layout.fold_channels(z)
    if "bias" in weights:
        values = values + layout.spread(weights["bias"], z)
    return ACTIVATIONS[activation](values).reshape(z.shape)


def _owns(node: Node) -> bool:
    return bool(node.layout.params) and not isinstance(node.op, BatchNorm)


def _weights(node: Node, rngs: nnx.Rngs) -> nnx.Dict[nnx.Param[jax.Array]]:
    """Kernel by the layer's initialiser, bias zero."""
    return nnx.Dict(
        {
            name: nnx.Param(_initial(name, node, shape, rngs.params()))
            for name, shape in node.layout.params.items()
        }
    )


def _initial(name: str, node: Node, shape: Shape, key: jax.Array) -> jax.Array:
    if name != "kernel":
        return jnp.asarray(np.zeros(shape, np.float32))
    init = getattr(node.op, "init", "zeros")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    if isinstance(node.op, ConvTranspose):
        # Its kernel is that of the adjoint, (h, w, out, in), and it reads the last axis.
        return jnp.asarray(
            np.swapaxes(initial_kernel(init, (*shape[:2], shape[3], shape[2]), rng), 2, 3)
        )
    return jnp.asarray(initial_kernel(init, shape, rng))


def _part(node: Node, rngs: nnx.Rngs) -> nnx.Module | None:
    """A module for the layers that behave differently in training."""
    match node.op:
        case Dropout() | GaussianNoise() | MaskingNoise() | Sample():
            return RandomLayer(node.op, rngs)
        case BatchNorm(momentum=momentum, epsilon=epsilon):
            channels = node.layout.shape[-1]
            return batch_norm.StableBatchNorm(
                channels, momentum=momentum, epsilon=epsilon, rngs=rngs
            )
        case _:
            return None
