"""What each backend keeps of an operation until its gradient is asked for, besides inputs and outputs."""

from typing import Literal

KeepingOp = Literal["max_pool2d", "lrn", "dropout"]


def workspace_bytes(backend: str, op: KeepingOp, num_outputs: int, itemsize: int, window: int = 1) -> int:
    """Return the bytes of the workspace that `op` returns with its `num_outputs` elements of `itemsize` bytes.

    `window` is the number of elements under a pooling window. On the host halves are computed, and kept, in float32.
    """
    itemsize = max(itemsize, 4)
    winner = 8 if backend == "reference" else 1 if window <= 256 else 4 if backend == "onednn" else 2
    # the denominators; oneDNN keeps two arrays, and the GPU works everything out again
    lrn = {"reference": itemsize, "onednn": 2 * itemsize, "cuda": 0}[backend]
    factor = 0 if backend == "cuda" else itemsize
    return num_outputs * {"max_pool2d": winner, "lrn": lrn, "dropout": factor}[op]
