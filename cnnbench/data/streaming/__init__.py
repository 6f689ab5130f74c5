"""Datasets larger than memory: images are decoded by worker processes when they are needed."""
