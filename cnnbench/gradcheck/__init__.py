"""Backpropagation by hand, compared with `jax.grad` and finite differences."""
