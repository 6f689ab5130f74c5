"""Batches of streamed datasets, on the device before they are needed."""
