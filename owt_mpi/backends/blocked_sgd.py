"""The momentum SGD update for arrays of many megabytes, in blocks that stay in the cache."""

import numpy as np

# elements: w, v, g and the temporary are 1 MiB of float32 together, which fits a core's second-level cache
BLOCK = 1 << 16


def blocked_momentum_sgd(
    w: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    lr: float,
    momentum: float,
    weight_decay: float,
    scale: float = 1.0,
    copy: np.ndarray | None = None,
) -> None:
    """Update in place: v := momentum * v - lr * (scale * g + weight_decay * w);  w := w + v;  copy := w.

    All C-contiguous, of one shape; w and v of one dtype, g and `copy` perhaps of a half type. Each block passes through
    memory once, not once a term.
    """
    flat_w, flat_v, flat_g = w.reshape(-1), v.reshape(-1), g.reshape(-1)
    # of w's dtype, for a float64 scalar (np.float64 is a float) would carry each block through float64
    rate, kept, decay, factor = (w.dtype.type(value) for value in (lr, momentum, weight_decay, scale))
    temporary = np.empty(min(BLOCK, w.size), w.dtype)
    for start in range(0, w.size, BLOCK):
        block_w, block_v = flat_w[start : start + BLOCK], flat_v[start : start + BLOCK]
        step = temporary[: block_w.size]
        np.multiply(block_w, decay, out=step)
        block_g = flat_g[start : start + BLOCK]
        step += block_g if scale == 1.0 else block_g * factor
        step *= rate
        block_v *= kept
        block_v -= step
        block_w += block_v
        if copy is not None:
            copy.reshape(-1)[start : start + BLOCK] = block_w
