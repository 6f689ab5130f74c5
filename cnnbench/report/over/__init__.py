"""Comparisons at several values of a key as tables, files and pictures."""
