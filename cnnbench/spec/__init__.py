"""Experiment files: YAML, `extends`, overrides, checks, JSON Schema."""
