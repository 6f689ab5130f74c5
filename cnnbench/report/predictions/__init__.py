"""Predictions of trained networks: tables, Markdown, CSV, JSON and captions of pictures."""
