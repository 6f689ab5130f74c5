"""Comparisons and networks as tables, Markdown, CSV, JSON and HTML."""
