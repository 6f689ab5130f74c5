"""Tests of `cnnbench.training`."""
