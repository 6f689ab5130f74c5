"""Flax NNX networks, from a `Plan` or a Python class."""
