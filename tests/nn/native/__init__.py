"""Tests of `cnnbench.nn.native`."""
