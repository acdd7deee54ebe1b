"""What is kept of a training run: weights, and checkpoints to go on from. Both hold global arrays, at any K."""
