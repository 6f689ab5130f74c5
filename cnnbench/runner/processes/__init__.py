"""One training on several processes: launched, led by the first, followed by the others."""
