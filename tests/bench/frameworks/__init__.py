"""Tests of `cnnbench.bench.frameworks`."""
