"""Ranks that start different collectives all raise one error that names who started what, before any data moves."""

from collections.abc import Callable

import numpy as np
import pytest

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.checked import CheckedCommunicator
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.comm.place import enter, in_pass
from owt_mpi.comm.threads import run_ranks
from owt_mpi.spans import about
from tests.comm.checks import CHECKS
from tests.comm.recording import RecordingCommunicator


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_is_a_communicator(check: Callable[[Communicator], None], size: int) -> None:
    run_ranks(size, lambda comm: check(CheckedCommunicator(comm)))


def errors_of(size: int, fn: Callable[[Communicator], object]) -> list[str]:
    """Return the error that `fn` raises on each rank."""

    def catch(comm: Communicator) -> str:
        with pytest.raises(CollectiveExit) as caught:
            fn(CheckedCommunicator(comm))
        assert caught.value.code == 1
        return str(caught.value)

    return run_ranks(size, catch)


X = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        (lambda comm: comm.start_reduce_scatter(X, 0), "reduce_scatter(float32, (2, 4), axis=0) on 'world'"),
        (lambda comm: comm.start_all_gather(X, 0), "all_gather(float32, (2, 4), axis=0) on 'world'"),
        (lambda comm: comm.start_all_gather(X[:1], 1), "all_gather(float32, (1, 4), axis=1) on 'world'"),
        (lambda comm: comm.start_all_gather(X.astype(np.float64), 1), "all_gather(float64, (2, 4), axis=1)"),
        (lambda comm: comm.start_broadcast(X, 1), "broadcast(float32, (2, 4), root=1)"),
        (lambda comm: comm.barrier(), "barrier() on 'world'"),
        (lambda comm: comm.split(0, 0, "part"), "split('part') on 'world'"),
    ],
    ids=["kind", "axis", "shape", "dtype", "root", "barrier", "split"],
)
def test_the_odd_rank_is_named_with_what_it_and_the_others_started(odd, named: str) -> None:
    def fn(comm: Communicator) -> None:
        comm.barrier()
        enter("head", 7)
        odd(comm) if comm.rank == 1 else comm.start_all_gather(X, 1)

    errors = errors_of(4, fn)
    assert len(set(errors)) == 1
    first, odd_line, others_line, _ = errors[0].splitlines()
    assert first.startswith("error: the ranks disagree on collective 2, ")
    assert odd_line.startswith(f"  rank 1 started {named}")
    assert others_line.startswith(
        "  ranks 0, 2, 3 started all_gather(float32, (2, 4), axis=1) on 'world' in step 7, head (test_checked.py:"
    )


@pytest.mark.parametrize(
    ("step", "head_pass", "layer", "place"),
    [(4, 1, "fc6", "step 4, head, pass 1, fc6"), (3, 2, "fc6", "step 3, head, pass 2, fc6"), (3, 1, "fc7", "fc7")],
)
def test_the_same_call_of_another_step_pass_or_layer_is_a_mismatch(step, head_pass, layer, place) -> None:
    def fn(comm: Communicator) -> None:
        odd = comm.rank == 0
        enter("head", step if odd else 3)
        with in_pass(head_pass if odd else 1), about(layer if odd else "fc6"):
            comm.start_all_reduce(X)

    error = errors_of(3, fn)[2]
    assert f"rank 0 started all_reduce(float32, (2, 4)) on 'world' in {'' if layer == 'fc7' else place}" in error
    assert place in error
    assert "ranks 1, 2 started all_reduce(float32, (2, 4)) on 'world' in step 3, head, pass 1, fc6" in error


def test_the_order_of_two_communicators_of_the_same_ranks_is_compared() -> None:
    def fn(comm: Communicator) -> None:
        pair = [comm.dup("trunk"), comm.split(0, -comm.rank, "head")]
        for each in pair if comm.rank else pair[::-1]:
            each.start_all_reduce(X)

    assert errors_of(2, fn) == errors_of(2, fn)
    assert "rank 0 started all_reduce(float32, (2, 4)) on 'head'" in errors_of(2, fn)[0]
    assert "rank 1 started all_reduce(float32, (2, 4)) on 'trunk'" in errors_of(2, fn)[0]


def test_groups_are_compared_apart_and_name_ranks_of_the_world() -> None:
    def fn(comm: Communicator) -> str:
        group = CheckedCommunicator(comm).split(comm.rank % 2, 0, "group")
        try:
            group.start_all_reduce(X if comm.rank != 3 else X[:1]).wait()
        except CollectiveExit as error:
            return str(error)
        return ""

    errors = run_ranks(4, fn)
    assert errors[0] == errors[2] == ""
    assert errors[1] == errors[3]
    assert "rank 1 started all_reduce(float32, (2, 4)) on 'group'" in errors[1]
    assert "rank 3 started all_reduce(float32, (1, 4)) on 'group'" in errors[1]


def test_no_data_moves_before_a_mismatch_is_told() -> None:
    events: dict[int, list[str]] = {0: [], 1: []}

    class Recording(RecordingCommunicator):
        def dup(self, label: str) -> Communicator:
            return self._inner.dup(label)

    def fn(comm: Communicator) -> None:
        checked = CheckedCommunicator(Recording(comm, events[comm.rank]))
        checked.start_all_reduce(X)
        with pytest.raises(CollectiveExit):
            checked.start_all_reduce(X if comm.rank else X[:1])

    run_ranks(2, fn)
    assert events == {0: ["start all_reduce 1"], 1: ["start all_reduce 1"]}
