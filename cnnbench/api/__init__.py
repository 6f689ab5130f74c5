"""The functions of ``import cnnbench``: run, compare, load_runs."""
