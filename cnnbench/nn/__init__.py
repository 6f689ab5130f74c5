"""A `Plan` as a Flax NNX network."""
