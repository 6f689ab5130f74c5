"""Statistics over seeds: verdicts, thresholds, learning curves."""
