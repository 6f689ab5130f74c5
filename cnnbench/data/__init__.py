"""Datasets: lookup, download, decoding, caching and splitting."""
