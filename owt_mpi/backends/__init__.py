"""Compute backends: the same operations on NumPy (reference), oneDNN and CUDA arrays."""
