"""Benchmarks: what the project promises about speed, and networks that nobody tuned."""
