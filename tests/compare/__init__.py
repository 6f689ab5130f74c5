"""Tests of `cnnbench.compare`."""
