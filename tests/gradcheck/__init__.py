"""Tests of `cnnbench.gradcheck`."""
