"""Tests of `cnnbench.data`."""
