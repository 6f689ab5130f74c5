"""A `Plan` or a Python class to an `nnx.Module`: the only place that builds NNX."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, assert_never

import jax
import jax.numpy as jnp
from flax import nnx

from cnnbench import ops
from cnnbench.errors import UsageError
from cnnbench.graph import Node, Plan
from cnnbench.layers import (
    INPUT,
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
    GlobalAvgPool,
    MaxPool,
    Reshape,
    Upscale,
)
from cnnbench.shapes import Shape, conv_pads

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

MONOTONE = frozenset({"linear", "relu", "tanh", "sigmoid", "leaky_relu", "elu", "softplus"})

_INITIALIZERS: Mapping[str, Callable[..., Any]] = {
    "glorot_uniform": nnx.initializers.glorot_uniform(),
    "glorot_normal": nnx.initializers.glorot_normal(),
    "he_uniform": nnx.initializers.he_uniform(),
    "he_normal": nnx.initializers.he_normal(),
    "lecun_uniform": nnx.initializers.lecun_uniform(),
    "lecun_normal": nnx.initializers.lecun_normal(),
    "orthogonal": nnx.initializers.orthogonal(),
    "zeros": nnx.initializers.zeros,
}


class GraphNet(nnx.Module):
    """A network of named layers.

    Args:
      plan: the checked graph.
      form: which algorithms compute convolutions and pooling.
      rngs: keys; ``params`` draws the kernels, ``dropout`` the masks.

    Attributes:
      weights: kernel and bias by layer; a tied layer has only its bias, and
        reads its owner's kernel, so that no parameter stands in two places.
    """

    def __init__(self, plan: Plan, *, form: ops.Form, rngs: nnx.Rngs) -> None:
        self.plan = nnx.static(plan)
        self.form = form
        self.pooled = nnx.static(_pooled_convs(plan))
        self.weights = nnx.Dict({n.name: _weights(n, rngs) for n in plan.nodes if _owns(n)})
        self.parts = nnx.Dict(
            {node.name: part for node in plan.nodes if (part := _part(node, rngs)) is not None}
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Runs the network.

        Args:
          x: images, (n, height, width, channels).

        Returns:
          (n, *output shape of the plan).
        """
        values = {INPUT: x}
        for node in self.plan.nodes:
            values[node.name] = self._apply(node, [values[name] for name in node.inputs])
        return values[self.plan.output]

    def _apply(self, node: Node, inputs: list[jax.Array]) -> jax.Array:
        x, op = inputs[0], node.op
        match op:
            case Conv():
                pads = conv_pads(op, node.in_shapes[0], op.kernel)
                z = ops.conv(x, self._kernel(node.name), op.stride, pads, self.form)
                return z if node.name in self.pooled else self._finish(node.name, op.activation, z)
            case ConvTranspose():
                return self._conv_transpose(node, op, x)
            case Dense():
                z = x.reshape(x.shape[0], -1) @ self._kernel(node.name)
                return self._finish(node.name, op.activation, z)
            case MaxPool():
                y = ops.max_pool(x, op.size, op.stride or op.size, self.form)
                return self._finish_pooled(node, y)
            case AvgPool():
                return ops.avg_pool(x, op.size, op.stride or op.size)
            case Upscale():
                return ops.upscale(x, op.size)
            case Dropout() | BatchNorm():
                result: jax.Array = self.parts[node.name](x)
                return result
            case Flatten() | Reshape():
                return x.reshape(x.shape[0], *node.layout.shape)
            case Concat():
                return jnp.concatenate(inputs, axis=-1)
            case Add():
                return sum(inputs[1:], x)
            case Activate():
                return ACTIVATIONS[op.activation](x)
            case GlobalAvgPool():
                return x.mean(axis=(1, 2))
            case _:
                assert_never(op)

    def _conv_transpose(self, node: Node, op: ConvTranspose, x: jax.Array) -> jax.Array:
        size = (node.layout.shape[0], node.layout.shape[1])
        owner = self.plan.by_name[op.tie].op if op.tie else op
        assert isinstance(owner, Conv | ConvTranspose)
        kernel = self._kernel(op.tie or node.name)
        pads = conv_pads(owner, size, kernel.shape)
        z = ops.conv_transpose(x, kernel, owner.stride, pads, size, self.form)
        return self._finish(node.name, op.activation, z)

    def _finish_pooled(self, node: Node, y: jax.Array) -> jax.Array:
        """The bias and activation that a pooled convolution left out."""
        source = self.plan.by_name[node.inputs[0]] if node.inputs[0] in self.pooled else None
        if source is None or not isinstance(source.op, Conv):
            return y
        return self._finish(source.name, source.op.activation, y)

    def _kernel(self, name: str) -> jax.Array:
        kernel: jax.Array = self.weights[name]["kernel"][...]
        return kernel

    def _finish(self, name: str, activation: str, z: jax.Array) -> jax.Array:
        bias = self.weights[name].get("bias") if name in self.weights else None
        return ACTIVATIONS[activation](z if bias is None else z + bias[...])


