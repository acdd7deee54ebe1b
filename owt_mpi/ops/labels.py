"""Labels as a loss reads them."""

import numpy as np

from owt_mpi.backends.base import Shape


def check_labels(op: str, logits: Shape, labels: np.ndarray) -> None:
    """Raise ValueError unless there is one label for each row of logits (n, classes)."""
    if len(logits) != 2 or labels.shape != (logits[0],):
        raise ValueError(f"{op}: logits of shape {logits} need axes (n, classes) and n labels, got {labels.shape}")
