"""Tests of the index of run folders."""