def _pooled_convs(plan: Plan) -> frozenset[str]:
    """Convolutions whose bias and activation may wait until after a max pool.

    A bias and a monotone activation commute with the maximum, and then touch
    as many values fewer as a window has; nobody else may read the layer.
    """
    readers: dict[str, list[Node]] = {node.name: [] for node in plan.nodes}
    for node in plan.nodes:
        for name in node.inputs:
            readers.get(name, []).append(node)
    return frozenset(
        node.name
        for node in plan.nodes
        if isinstance(node.op, Conv)
        and node.op.activation in MONOTONE
        and readers[node.name]
        and all(isinstance(reader.op, MaxPool) for reader in readers[node.name])
    )


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
        return jnp.zeros(shape)
    init = _INITIALIZERS[getattr(node.op, "init", "zeros")]
    if isinstance(node.op, ConvTranspose):
        # Its kernel is that of the adjoint, (h, w, out, in), and it reads the last axis.
        return jnp.swapaxes(init(key, (*shape[:2], shape[3], shape[2]), jnp.float32), 2, 3)
    kernel: jax.Array = init(key, shape, jnp.float32)
    return kernel


def _part(node: Node, rngs: nnx.Rngs) -> nnx.Module | None:
    """Flax's own module for the layers that behave differently in training."""
    match node.op:
        case Dropout(rate=rate):
            return nnx.Dropout(rate, rngs=rngs)
        case BatchNorm(momentum=momentum, epsilon=epsilon):
            channels = node.layout.shape[-1]
            return nnx.BatchNorm(channels, momentum=momentum, epsilon=epsilon, rngs=rngs)
        case _:
            return None


def import_class(reference: str, folder: Path) -> type[nnx.Module]:
    """The class of a Python model.

    Args:
      reference: ``package.module:Class``, installed or beside the experiment file.
      folder: the folder of the experiment file.

    Raises:
      UsageError: there is no such module or class, or it is no `nnx.Module`.
    """
    module_name, _, class_name = reference.partition(":")
    _forget_namesake(module_name.partition(".")[0], folder)
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        message = f"model.python: there is no module '{error.name}'"
        raise UsageError(f"{message}; install it, or put it into {folder}.") from None
    finally:
        sys.path.remove(str(folder))
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, nnx.Module)):
        message = f"model.python: '{module_name}' has no nnx.Module named '{class_name}'"
        raise UsageError(f"{message}; define it there.")
    return found


def class_source(reference: str, folder: Path) -> bytes:
    """The source of the module that holds the class of a Python model.

    Raises:
      UsageError: as `import_class`.
    """
    module = inspect.getmodule(import_class(reference, folder))
    return inspect.getsource(module).encode() if module else b""


def _forget_namesake(package: str, folder: Path) -> None:
    """Forgets a module of another folder that would hide the one beside the experiment."""
    known = getattr(sys.modules.get(package), "__file__", None)
    beside = [folder / f"{package}.py", folder / package / "__init__.py"]
    here = [path.resolve() for path in beside if path.is_file()]
    if here and known is not None and Path(known).resolve() not in here:
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[name]
    importlib.invalidate_caches()


def make_module(make: type[nnx.Module], args: Mapping[str, Any], seed: int) -> nnx.Module:
    """Calls the class of a Python model.

    Args:
      make: the class.
      args: its keyword arguments besides `rngs`.
      seed: of its `nnx.Rngs`.

    Raises:
      UsageError: it does not take these arguments.
    """
    rngs = nnx.Rngs(seed)
    try:
        # An nnx.Module's own signature is that of its metaclass.
        inspect.signature(make.__init__).bind(None, **args, rngs=rngs)
    except TypeError as error:
        message = f"model.args: {make.__name__}(**args, rngs=...) cannot be called: {error}"
        raise UsageError(f"{message}; write the arguments that it takes.") from None
    build: Callable[..., nnx.Module] = make
    return build(**args, rngs=rngs)
