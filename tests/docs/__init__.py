"""Documentation and published experiments."""
