"""Whole commands and processes."""
