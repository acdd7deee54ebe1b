"""The momentum SGD update for arrays of many megabytes, in blocks that stay in the cache."""

import numpy as np

# elements: w, v, g and the temporary are 1 MiB of float32 together, which fits a core's second-level cache
BLOCK = 1 << 16


def blocked_momentum_sgd(
    w: np.ndarray, v: np.ndarray, g: np.ndarray, lr: float, momentum: float, weight_decay: float
) -> None:
    """Update in place: v := momentum * v - lr * (g + weight_decay * w);  w := w + v.

    All C-contiguous, of one shape and dtype. Each block passes through memory once, not once a term.
    """
    flat_w, flat_v, flat_g = w.reshape(-1), v.reshape(-1), g.reshape(-1)
    # of w's dtype, for a float64 scalar (np.float64 is a float) would carry each block through float64
    rate, kept, decay = (w.dtype.type(value) for value in (lr, momentum, weight_decay))
    temporary = np.empty(min(BLOCK, w.size), w.dtype)
    for start in range(0, w.size, BLOCK):
        block_w, block_v = flat_w[start : start + BLOCK], flat_v[start : start + BLOCK]
        step = temporary[: block_w.size]
        np.multiply(block_w, decay, out=step)
        step += flat_g[start : start + BLOCK]
        step *= rate
        block_v *= kept
        block_v -= step
        block_w += block_v
