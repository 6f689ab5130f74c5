"""Tests of `cnnbench.report`."""
