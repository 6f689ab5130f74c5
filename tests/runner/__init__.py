"""Tests of `cnnbench.runner`."""
