"""Statistics over seeds and images: intervals, tests and corrections, as pure functions."""
