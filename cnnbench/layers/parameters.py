"""Initializers, and the shape, forward pass and gradient of biases."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag

from cnnbench.layers.base import Shape
from cnnbench.layers.fields import ADDED, Model, Positive
from cnnbench.system.arrays import Array


class Normal(Model):
    """Normal distribution with mean 0."""

    name: Literal["normal"]
    stddev: Positive = Field(description="standard deviation")


class TruncatedNormal(Model):
    """Normal distribution with mean 0, truncated at two standard deviations, as in Keras and JAX.

    PyTorch's and timm's `trunc_normal_` truncates at the absolute values -2 and 2 instead.
    """

    name: Literal["truncated_normal"]
    stddev: Positive = Field(
        description="standard deviation before truncation; truncation multiplies it by 0.88"
    )


class ConstantValue(Model):
    """The same value everywhere."""

    name: Literal["constant"]
    value: float = Field(description="the value")


class VarianceScaling(Model):
    """Mean 0 and variance `scale` / fan, as in Keras and JAX; a bias uses the fans of its kernel.

    PyTorch's default, for kernels and biases, is `scale: 0.3333333` with `distribution: uniform`.
    """

    name: Literal["variance_scaling"]
    scale: Positive = Field(1.0, description="variance times the fan")
    mode: Literal["fan_in", "fan_out", "fan_avg"] = Field(
        "fan_in", description="number of inputs, of outputs, or their mean"
    )
    distribution: Literal["truncated_normal", "normal", "uniform"] = Field(
        "truncated_normal", description="truncated at two standard deviations, normal or uniform"
    )


_Options = Normal | TruncatedNormal | ConstantValue | VarianceScaling
INITIALIZERS: Mapping[str, type[Model]] = {
    get_args(model.model_fields["name"].annotation)[0]: model for model in get_args(_Options)
}
_Name = Literal[
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "orthogonal",
    "dirac",
    "whitening",
    "zeros",
]
_BiasName = Literal["zeros"]
INIT_KEYS: Mapping[str, tuple[str, ...]] = {
    "init": get_args(_Name),
    "bias_init": get_args(_BiasName),
}
INIT_NAMES: tuple[str, ...] = (*get_args(_Name), *INITIALIZERS)


def init_choices(key: str) -> tuple[str, ...]:
    """Names of all initializers that a key accepts."""
    return (*INIT_KEYS[key], *INITIALIZERS)


def short_names(key: str) -> list[str]:
    """Names of the initializers of a key that require no options."""
    required = {
        name: any(field.is_required() for key, field in model.model_fields.items() if key != "name")
        for name, model in INITIALIZERS.items()
    }
    return [name for name in init_choices(key) if not required.get(name)]


def _named(value: object) -> object:
    """Expands the name of an initializer with options."""
    return {"name": value} if isinstance(value, str) and value in INITIALIZERS else value


def _kind(value: Any) -> str | None:
    """The tag of a value: a name with options, or `word`; None for options without a name."""
    if isinstance(value, Mapping):
        name = value.get("name")
        return name if isinstance(name, str) else None
    return value.name if isinstance(value, Model) else "word"  # type: ignore[attr-defined]


Init = Annotated[
    Annotated[_Name, Tag("word")]
    | Annotated[Normal, Tag("normal")]
    | Annotated[TruncatedNormal, Tag("truncated_normal")]
    | Annotated[ConstantValue, Tag("constant")]
    | Annotated[VarianceScaling, Tag("variance_scaling")],
    Discriminator(_kind),
    BeforeValidator(_named),
]
BiasInit = Annotated[
    Annotated[_BiasName, Tag("word")]
    | Annotated[Normal, Tag("normal")]
    | Annotated[TruncatedNormal, Tag("truncated_normal")]
    | Annotated[ConstantValue, Tag("constant")]
    | Annotated[VarianceScaling, Tag("variance_scaling")],
    Discriminator(_kind),
    BeforeValidator(_named),
]


TrainableKey = Annotated[bool, ADDED]
TRAINABLE: bool = Field(
    True, description="false to freeze the initial parameters (a tied kernel follows its owner)"
)


WeightsKey = Annotated[str | None, ADDED]
OWN_WEIGHTS: str | None = Field(
    None, description="layer whose parameters this layer shares; default: its own parameters"
)


def is_kernel(name: str) -> bool:
    """Returns True if a parameter of a layer is a kernel, not a bias or scale."""
    return name.endswith("kernel")


def bias_shape(use_bias: bool, size: int) -> dict[str, Shape]:
    """Parameter shapes of an optional bias."""
    return {"bias": (size,)} if use_bias else {}


def add_bias(z: Array, b: Array | None) -> Array:
    """Adds an optional bias at every position of every image."""
    return z if b is None else z + b


def wider(values: Array) -> str:
    """The data type in which values are summed: NumPy adds those of a channel one by one.

    float64 is widened, too, so that the errors of both precisions can be compared.
    """
    return "longdouble" if values.dtype == "float64" else "float64"


def sum_by_channel(values: Array) -> Array:
    """Sums over all axes but the last, in a wider data type.

    >>> import numpy as np
    >>> sum_by_channel(np.full((10**6, 1), 0.1, np.float32)).tolist()
    [100000.0]
    """
    summed: Array = values.sum(axis=tuple(range(values.ndim - 1)), dtype=wider(values))
    return summed.astype(values.dtype)


def bias_gradient(delta: Array, b: Array | None) -> dict[str, Array]:
    """Equation (12): the gradient of a bias is the sum of errors over positions and images."""
    return {} if b is None else {"bias": sum_by_channel(delta)}
