"""Backpropagation by hand in NumPy, compared with `jax.grad` and finite differences."""
