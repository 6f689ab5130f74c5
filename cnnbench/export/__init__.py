"""Trained networks in formats that other runtimes read, each verified in its own."""
