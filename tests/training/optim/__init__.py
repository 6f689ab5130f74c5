"""Tests of `cnnbench.training.optim`."""
