"""Files, locks, signals, caches, the host and its devices."""
