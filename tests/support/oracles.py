"""The post's three networks in NumPy, written from its text, and tools to compare with.

Nothing here uses the experiment files or plans: the table below is the post's, in the layout of our
parameters (images (n, h, w, c), kernels (h, w, in, out), images flattened in the order height,
width, channel).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import TypeAdapter

from cnnbench.graph.build import build_plan
from cnnbench.graph.plan import Goal, Plan
from cnnbench.layers import LayerOp

Array = Any  # NumPy arrays; their exact types do not matter in tests
Weights = Mapping[str, Mapping[str, Array]]
Kernel = tuple[int, ...]

_LAYER: TypeAdapter[LayerOp] = TypeAdapter(LayerOp)


def make_plan(
    layers: Mapping[str, Mapping[str, Any]],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    output: str | None = None,
) -> Plan:
    """The plan of layers given as in an experiment file."""
    operations = {name: _LAYER.validate_python(dict(op)) for name, op in layers.items()}
    goal = Goal(input_shape, output_shape, "the test says so", "mend the test")
    plan, issues = build_plan(operations, goal, output=output, known={})
    assert plan is not None, issues
    return plan


# Layers with parameters: the kernel's shape, and the number of biases.
_STANDARD: dict[str, tuple[Kernel | None, int]] = {
    "conv1": ((5, 5, 1, 32), 32),
    "conv2": ((5, 5, 32, 32), 32),
    "dense1": ((4 * 4 * 32, 256), 256),
    "dense2": ((256, 10), 10),
}
TABLES: Mapping[str, Mapping[str, tuple[Kernel | None, int]]] = {
    "standard": _STANDARD,
    "modified": _STANDARD
    | {"conv1a": ((10, 10, 1, 32), 32), "dense2": ((256 + 3 * 3 * 32, 10), 10)},
    "autoencoder": {
        "conv1": ((5, 5, 1, 32), 32),
        "conv2": ((5, 5, 32, 32), 32),
        "code": ((512, 256), 256),
        "dense1": ((256, 512), 512),
        "deconv2": (None, 32),  # W=auto_conv2A.W
        "deconv1": (None, 1),  # W=auto_conv1A.W
    },
}


def random_weights(name: str, seed: int) -> dict[str, dict[str, Array]]:
    """Glorot-scaled kernels and nonzero biases, in float64."""
    rng = np.random.default_rng(seed)
    weights: dict[str, dict[str, Array]] = {}
    for layer, (kernel, num_biases) in TABLES[name].items():
        weights[layer] = {"bias": rng.normal(scale=0.2, size=num_biases)}
        if kernel is not None:
            fans = math.prod(kernel[:-2]) * (kernel[-2] + kernel[-1])
            weights[layer]["kernel"] = rng.normal(scale=math.sqrt(2 / fans), size=kernel)
    return weights


def correlate(x: Array, kernel: Array) -> Array:
    """Valid cross-correlation."""
    windows = sliding_window_view(x, kernel.shape[:2], axis=(1, 2))  # n, h, w, c, kh, kw
    return np.tensordot(windows, kernel, axes=((3, 4, 5), (2, 0, 1)))


def full_convolution(y: Array, kernel: Array) -> Array:
    """The post's full convolution, with the kernel rotated by 180 degrees."""
    rows, columns = kernel.shape[0] - 1, kernel.shape[1] - 1
    around = np.pad(y, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    return correlate(around, np.rot90(kernel, 2).swapaxes(2, 3))


def pool_max(x: Array, size: int) -> Array:
    """Max pooling without overlap; an incomplete border is dropped."""
    n, h, w, c = x.shape
    kept = x[:, : h // size * size, : w // size * size]
    return kept.reshape(n, h // size, size, w // size, size, c).max(axis=(2, 4))


def upscaled(x: Array, size: int) -> Array:
    """Lasagne's Upscale2DLayer."""
    return x.repeat(size, axis=1).repeat(size, axis=2)


def relu(x: Array) -> Array:
    """Lasagne's rectify."""
    return np.maximum(x, 0)


def _dense(x: Array, layer: Mapping[str, Array]) -> Array:
    return x.reshape(len(x), -1) @ layer["kernel"] + layer["bias"]


def _conv(x: Array, layer: Mapping[str, Array]) -> Array:
    return correlate(x, layer["kernel"]) + layer["bias"]


def _trunk(w: Weights, x: Array) -> Array:
    pool1 = pool_max(relu(_conv(x, w["conv1"])), 2)
    pool2 = pool_max(relu(_conv(pool1, w["conv2"])), 2)
    return relu(_dense(pool2, w["dense1"]))


def _standard(w: Weights, x: Array) -> Array:
    return _dense(_trunk(w, x), w["dense2"])


def _modified(w: Weights, x: Array) -> Array:
    branch = pool_max(relu(_conv(x, w["conv1a"])), 5)
    joined = np.concatenate([_trunk(w, x), branch.reshape(len(x), -1)], axis=1)
    return _dense(joined, w["dense2"])


def _autoencoder(w: Weights, x: Array) -> Array:
    pool1 = pool_max(np.tanh(_conv(x, w["conv1"])), 2)
    pool2 = pool_max(np.tanh(_conv(pool1, w["conv2"])), 2)
    code = np.tanh(_dense(pool2, w["code"]))
    image = np.tanh(_dense(code, w["dense1"])).reshape(-1, 4, 4, 32)
    up2 = upscaled(image, 2)
    deconv2 = relu(full_convolution(up2, w["conv2"]["kernel"]) + w["deconv2"]["bias"])
    up1 = upscaled(deconv2, 2)
    return relu(full_convolution(up1, w["conv1"]["kernel"]) + w["deconv1"]["bias"])


NETWORKS: Mapping[str, Callable[[Weights, Array], Array]] = {
    "standard": _standard,
    "modified": _modified,
    "autoencoder": _autoencoder,
}


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log softmax at the label, (n,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    result: Array = log_sum - shifted[np.arange(len(labels)), labels]
    return result


def set_params(params: Any, values: Mapping[str, Any], dtype: Any) -> Any:
    """The state of a model with its values replaced."""
    state = nnx.clone(params)
    nnx.replace_by_pure_dict(state, {"weights": _tree(values, dtype)})
    return state


def _tree(values: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    return {
        key: _tree(value, dtype) if isinstance(value, Mapping) else jnp.asarray(value, dtype)
        for key, value in values.items()
    }


def get_params(params: Any) -> Any:
    """Values by layer and name."""
    return nnx.to_pure_dict(params)["weights"]


def calibration_error(chances: Array, labels: Array, bins: int = 15) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    error = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error
