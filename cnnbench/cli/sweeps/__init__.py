"""`cnnbench run` of several values, and `cnnbench sweep`."""
