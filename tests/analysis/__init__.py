"""Tests of `cnnbench.analysis`."""
