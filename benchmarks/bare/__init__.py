"""Modules of packages that a machine may lack, as far as `benchmarks/gpu.sh` needs them.

This folder is put on Python's path only there, and only where the packages are missing.
"""
