"""C that XLA programs call on CPUs: oneDNN, Winograd's algorithm, and sums of batch norms."""
