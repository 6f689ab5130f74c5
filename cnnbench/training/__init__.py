"""Losses, optimizers, the jitted step, autotuning and the training loop."""
