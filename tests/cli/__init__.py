"""Tests of `cnnbench.cli`."""
