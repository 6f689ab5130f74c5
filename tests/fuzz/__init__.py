"""Fuzzing of all code that reads user input."""
