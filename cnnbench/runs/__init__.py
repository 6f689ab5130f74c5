"""Runs on disk: records, weights, checkpoints, selection, verification."""
