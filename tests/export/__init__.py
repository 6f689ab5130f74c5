"""Tests of `cnnbench.export`."""
