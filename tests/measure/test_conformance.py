"""The benchmark's comparison with the reference: nothing is left out, and a wrong operation is named."""

import numpy as np

from owt_mpi.backends.base import Backend
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.backends.wrapper import BackendWrapper
from owt_mpi.measure.conformance import compare
from owt_mpi.measure.timed_backend import TimedBackend

NO_ARITHMETIC = {
    "host_empty", "from_host", "to_host", "synchronize", "set_num_threads", "memory", "replayable", "each_time",
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


def test_a_wrong_sum_a_nan_and_a_wrong_shape_do_not_pass():
    rows = compare(Wrong(ReferenceBackend()))
    failed = [row.operation for row in rows if not row.passes]
    assert failed == ["avg_pool2d, avg_pool2d_grad", "lrn, lrn_grad", "add_bias, bias_grad"]
