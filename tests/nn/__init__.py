"""Tests of `cnnbench.nn`."""
