"""Seeds of a command in parts: SLURM job arrays, and the command that unites runs."""
