"""Tests of `cnnbench.spec`."""
