"""Builders and oracles shared by tests."""
