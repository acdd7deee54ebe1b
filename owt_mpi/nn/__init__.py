"""Layers with parameters, their initial values, and the models."""
