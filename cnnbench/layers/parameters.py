"""Kernel initializers, and the shape, forward pass and gradient of biases."""

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
    """Parameter shapes of an optional bias."""
    return {"bias": (size,)} if use_bias else {}


def add_bias(z: Array, b: Array | None) -> Array:
    """Adds an optional bias at every position of every image."""
    return z if b is None else z + b


def bias_gradient(delta: Array, b: Array | None) -> dict[str, Array]:
    """Equation (12): the gradient of a bias is the sum of errors over positions and images."""
    return {} if b is None else {"bias": delta.reshape(-1, len(b)).sum(axis=0)}
