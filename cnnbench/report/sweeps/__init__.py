"""Sweeps as tables, files and pictures."""
