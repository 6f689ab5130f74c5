"""Metrics of a whole split, such as balanced accuracy, which are not means over its images."""
