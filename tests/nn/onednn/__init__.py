"""Tests of `cnnbench.nn.onednn`."""
