"""A model's convolutions by the vendor's library and by im2col and matrix products, one after the other."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from statistics import median
from typing import Any

import numpy as np

from owt_mpi.autograd import symbolic
from owt_mpi.backends.base import Backend, Shape
from owt_mpi.backends.precision import Precision, compute_dtype
from owt_mpi.measure.roof import Roof, roof_seconds
from owt_mpi.nn.model import Model
from owt_mpi.nn.walk import walk
from owt_mpi.ops.conv2d import Conv2dOp
from owt_mpi.planner.kernel import PRECISIONS, Kernel, Operand


@dataclass(frozen=True)
class ConvolutionRow:
    """The median time of one convolution by each way to compute it, and the least time on the GPU, if known."""

    layer: str
    operation: str
    flop: int
    least_bytes: int
    roof_seconds: float | None
    seconds: dict[str, float]
    precision: Precision = "fp32"


def measure_convolutions(
    model: Model,
    images: int,
    ways: Mapping[str, Backend],
    roof: Roof | None,
    repeats: int,
    precision: Precision = "fp32",
) -> list[ConvolutionRow]:
    """Return a row for each convolution of the trunk: forward with bias, both gradients with the bias's.

    The first layer's gradient with respect to the images is left out, as in training.
    """
    spec = model.spec
    visits, _ = walk(model.trunk, symbolic((images, spec.crop, spec.crop, spec.channels)))
    return [
        row
        for visit in visits
        for op in visit.ops
        if isinstance(op, Conv2dOp)
        for row in _rows(visit.module.name, op, ways, roof, repeats, precision)
    ]


def _rows(
    layer: str, op: Conv2dOp, ways: Mapping[str, Backend], roof: Roof | None, repeats: int, precision: Precision
) -> list[ConvolutionRow]:
    dtype = compute_dtype(precision, "float32")
    x, w = (each.shape for each in op.inputs[:2])
    y, has_bias = op.out_shape(*(each.shape for each in op.inputs)), len(op.inputs) == 3
    seconds: dict[str, dict[str, float]] = {}
    for way, backend in ways.items():  # one at a time: both ways' arrays need not fit into memory at once
        for operation, run in _runs(backend, op, x, w, y, has_bias, dtype).items():
            seconds.setdefault(operation, {})[way] = _seconds(backend, run, repeats)
    shapes = (x, w, y)
    return [
        _row(layer, operation, op, shapes, has_bias, times, roof, precision) for operation, times in seconds.items()
    ]


def _runs(
    backend: Backend, op: Conv2dOp, x: Shape, w: Shape, y: Shape, has_bias: bool, dtype: np.dtype[Any]
) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(1)
    x_there, w_there, gy = (
        backend.from_host(rng.standard_normal(shape, dtype=np.float32).astype(dtype)) for shape in (x, w, y)
    )
    bias = backend.from_host(np.zeros(w[0], dtype)) if has_bias else None
    where = (op.stride, op.pad)
    runs: dict[str, Callable[[], object]] = {
        "conv2d": partial(backend.conv2d, x_there, w_there, bias, *where),
        "conv2d_grad_w": partial(backend.conv2d_grad_w, gy, x_there, *where, w, has_bias),
    }
    if op.needs_grad[0]:
        runs["conv2d_grad_x"] = partial(backend.conv2d_grad_x, gy, w_there, *where, x)
    return runs


def _seconds(backend: Backend, run: Callable[[], object], repeats: int) -> float:
    """Return the median time of `repeats` runs, after one that chooses plans and loads kernels."""
    run()
    times = []
    for _ in range(repeats):
        backend.synchronize()
        begin = time.perf_counter()
        run()
        backend.synchronize()
        times.append(time.perf_counter() - begin)
    return median(times)


def _row(
    layer: str,
    operation: str,
    op: Conv2dOp,
    shapes: tuple[Shape, Shape, Shape],
    has_bias: bool,
    seconds: dict[str, float],
    roof: Roof | None,
    precision: Precision,
) -> ConvolutionRow:
    itemsize = PRECISIONS[precision]
    x, w, y = (Operand(name, prod(shape) * itemsize) for name, shape in zip("xwy", shapes, strict=True))
    bias = (Operand("b", shapes[1][0] * itemsize),) if has_bias else ()
    moved = {
        "conv2d": ((x, w, *bias), (y,)),
        "conv2d_grad_w": ((y, x), (w, *bias)),
        "conv2d_grad_x": ((y, w), (x,)),
    }
    bias_flop = prod(shapes[2]) if has_bias and operation != "conv2d_grad_x" else 0
    flop = 2 * op.multiply_adds(*(each.shape for each in op.inputs))
    kernel = Kernel(layer, operation, *moved[operation], product_flop=flop, other_flop=bias_flop)
    least = (kernel.flop, kernel.num_bytes, roof_seconds(roof, [kernel]))
    return ConvolutionRow(layer, operation, *least, seconds, precision)
