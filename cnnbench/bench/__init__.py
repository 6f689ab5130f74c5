"""Training speed against PyTorch, Keras and plain Flax, in worker processes."""
