"""Tests of `cnnbench.system`."""
