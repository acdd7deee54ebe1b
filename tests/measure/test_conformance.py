"""The benchmark's comparison with the reference: nothing is left out, and a wrong operation is named."""

import numpy as np
import pytest

from owt_mpi.backends.base import Backend
from owt_mpi.backends.half import HalfBackend
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.backends.wrapper import BackendWrapper
from owt_mpi.measure.conformance import TOLERANCE, compare
from owt_mpi.measure.timed_backend import TimedBackend

NO_ARITHMETIC = {
    "host_empty", "from_host", "to_host", "start_to_host", "synchronize", "set_num_threads", "memory", "replayable",
    "each_time",
}  # fmt: skip


def operations() -> set[str]:
    return {name for name in vars(Backend) if not name.startswith("_")} - NO_ARITHMETIC


def test_every_operation_of_a_backend_is_compared():
    timed = TimedBackend(ReferenceBackend())
    rows = compare(timed)
    assert {call.operation for call in timed.calls} - NO_ARITHMETIC == operations()
    assert {name for row in rows for name in row.operation.removesuffix(", ReLU").split(", ")} == operations()
    assert all(row.passes for row in rows)


class Wrong(BackendWrapper):
    def bias_grad(self, gy):
        return super().bias_grad(gy) * np.float32(1.0001)

    def lrn(self, x, size, alpha, beta, k):
        y, workspace = super().lrn(x, size, alpha, beta, k)
        y[0, 0, 0, 0] = np.nan
        return y, workspace

    def avg_pool2d(self, x, kernel, stride, pad):
        return super().avg_pool2d(x, kernel, stride, pad)[:, :-1]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_halves_are_compared_with_what_their_rounded_inputs_give(precision):
    pytest.importorskip("ml_dtypes")
    rows = compare(HalfBackend(ReferenceBackend()), precision)
    assert all(row.passes and row.precision == precision for row in rows)
    unit = {"bf16": 2.0**-8, "fp16": 2.0**-11}[precision]
    errors = {row.operation: row.error for row in rows if row.tolerance == 4 * unit}
    assert unit / 8 < max(errors.values()) <= 2 * unit  # rounded results, and none of them by rounded sums
    exact = {row.operation for row in rows if row.tolerance == TOLERANCE["fp32"]}
    losses = {"logistic_loss", "softmax_max, softmax_sum, softmax_loss"}
    assert exact == losses | {"momentum_sgd", "find_overflow"}


class Tf32(BackendWrapper):
    """Factors of products are cut to 11 bits, as tensor cores do; `everywhere`: those of LRN too, which none does."""

    def __init__(self, inner, everywhere=False):
        super().__init__(inner)
        self.everywhere = everywhere

    def linear(self, x, w, b, relu=False, drop=None):
        return super().linear(cut(x), cut(w), b, relu, drop)

    def conv2d(self, x, w, b, stride, pad, relu=False):
        return super().conv2d(cut(x), cut(w), b, stride, pad, relu)

    def lrn(self, x, size, alpha, beta, k):
        return super().lrn(cut(x) if self.everywhere else x, size, alpha, beta, k)


def cut(array):
    return (array.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def test_tf32_is_let_pass_in_products_alone():
    def failed(backend, precision):
        return [row.operation for row in compare(backend, precision) if not row.passes]

    products = ["conv2d", "conv2d, ReLU"] * 3 + ["linear, linear_grad_x, linear_grad_w"]
    assert failed(Tf32(ReferenceBackend()), "fp32") == products
    assert failed(Tf32(ReferenceBackend()), "tf32") == []
    assert failed(Tf32(ReferenceBackend(), everywhere=True), "tf32") == ["lrn, lrn_grad"]


def test_a_wrong_sum_a_nan_and_a_wrong_shape_do_not_pass():
    rows = compare(Wrong(ReferenceBackend()))
    failed = [row.operation for row in rows if not row.passes]
    assert failed == ["avg_pool2d, avg_pool2d_grad", "lrn, lrn_grad", "add_bias, bias_grad"]
