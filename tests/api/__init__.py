"""Tests of `cnnbench.api`."""
