"""Tests of `cnnbench.statistics`."""
