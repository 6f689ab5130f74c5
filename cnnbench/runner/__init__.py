"""A run from request to finished folder."""
