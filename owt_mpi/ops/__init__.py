"""Differentiable operations, one a file: a class with forward and backward, then the function that applies it."""
