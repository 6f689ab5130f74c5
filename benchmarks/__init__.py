"""Benchmarks: the project's performance targets, and untuned random networks."""
