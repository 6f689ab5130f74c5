"""Minimal replacements for packages that may be missing, as needed by `benchmarks/gpu.sh`.

Only that script adds this folder to Python's path, and only if the packages are missing.
"""
