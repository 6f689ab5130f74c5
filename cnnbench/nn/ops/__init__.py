"""Convolutions, pooling and normalization on arrays; nothing here knows layers."""
