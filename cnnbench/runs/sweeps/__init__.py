"""Sweeps: what they train, in a small file each, and the runs that belong to them."""
