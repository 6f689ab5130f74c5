"""Tests of `cnnbench.nn.ops`."""
