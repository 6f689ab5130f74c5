"""Results of sweeps: the trials with their values, the best, and what it says."""
