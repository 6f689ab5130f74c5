"""Sweeps: plans the trials of `KEY=1,2,3` and of ranges, and trains them."""
