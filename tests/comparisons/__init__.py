"""Tests of `cnnbench.comparisons`."""
