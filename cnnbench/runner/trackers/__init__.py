"""Experiment trackers: other tools that a run is logged to while it trains."""
