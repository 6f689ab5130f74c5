"""Trained networks: activations, latent codes, predictions, confusion."""
