"""Convolution, pooling and normalization on arrays, independent of layers."""
