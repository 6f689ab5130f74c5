"""Tests of `cnnbench.runs`."""
