"""Runs: from request to finished folder."""
