"""Tests of `cnnbench.report.plots`."""
