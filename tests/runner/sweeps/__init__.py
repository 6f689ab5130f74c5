"""Tests of `cnnbench.runner.sweeps`."""
