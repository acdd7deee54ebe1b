"""Checks of shapes and dtypes that every CPU backend makes before it touches memory, and the shapes of results."""

from typing import Any

import numpy as np

from owt_mpi.backends.base import Pair, Shape, pooled_size
from owt_mpi.backends.precision import is_half


def check_dtypes(operation: str, dtypes: tuple[np.dtype[Any], ...], **arrays: np.ndarray) -> None:
    """Raise TypeError unless all arrays have the same dtype and it is one of `dtypes`."""
    first_name, first = next(iter(arrays.items()))
    if first.dtype not in dtypes:
        names = " or ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"{operation}: {first_name} is {first.dtype}, but this backend computes in {names}; convert it")
    for name, array in arrays.items():
        if array.dtype != first.dtype:
            raise TypeError(f"{operation}: {name} is {array.dtype} but {first_name} is {first.dtype}; use one dtype")


def check_shape(operation: str, name: str, array: np.ndarray, expected: Shape) -> None:
    """Raise ValueError unless `array` has shape `expected`."""
    if array.shape != tuple(expected):
        raise ValueError(f"{operation}: {name} has shape {array.shape}, but {tuple(expected)} is what fits the others")


def conv2d_y_shape(operation: str, x_shape: Shape, w_shape: Shape, stride: Pair, pad: Pair) -> Shape:
    """Return the shape of conv2d's result, (n, h_out, w_out, c_out). ValueError if x, w, stride and pad do not fit."""
    _check_ranks(operation, x=x_shape, w=w_shape)
    if x_shape[3] != w_shape[3]:
        raise ValueError(
            f"{operation}: x of shape {tuple(x_shape)} has {x_shape[3]} channels (the last axis), but w of shape "
            f"{tuple(w_shape)} takes {w_shape[3]}; w is (c_out, kh, kw, c_in)"
        )
    return _windows_shape(operation, x_shape, (w_shape[1], w_shape[2]), stride, pad, num_channels=w_shape[0])


def pool2d_y_shape(operation: str, x_shape: Shape, kernel: Pair, stride: Pair, pad: Pair) -> Shape:
    """Return the shape of a pooling's result, (n, h_out, w_out, c). ValueError if some window could hold no element."""
    _check_ranks(operation, x=x_shape)
    if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
        raise ValueError(f"{operation}: pad {pad} must be smaller than the kernel {kernel}, or windows are all padding")
    return _windows_shape(operation, x_shape, kernel, stride, pad, num_channels=x_shape[3])


def check_lrn(operation: str, x_shape: Shape, size: int) -> None:
    """Raise ValueError unless x has four axes and `size` is odd and positive."""
    _check_ranks(operation, x=x_shape)
    if size < 1 or size % 2 == 0:
        raise ValueError(f"{operation}: size {size} must be odd, so that the window is centred; try {max(1, size - 1)}")


def check_momentum_sgd(w: np.ndarray, v: np.ndarray, g: np.ndarray, copy: np.ndarray | None) -> None:
    """Raise ValueError unless all have one shape and are C-contiguous: they are worked on as flat arrays.

    TypeError unless g and `copy` have the dtype of w, or a half type and w is float32.
    """
    rounded = {"g": g} if copy is None else {"g": g, "copy": copy}
    for name, array in rounded.items():
        if array.dtype != w.dtype and not (is_half(array.dtype) and w.dtype == np.float32):
            raise TypeError(
                f"momentum_sgd: {name} is {array.dtype} but w is {w.dtype}; use one dtype, or a half and float32"
            )
    for name, array in {"w": w, "v": v, **rounded}.items():
        check_shape("momentum_sgd", name, array, w.shape)
        if not array.flags.c_contiguous:
            raise ValueError(f"momentum_sgd: {name} of shape {array.shape} is not C-contiguous; make it so beforehand")


def _check_ranks(operation: str, **shapes: Shape) -> None:
    for name, shape in shapes.items():
        if len(shape) != 4 or min(shape) < 1:
            raise ValueError(f"{operation}: {name} has shape {tuple(shape)}, but it needs four axes of size >= 1")


def _windows_shape(operation: str, x_shape: Shape, kernel: Pair, stride: Pair, pad: Pair, num_channels: int) -> Shape:
    if min(kernel) < 1 or min(stride) < 1 or min(pad) < 0:
        raise ValueError(
            f"{operation}: kernel {kernel} and stride {stride} must be at least 1, and pad {pad} at least 0"
        )
    height, width = (pooled_size(x_shape[1 + i], kernel[i], stride[i], pad[i]) for i in (0, 1))
    if height < 1 or width < 1:
        raise ValueError(
            f"{operation}: the kernel {kernel} does not fit x of shape {tuple(x_shape)} with pad {pad}; "
            f"use a smaller kernel or a larger image"
        )
    return (x_shape[0], height, width, num_channels)
