"""Tests of `cnnbench.layers`."""
