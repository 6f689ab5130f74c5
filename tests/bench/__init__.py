"""Tests of `cnnbench.bench`."""
