"""Telling the system which parts of a file are read soon: it fetches them while others are worked on."""

import os

import numpy as np


def will_need(file: int, starts: np.ndarray, stops: np.ndarray) -> None:
    """Have the parts of an open file from `starts` to `stops` (bytes, in order) brought into the page cache.

    Returns at once, as a rule. Parts that touch are asked for as one: one long read of the disk or the network.
    """
    for start, stop in joined(starts, stops).tolist():
        os.posix_fadvise(file, start, stop - start, os.POSIX_FADV_WILLNEED)


def joined(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Return the parts (start, stop), int64 (n, 2), with those that touch as one; they rise and may come twice."""
    if len(starts) == 0:
        return np.empty((0, 2), np.int64)
    begins = np.concatenate([[True], starts[1:] > stops[:-1]])
    ends = np.concatenate([begins[1:], [True]])
    return np.stack([starts[begins], stops[ends]], axis=1)
