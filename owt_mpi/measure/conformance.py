"""Every operation of a backend against the reference backend in float64, on a few shapes, in one precision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Literal

import numpy as np

from owt_mpi.backends.base import Array, Backend, DropoutMask, Shape
from owt_mpi.backends.precision import Precision, compute_dtype, exact_dtype
from owt_mpi.backends.reference import ReferenceBackend

# Of the largest expected value, which is worked out from inputs that are rounded to the precision already. fp32:
# Winograd's convolutions round more than plain sums do. tf32: of products, whose factors are cut to 11 bits; all else
# is held to fp32's. Halves: four roundings of 11 and of 8 bits, as a product is rounded before its bias is added, and a
# gradient follows on a rounded output.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-5, "tf32": 4e-3, "bf16": 4 * 2.0**-8, "fp16": 4 * 2.0**-11}

_Compute = Callable[..., Sequence[Array]]
_ROWS = 6
_CLASSES = 11
_LABELS = np.array([3, 0, 10, -1, 7, 12])
_ONE, _TWO = (1, 1), (2, 2)
_MASK = DropoutMask(rate=0.4, key=1234567, rows=np.arange(_ROWS) + 5, first_column=9, num_columns=64, scale=1 / 0.6)
_LRN = (5, 0.3, 0.75, 2.0)


@dataclass(frozen=True)
class ConformanceRow:
    """The largest difference of an operation's results from the expected ones, relative to the largest of these."""

    operation: str
    shapes: str
    error: float
    tolerance: float
    precision: Precision = "fp32"

    @property
    def passes(self) -> bool:
        """Whether the error is within the tolerance; a NaN is not."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class _Case:
    """`exact` numbers the arrays that are float32 where the others are halves. `kind`: products may be made in TF32;
    results of float32 are no halves in any precision.
    """

    operation: str
    shapes: tuple[Shape, ...]
    compute: _Compute
    kind: Literal["product", "rounded", "float32"] = "rounded"
    exact: tuple[int, ...] = ()

    def tolerance(self, precision: Precision) -> float:
        """Return what the error may be."""
        is_exact = self.kind == "float32" or (self.kind == "rounded" and precision == "tf32")
        return TOLERANCE["fp32" if is_exact else precision]


def compare(backend: Backend, precision: Precision = "fp32") -> list[ConformanceRow]:
    """Return a row for each case: one operation, or some that go together, in what `precision` computes in."""
    reference, rows, dtype = ReferenceBackend(), [], compute_dtype(precision, "float32")
    for case in _CASES:
        rng = np.random.default_rng(prod(case.shapes[0]))
        dtypes = [exact_dtype(dtype) if i in case.exact else dtype for i in range(len(case.shapes))]
        arrays = [
            rng.standard_normal(shape, dtype=np.float32).astype(each)
            for shape, each in zip(case.shapes, dtypes, strict=True)
        ]
        # both may update in place what they are given
        expected = case.compute(reference, *(array.astype(np.float64) for array in arrays))
        given = [backend.from_host(np.array(array)) for array in arrays]
        found = [backend.to_host(array) for array in case.compute(backend, *given)]
        error = max(_error(a, np.asarray(b)) for a, b in zip(found, expected, strict=True))
        shapes = ", ".join("x".join(map(str, shape)) for shape in case.shapes)
        rows.append(ConformanceRow(case.operation, shapes, error, case.tolerance(precision), precision))
    return rows


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


def _conv2d(relu: bool, stride: int, pad: int, b: Backend, x: Array, w: Array, bias: Array) -> Sequence[Array]:
    return [b.conv2d(x, w, bias, (stride, stride), (pad, pad), relu)]


def _conv2d_grads(stride: int, pad: int, b: Backend, gy: Array, x: Array, w: Array) -> Sequence[Array]:
    where = ((stride, stride), (pad, pad))
    gw, gb = b.conv2d_grad_w(gy, x, *where, w.shape, True)
    assert gb is not None
    return [b.conv2d_grad_x(gy, w, *where, x.shape), gw, gb]


def _max_pool2d(b: Backend, x: Array, gy: Array) -> Sequence[Array]:
    y, workspace = b.max_pool2d(x, (3, 3), _TWO, _ONE)
    return [y, b.max_pool2d_grad(gy, workspace, (3, 3), _TWO, _ONE, x.shape)]


def _avg_pool2d(b: Backend, x: Array, gy: Array) -> Sequence[Array]:
    return [b.avg_pool2d(x, (3, 3), _TWO, _ONE), b.avg_pool2d_grad(gy, (3, 3), _TWO, _ONE, x.shape)]


def _lrn(b: Backend, x: Array, gy: Array) -> Sequence[Array]:
    y, workspace = b.lrn(x, *_LRN)
    return [y, b.lrn_grad(gy, x, workspace, *_LRN)]


def _linear(b: Backend, x: Array, w: Array, bias: Array, gy: Array) -> Sequence[Array]:
    forward = [b.linear(x, w, bias), b.linear(x, w, bias, True), b.linear(x, w, bias, True, _MASK)]
    return [*forward, b.linear_grad_x(gy, w), b.linear_grad_w(gy, x)]


def _bias(b: Backend, x: Array, bias: Array) -> Sequence[Array]:
    return [b.add_bias(x, bias), b.add_bias(x, bias, True), b.bias_grad(x)]


def _bias_relu_dropout(b: Backend, x: Array, bias: Array, gy: Array) -> Sequence[Array]:
    y = b.add_bias(x, bias, True, _MASK)
    return [y, b.relu_grad(gy, y, _MASK.scale)]


def _relu(b: Backend, x: Array, gy: Array) -> Sequence[Array]:
    y = b.relu(x)
    return [y, b.relu_grad(gy, y)]


def _dropout(b: Backend, x: Array, gy: Array) -> Sequence[Array]:
    y, workspace = b.dropout(x, _MASK)
    return [y, b.dropout_grad(gy, _MASK, workspace)]


def _logistic(b: Backend, z: Array) -> Sequence[Array]:
    return b.logistic_loss(z, _LABELS, 2)


def _softmax(b: Backend, z: Array) -> Sequence[Array]:
    row_max = b.softmax_max(z)
    row_sum = b.softmax_sum(z, row_max)
    return [row_max, row_sum, *b.softmax_loss(z, row_max, row_sum, _LABELS, 2)]


def _momentum_sgd(b: Backend, w: Array, v: Array, g: Array) -> Sequence[Array]:
    b.momentum_sgd(w, v, g, 0.1, 0.9, 0.01)
    return [w, v]


def _copied_weights(b: Backend, w: Array, v: Array, g: Array) -> Sequence[Array]:
    copy = b.xp.empty_like(g)
    b.momentum_sgd(w, v, g, 0.1, 0.9, 0.01, copy=copy)
    return [copy]


def _find_overflow(b: Backend, x: Array, w: Array, v: Array) -> Sequence[Array]:
    flags = [b.find_overflow([x, x]), b.find_overflow([x, x * float("inf")])]
    for skip in flags:
        b.momentum_sgd(w, v, x, 0.1, 0.9, 0.01, skip=skip)
    return [b.xp.concatenate(flags).astype(np.float32), w, v]


def _start_normalise(b: Backend, colours: Array) -> Sequence[Array]:
    pixels = b.host_empty((_ROWS, 5, 7, 3), np.uint8)
    pixels[...] = np.random.default_rng(1).integers(0, 256, pixels.shape)
    mean, scale = np.array([120.5, 110.25, 3.0]), np.array([0.25, 1.0, 1 / 58])
    host_colours = b.to_host(colours).astype(np.float64)
    images = b.start_normalise(pixels, np.arange(_ROWS) % 2 == 0, mean, scale, host_colours, colours.dtype)
    return [images()]


def _conv_cases(x: Shape, w: Shape, stride: int, pad: int) -> list[_Case]:
    height, width = ((x[1 + i] + 2 * pad - w[1 + i]) // stride + 1 for i in (0, 1))
    y, bias = (x[0], height, width, w[0]), (w[0],)
    return [
        _Case("conv2d", (x, w, bias), partial(_conv2d, False, stride, pad), "product"),
        _Case("conv2d, ReLU", (x, w, bias), partial(_conv2d, True, stride, pad), "product"),
        _Case("conv2d_grad_x, conv2d_grad_w", (y, x, w), partial(_conv2d_grads, stride, pad), "product"),
    ]


_CASES = [
    *_conv_cases((2, 31, 27, 3), (16, 11, 11, 3), 4, 2),
    *_conv_cases((2, 13, 11, 32), (48, 3, 3, 32), 1, 1),
    *_conv_cases((3, 11, 8, 5), (6, 2, 4, 5), 2, 1),
    _Case("max_pool2d, max_pool2d_grad", ((3, 9, 7, 19), (3, 5, 4, 19)), _max_pool2d),
    _Case("avg_pool2d, avg_pool2d_grad", ((3, 9, 7, 16), (3, 5, 4, 16)), _avg_pool2d),
    _Case("lrn, lrn_grad", ((2, 5, 3, 21), (2, 5, 3, 21)), _lrn),
    _Case("linear, linear_grad_x, linear_grad_w", ((_ROWS, 37), (19, 37), (19,), (_ROWS, 19)), _linear, "product"),
    _Case("add_bias, bias_grad", ((65, 33), (33,)), _bias),
    _Case("relu, relu_grad", ((3, 5, 7), (3, 5, 7)), _relu),
    _Case("add_bias, dropout, ReLU", ((_ROWS, 23), (23,), (_ROWS, 23)), _bias_relu_dropout),
    _Case("dropout, dropout_grad", ((_ROWS, 23), (_ROWS, 23)), _dropout),
    _Case("logistic_loss", ((_ROWS, _CLASSES),), _logistic, "float32", (0,)),
    _Case("softmax_max, softmax_sum, softmax_loss", ((_ROWS, _CLASSES),), _softmax, "float32", (0,)),
    _Case("momentum_sgd", ((7, 11), (7, 11), (7, 11)), _momentum_sgd, "float32", (0, 1)),
    _Case("momentum_sgd", ((7, 13), (7, 13), (7, 13)), _copied_weights, "rounded", (0, 1)),
    _Case("find_overflow", ((7, 11), (7, 11), (7, 11)), _find_overflow, "float32", (1, 2)),
    _Case("start_normalise", ((_ROWS, 3),), _start_normalise),
]
