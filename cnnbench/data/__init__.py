"""Datasets as arrays: where they are found, how they are read and cached."""
