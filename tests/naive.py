"""The operations as loops over single windows and elements, straight from the formulas, in float64.

Independent of the package: nothing here is imported from it. Slow; for arrays of a few thousand elements.
"""

import numpy as np

Pair = tuple[int, int]


def conv2d(x, w, b, stride: Pair, pad: Pair) -> np.ndarray:
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    y = np.zeros((len(x), *num_windows(x.shape, w.shape[1:3], stride, pad), len(w)))
    for i, j, rows, columns, a, e in _windows(x.shape, w.shape[1:3], stride, pad):
        for o in range(len(w)):
            y[:, i, j, o] = (x[:, rows, columns] * w[o, a, e]).sum(axis=(1, 2, 3))
    return y if b is None else y + np.asarray(b, np.float64)


def conv2d_grad_x(gy, w, stride: Pair, pad: Pair, x_shape) -> np.ndarray:
    gy, w = np.asarray(gy, np.float64), np.asarray(w, np.float64)
    gx = np.zeros(x_shape)
    for i, j, rows, columns, a, e in _windows(x_shape, w.shape[1:3], stride, pad):
        for n in range(len(gx)):
            for o in range(len(w)):
                gx[n, rows, columns] += gy[n, i, j, o] * w[o, a, e]
    return gx


def conv2d_grad_w(gy, x, stride: Pair, pad: Pair, w_shape) -> tuple[np.ndarray, np.ndarray]:
    gy, x = np.asarray(gy, np.float64), np.asarray(x, np.float64)
    gw, gb = np.zeros(w_shape), np.zeros(w_shape[0])
    for i, j, rows, columns, a, e in _windows(x.shape, w_shape[1:3], stride, pad):
        for n in range(len(x)):
            for o in range(w_shape[0]):
                gw[o, a, e] += gy[n, i, j, o] * x[n, rows, columns]
                gb[o] += gy[n, i, j, o]
    return gw, gb


def max_pool2d(x, kernel: Pair, stride: Pair, pad: Pair) -> np.ndarray:
    x = np.asarray(x, np.float64)
    y = np.zeros((len(x), *num_windows(x.shape, kernel, stride, pad), x.shape[3]))
    for i, j, rows, columns, _, _ in _windows(x.shape, kernel, stride, pad):
        y[:, i, j] = x[:, rows, columns].max(axis=(1, 2))
    return y


def max_pool2d_grad(gy, x, kernel: Pair, stride: Pair, pad: Pair) -> np.ndarray:
    gy, x = np.asarray(gy, np.float64), np.asarray(x, np.float64)
    gx = np.zeros(x.shape)
    for i, j, rows, columns, _, _ in _windows(x.shape, kernel, stride, pad):
        for n in range(len(x)):
            for c in range(x.shape[3]):
                window = x[n, rows, columns, c]
                row, column = np.argwhere(window == window.max())[0]  # the first in row-major order
                gx[n, rows.start + row, columns.start + column, c] += gy[n, i, j, c]
    return gx


def avg_pool2d(x, kernel: Pair, stride: Pair, pad: Pair) -> np.ndarray:
    x = np.asarray(x, np.float64)
    y = np.zeros((len(x), *num_windows(x.shape, kernel, stride, pad), x.shape[3]))
    for i, j, rows, columns, _, _ in _windows(x.shape, kernel, stride, pad):
        y[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    return y


def avg_pool2d_grad(gy, kernel: Pair, stride: Pair, pad: Pair, x_shape) -> np.ndarray:
    gy = np.asarray(gy, np.float64)
    gx = np.zeros(x_shape)
    for i, j, rows, columns, _, _ in _windows(x_shape, kernel, stride, pad):
        inside = (rows.stop - rows.start) * (columns.stop - columns.start)
        gx[:, rows, columns] += gy[:, i : i + 1, j : j + 1] / inside
    return gx


def lrn(x, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / _lrn_base(x, size, alpha, k) ** beta


def lrn_grad(gy, x, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """gx_d = sum over c of gy_c dy_c/dx_d, with y_c = x_c base_c**-beta and base_c = k + alpha sum x_d**2."""
    gy, x = np.asarray(gy, np.float64), np.asarray(x, np.float64)
    base = _lrn_base(x, size, alpha, k)
    gx = np.zeros(x.shape)
    for c in range(x.shape[3]):
        gx[..., c] += gy[..., c] * base[..., c] ** -beta
        for d in _channels_around(c, size, x.shape[3]):
            through_base = -beta * base[..., c] ** (-beta - 1) * alpha * 2 * x[..., d]
            gx[..., d] += gy[..., c] * x[..., c] * through_base
    return gx


def momentum_sgd(w, v, g, lr: float, momentum: float, weight_decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the new (w, v)."""
    w, v, g = (np.asarray(array, np.float64) for array in (w, v, g))
    v = momentum * v - lr * (g + weight_decay * w)
    return w + v, v


def _lrn_base(x: np.ndarray, size: int, alpha: float, k: float) -> np.ndarray:
    base = np.full(x.shape, float(k))
    for c in range(x.shape[3]):
        for d in _channels_around(c, size, x.shape[3]):
            base[..., c] += alpha * x[..., d] ** 2
    return base


def _channels_around(c: int, size: int, num_channels: int) -> range:
    return range(max(0, c - size // 2), min(num_channels, c + size // 2 + 1))


def num_windows(x_shape, kernel: Pair, stride: Pair, pad: Pair) -> Pair:
    height = len(range(-pad[0], x_shape[1] + pad[0] - kernel[0] + 1, stride[0]))
    width = len(range(-pad[1], x_shape[2] + pad[1] - kernel[1] + 1, stride[1]))
    return height, width


def _windows(x_shape, kernel: Pair, stride: Pair, pad: Pair):
    """Yield (i, j, rows, columns, a, e) for every window: the slices of x inside it, and of the kernel over them."""
    height, width = num_windows(x_shape, kernel, stride, pad)
    for i in range(height):
        rows, a = _inside(i * stride[0] - pad[0], kernel[0], x_shape[1])
        for j in range(width):
            columns, e = _inside(j * stride[1] - pad[1], kernel[1], x_shape[2])
            yield i, j, rows, columns, a, e


def _inside(start: int, length: int, limit: int) -> tuple[slice, slice]:
    first, last = max(0, start), min(limit, start + length)
    return slice(first, last), slice(first - start, last - start)
