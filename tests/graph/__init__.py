"""Tests of `cnnbench.graph`."""
