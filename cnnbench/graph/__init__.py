"""Compiles named layers to a validated `Plan`; geometry, cost and widening of plans."""
