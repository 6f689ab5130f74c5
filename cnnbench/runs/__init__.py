"""What a run is on disk: records, weights, checkpoints."""
