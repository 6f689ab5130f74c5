"""cnnbench: an honest answer about a neural-network architecture, in minutes."""

__version__ = "0.1.0"
