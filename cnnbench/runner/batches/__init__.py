"""Batches of seeds of one experiment: shards, SLURM arrays, and runs that unite them."""
