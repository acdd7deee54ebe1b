"""Hybrid data and model parallel training of convolutional networks over MPI."""

__version__ = "0.1.0"
