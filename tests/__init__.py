"""Tests of `cnnbench..`."""
