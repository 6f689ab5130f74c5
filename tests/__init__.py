"""Tests of `cnnbench`."""
