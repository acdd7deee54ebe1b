"""The conformance table's second part: what works on rows of numbers - the head's layers, masks and losses."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from owt_mpi import rng
from owt_mpi.backends.base import Backend, DropoutMask, Shape
from owt_mpi.backends.precision import exact_dtype
from tests.backends.conformance import Check, check_close, values


@dataclass(frozen=True)
class LinearCase:
    name: str
    rows: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class ArrayCase:
    name: str
    shape: Shape


@dataclass(frozen=True)
class LossCase:
    """Logits of classes first_class, first_class + 1, ...; of all rows the labels, of which some are elsewhere."""

    name: str
    classes: int
    first_class: int
    labels: tuple[int, ...]


LINEAR_CASES = [LinearCase("uneven", 5, 7, 3), LinearCase("wide", 4, 64, 33), LinearCase("one_row", 1, 16, 8)]
ARRAY_CASES = [ArrayCase("matrix", (5, 7)), ArrayCase("images", (3, 5, 4, 6)), ArrayCase("vector_of_one", (1,))]
MASKED_CASES = [case for case in ARRAY_CASES if len(case.shape) > 1]
LOSS_CASES = [
    LossCase("all_classes", 7, 0, (3, 0, 6, -1, 3)),
    LossCase("a_block_of_them", 4, 8, (9, 0, 15, -1, 8, 11, 12)),
    LossCase("a_thousand", 1000, 0, (999, 17)),
]


def check_linear(backend: Backend, case: LinearCase, dtype: Any) -> None:
    shapes = ((case.rows, case.inputs), (case.outputs, case.inputs), (case.outputs,), (case.rows, case.outputs))
    arrays = [values(shape, dtype, seed) for seed, shape in enumerate(shapes)]
    x, w, b, gy = (array.astype(np.float64) for array in arrays)
    on_device = [backend.from_host(array) for array in arrays]
    check_close(backend, backend.linear(on_device[0], on_device[1], None), x @ w.T, dtype, "y without bias")
    check_close(backend, backend.linear(*on_device[:3]), x @ w.T + b, dtype, "y")
    rectified = backend.linear(*on_device[:3], relu=True)
    check_close(backend, rectified, np.maximum(x @ w.T + b, 0), dtype, "max(y, 0)")
    check_close(backend, backend.linear_grad_x(on_device[3], on_device[1]), gy @ w, dtype, "gx")
    check_close(backend, backend.linear_grad_w(on_device[3], on_device[0]), gy.T @ x, dtype, "gw")
    check_close(backend, backend.bias_grad(on_device[3]), gy.sum(axis=0), dtype, "gb")
    check_close(backend, backend.add_bias(on_device[3], on_device[2]), gy + b, dtype, "x + b")
    rectified = backend.add_bias(on_device[3], on_device[2], relu=True)
    check_close(backend, rectified, np.maximum(gy + b, 0), dtype, "max(x + b, 0)")


def check_relu(backend: Backend, case: ArrayCase, dtype: Any) -> None:
    x, gy = values(case.shape, dtype, 1).copy(), values(case.shape, dtype, 2)
    x.flat[0] = 0  # whose gradient is 0
    y = backend.relu(backend.from_host(x))
    check_close(backend, y, np.maximum(x, 0), dtype, "y")
    check_close(backend, backend.relu_grad(backend.from_host(gy), y), np.where(x > 0, gy, 0), dtype, "gx")
    gx = backend.relu_grad(backend.from_host(gy), y, 1.25)
    check_close(backend, gx, np.where(x > 0, 1.25 * gy.astype(np.float64), 0), dtype, "gx, scaled")


def mask_and_factor(shape: Shape) -> tuple[DropoutMask, np.ndarray]:
    """Return a mask for (n, ...) numbers, and what it multiplies them by, some with 0."""
    columns = int(np.prod(shape[1:]))
    rows = np.arange(shape[0])[::-1] * 2 + 2**33  # not the first of the batch, and beyond 32 bits
    mask = DropoutMask(0.4, rng.stream_key(3, "dropout"), rows, 5, columns + 9, 1.25)
    indices = rows[:, None].astype(np.uint64) * np.uint64(columns + 9) + np.arange(5, 5 + columns, dtype=np.uint64)
    kept = rng.bernoulli(mask.key, indices, 0.6).reshape(shape)
    assert 0 < kept.sum() < kept.size
    return mask, 1.25 * kept


def check_relu_and_dropout(backend: Backend, case: ArrayCase, dtype: Any) -> None:
    """In one go, behind a product, a bias, and alone; the gradient from the output."""
    (mask, factor), columns = mask_and_factor(case.shape), case.shape[-1]
    x, b, gy = (values(shape, dtype, seed) for seed, shape in enumerate((case.shape, (columns,), case.shape)))
    w = values((columns, columns), dtype, 3)
    exact_x, exact_b, exact_gy, exact_w = (array.astype(np.float64) for array in (x, b, gy, w))
    x, b, gy, w = (backend.from_host(array) for array in (x, b, gy, w))
    y = backend.relu(x, drop=mask)
    check_close(backend, y, factor * np.maximum(exact_x, 0), dtype, "max(x, 0) dropped")
    gx = backend.relu_grad(gy, y, mask.scale)
    check_close(backend, gx, factor * exact_gy * (exact_x > 0), dtype, "gx")
    if len(case.shape) == 2:
        y = backend.add_bias(x, b, relu=True, drop=mask)
        check_close(backend, y, factor * np.maximum(exact_x + exact_b, 0), dtype, "max(x + b, 0) dropped")
        for bias, exact in ((b, exact_b), (None, 0)):
            y = backend.linear(x, w, bias, relu=True, drop=mask)
            expected = factor * np.maximum(exact_x @ exact_w.T + exact, 0)
            check_close(backend, y, expected, dtype, "max(x w' + b, 0) dropped")


def check_dropout(backend: Backend, case: ArrayCase, dtype: Any) -> None:
    x, gy = values(case.shape, dtype, 1), values(case.shape, dtype, 2)
    exact_x, exact_gy = x.astype(np.float64), gy.astype(np.float64)
    mask, factor = mask_and_factor(case.shape)
    y, workspace = backend.dropout(backend.from_host(x), mask)
    check_close(backend, y, factor * exact_x, dtype, "y")
    gx = backend.dropout_grad(backend.from_host(gy), mask, workspace)
    check_close(backend, gx, factor * exact_gy, dtype, "gx")


def check_logistic_loss(backend: Backend, case: LossCase, dtype: Any) -> None:
    dtype = exact_dtype(dtype)
    z, exact, targets, counted = _logits(case, dtype)
    loss, gz = backend.logistic_loss(backend.from_host(z), np.array(case.labels), case.first_class)
    expected = ((np.logaddexp(0, exact) - targets * exact) * counted).sum()
    check_close(backend, loss, np.array(expected), dtype, "loss")
    check_close(backend, gz, (1 / (1 + np.exp(-exact)) - targets) * counted, dtype, "gz")


def check_softmax_loss(backend: Backend, case: LossCase, dtype: Any) -> None:
    dtype = exact_dtype(dtype)
    z, exact, targets, counted = _logits(case, dtype)
    row_max = backend.softmax_max(backend.from_host(z))
    check_close(backend, row_max, exact.max(axis=1, keepdims=True), dtype, "row_max")
    row_sum = backend.softmax_sum(backend.from_host(z), row_max)
    exact_sum = np.exp(exact - exact.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)
    check_close(backend, row_sum, exact_sum, dtype, "row_sum")
    # over all the classes a row may have a higher maximum and a larger sum than over this block of them
    higher, larger = backend.to_host(row_max) + z.dtype.type(0.5), backend.to_host(row_sum) * z.dtype.type(1.5)
    loss, gz = backend.softmax_loss(
        backend.from_host(z), backend.from_host(higher), backend.from_host(larger), np.array(case.labels),
        case.first_class,
    )  # fmt: skip
    log_sum = np.log(larger.astype(np.float64)) + higher
    check_close(backend, loss, np.array((targets * (log_sum - exact)).sum()), dtype, "loss")
    check_close(backend, gz, (np.exp(exact - log_sum) - targets) * counted, dtype, "gz")


def _logits(case: LossCase, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return logits, the same in float64, where the labels are, and which rows count, (n, 1)."""
    z = values((len(case.labels), case.classes), dtype, 1)
    labels = np.array(case.labels)[:, None]
    classes = np.arange(case.first_class, case.first_class + case.classes)
    return z, z.astype(np.float64), labels == classes, labels >= 0


ROWS_TABLE: list[tuple[Check, list[Any]]] = [
    (check_linear, LINEAR_CASES),
    (check_relu, ARRAY_CASES),
    (check_relu_and_dropout, MASKED_CASES),
    (check_dropout, MASKED_CASES),
    (check_logistic_loss, LOSS_CASES),
    (check_softmax_loss, LOSS_CASES),
]
