"""Properties of datasets: for `cnnbench data inspect` and `cnnbench new`."""
