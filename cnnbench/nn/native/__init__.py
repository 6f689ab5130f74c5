"""Convolutions by oneDNN, the library that PyTorch uses on CPUs, called from XLA programs."""
