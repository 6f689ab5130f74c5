"""Tests of `cnnbench.report.sweeps`."""
