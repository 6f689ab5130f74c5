"""Kernels and biases: how they begin, and what a bias adds to shape, forward pass and gradient."""

from typing import Literal, get_args

from cnnbench.layers.base import Shape
from cnnbench.system.arrays import Array

Init = Literal[
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "orthogonal",
    "zeros",
]
INIT_NAMES: tuple[str, ...] = get_args(Init)


def bias_shape(use_bias: bool, size: int) -> dict[str, Shape]:
    """The bias among a layer's parameters."""
    return {"bias": (size,)} if use_bias else {}


def add_bias(z: Array, b: Array | None) -> Array:
    """The bias, where there is one, added to every place and image."""
    return z if b is None else z + b


def bias_gradient(delta: Array, b: Array | None) -> dict[str, Array]:
    """Equation (12): a bias that all places and images share takes the sum of their errors."""
    return {} if b is None else {"bias": delta.reshape(-1, len(b)).sum(axis=0)}
