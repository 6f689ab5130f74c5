"""Datasets by name: downloads, archives and the data of tensorflow-datasets."""
