"""The differentiable collectives: their backward is the adjoint of their forward, over all ranks."""

import numpy as np
import pytest

from owt_mpi.autograd import backward, tensor
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.parallel.collective_ops import AllGatherOp, all_gather, reduce_scatter
from tests.op_check import REFERENCE

SHAPE = (12, 24)  # every axis can be shared by 2, 3 and 4 ranks


def inner_products(comm: Communicator, collective, axis: int) -> tuple[float, float]:
    """Return the sums over ranks of <A x, y> and <x, A' y>, for x and y that differ by rank."""
    rng = np.random.default_rng(comm.rank)
    x = tensor(rng.standard_normal(SHAPE), REFERENCE, requires_grad=True)
    output = collective(x, comm, axis)
    y = rng.standard_normal(output.shape)
    forward = float(np.vdot(output.data, y))
    backward(output, y)
    assert x.grad.shape == x.shape
    return forward, float(np.vdot(x.data, x.grad))


def sums_over_ranks(num_ranks: int, collective, axis: int) -> tuple[float, float]:
    pairs = run_ranks(num_ranks, lambda comm: inner_products(comm, collective, axis))
    return sum(forward for forward, _ in pairs), sum(back for _, back in pairs)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("collective", [all_gather, reduce_scatter])
def test_backward_is_the_adjoint_of_forward(collective, num_ranks, axis):
    forward, back = sums_over_ranks(num_ranks, collective, axis)
    assert forward == pytest.approx(back, rel=1e-12)
    assert abs(forward) > 1e-3


def test_the_adjoint_check_fails_for_a_slice_in_place_of_a_reduce_scatter(monkeypatch):
    def slice_only(self, gy):
        height = gy.shape[0] // self.comm.size
        return (gy[self.comm.rank * height : (self.comm.rank + 1) * height],)

    monkeypatch.setattr(AllGatherOp, "backward", slice_only)
    forward, back = sums_over_ranks(2, all_gather, 0)
    assert forward != pytest.approx(back, rel=1e-3)


def test_all_gather_then_reduce_scatter_multiplies_by_the_number_of_ranks():
    def there_and_back(comm):
        x = np.arange(24.0).reshape(2, 12) + comm.rank
        return x, reduce_scatter(all_gather(tensor(x, REFERENCE), comm, 1), comm, 1).data

    for x, result in run_ranks(3, there_and_back):
        np.testing.assert_array_equal(result, 3 * x)


def test_an_axis_that_ranks_cannot_share_is_named():
    def call(comm):
        reduce_scatter(tensor(np.ones((2, 7)), REFERENCE), comm, 1)

    with pytest.raises(ValueError, match=r"axis 1 of \(2, 7\) is no multiple of 2 ranks"):
        run_ranks(2, call)
