"""float16 and bfloat16 between ranks: moved as they are, added up in float32 and rounded once."""

import numpy as np
import pytest

from owt_mpi.backends.precision import HALF_DTYPES
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.half import HalfCommunicator, carrying_halves
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from tests.comm import checks
from tests.comm.recording import RecordingCommunicator

SUMS = (
    checks.check_all_reduce_sums_every_dtype,
    checks.check_all_gather_joins_every_axis_of_every_dtype,
    checks.check_reduce_scatter_gives_the_own_block_of_the_sum,
    checks.check_all_gather_rows_joins_unequal_parts,
    checks.check_reduce_scatter_rows_gives_the_own_rows_of_the_sum,
    checks.check_broadcast_gives_the_roots_array_and_leaves_the_others_alone,
    checks.check_reduce_gives_the_sum_to_the_root_alone,
    checks.check_all_to_all_exchanges_blocks_along_every_pair_of_axes,
)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_other_arrays_go_through(check, size):
    def with_halves_carried(comm: Communicator) -> None:
        check(HalfCommunicator(comm))

    if check is not checks.check_bad_arguments_are_refused_before_anything_is_sent:  # halves are no longer refused
        run_ranks(size, with_halves_carried)


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("check", SUMS, ids=lambda check: check.__name__)
def test_halves_are_moved_and_summed_as_other_numbers_are(check, size, dtype, monkeypatch):
    """The checks' values are small integers, whose sums are exact in halves too."""
    monkeypatch.setattr(checks, "DTYPES", (dtype,))
    plain = checks.values
    monkeypatch.setattr(checks, "values", lambda shape, rank, _=None, salt=0: plain(shape, rank, dtype, salt))
    monkeypatch.setattr(
        checks, "all_values", lambda comm, shape, _=None, salt=0: [plain(shape, r, dtype, salt) for r in range(size)]
    )
    run_ranks(size, lambda comm: check(HalfCommunicator(comm)))


ADDS = {
    "reduce_scatter": lambda comm, x: comm.start_reduce_scatter(x, axis=1),
    "even rows": lambda comm, x: comm.start_reduce_scatter_rows(x, [len(x) // comm.size] * comm.size),
    "uneven rows": lambda comm, x: comm.start_reduce_scatter_rows(x, [0] * (comm.size - 1) + [len(x)]),
    "all_reduce": lambda comm, x: comm.start_all_reduce(x),
}


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
@pytest.mark.parametrize("add", ADDS.values(), ids=ADDS)
def test_a_sum_is_rounded_once(add, dtype):
    """Three terms of half the spacing at 1 are lost one by one, and together they are not."""
    spacing = 2.0**-10 if dtype == np.float16 else 2.0**-7

    def run(comm):
        x = np.full((4, 4), 1.0 if comm.rank == 0 else 0.5 * spacing, dtype)
        return add(HalfCommunicator(comm), x).wait()

    for total in run_ranks(4, run):
        np.testing.assert_array_equal(total.astype(np.float64), 1.0 + 2 * spacing)  # 1.5 spacings, to even


def test_ranks_send_halves_where_each_adds_up_its_block():
    events = []
    comm = SerialCommunicator()
    half = HalfCommunicator(RecordingCommunicator(comm, events))
    half.start_reduce_scatter(np.ones((2, 2), np.float16)).wait()
    half.start_all_gather(np.ones((2, 2), np.float16)).wait()
    assert [event.split()[1] for event in events if event.startswith("start")] == ["all_to_all", "all_gather"]


def test_only_halves_need_it():
    comm = SerialCommunicator()
    assert carrying_halves(comm, np.dtype(np.float32)) is comm
    assert isinstance(carrying_halves(comm, np.dtype(np.float16)), HalfCommunicator)


def test_an_array_that_is_not_contiguous_is_refused():
    with pytest.raises(ValueError, match="not C-contiguous"):
        HalfCommunicator(SerialCommunicator()).start_all_gather(np.ones((3, 2), np.float16).T)
