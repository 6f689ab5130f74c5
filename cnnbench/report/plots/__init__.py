"""Plots, diagrams and image grids as PNG, SVG and text."""
