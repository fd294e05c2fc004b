"""Measures `later` side by side with other job systems and with bare loops: `make bench`."""
