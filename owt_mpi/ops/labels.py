"""Labels as a loss reads them: which elements of a block of classes are the targets."""

from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, Shape


def check_labels(op: str, logits: Shape, labels: np.ndarray) -> None:
    """Raise ValueError unless there is one label for each row of logits (n, classes)."""
    if len(logits) != 2 or labels.shape != (logits[0],):
        raise ValueError(f"{op}: logits of shape {logits} need axes (n, classes) and n labels, got {labels.shape}")


def target_mask(xp: Any, labels: np.ndarray, first_class: int, num_classes: int) -> Array:
    """Return booleans (n, num_classes), True at each row's label; classes first_class, first_class + 1, ..."""
    classes = xp.arange(first_class, first_class + num_classes)
    return xp.asarray(labels)[:, None] == classes


def valid_rows(xp: Any, labels: np.ndarray) -> Array:
    """Return booleans (n, 1), False where the label is negative: such a row fills up a batch and counts nothing."""
    return xp.asarray(labels >= 0)[:, None]
