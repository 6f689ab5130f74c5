"""Tests of `cnnbench.cli.sweeps`."""
