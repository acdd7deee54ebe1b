"""Sums by way of the nodes equal flat ones, on virtual nodes, and the ledger counts the steps they are made of."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.device_arrays import DeviceCommunicator
from owt_mpi.comm.ledger import Ledger
from owt_mpi.comm.metered import MeteredCommunicator
from owt_mpi.comm.node_sums import NodeSumCommunicator, by_nodes, shares, why_flat
from owt_mpi.comm.staged import StagedLane, Staging
from owt_mpi.comm.threads import run_ranks
from tests.comm.checks import CHECKS, values
from tests.comm.recording import RecordingCommunicator
from tests.fake_cupy import RACES, stand_in
from tests.mpi_run import Result

MODES = pytest.mark.parametrize("is_sharded", [False, True], ids=["leaders", "sharded"])
NODES = {"2 x 2": "aabb", "dealt out": "abab", "2 x 3": "ababba", "1 and 3": "abbb", "3 nodes": "aabbcc"}


@MODES
@pytest.mark.parametrize("nodes", ["aabb", "abab", "abbb"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_is_a_communicator(check: Callable[[Communicator], None], nodes: str, is_sharded: bool) -> None:
    run_ranks(len(nodes), lambda comm: check(by_nodes(comm, is_sharded, nodes[comm.rank])))


@MODES
@pytest.mark.parametrize("length", [0, 1, 5, 64])
def test_sums_equal_flat_ones_within_rounding(length: int, is_sharded: bool) -> None:
    def sums(comm: Communicator) -> tuple[np.ndarray, np.ndarray]:
        x = np.random.default_rng(comm.rank).standard_normal(length).astype(np.float32)
        kept = x.copy()
        flat = comm.start_all_reduce(x).wait()
        stepped = by_nodes(comm, is_sharded, "ababba"[comm.rank])
        assert isinstance(stepped, NodeSumCommunicator)
        total = stepped.start_all_reduce(x).wait()
        np.testing.assert_array_equal(x, kept)
        np.testing.assert_array_equal(stepped.dup("twin").start_all_reduce(x, x).wait(), total)
        np.testing.assert_allclose(total, flat, rtol=1e-5, atol=1e-6)
        return total, x

    totals = run_ranks(6, sums)
    for total, in_place in totals:
        np.testing.assert_array_equal(total, totals[0][0], "the same bits on every rank")
        np.testing.assert_array_equal(in_place, total)


@MODES
def test_only_sums_of_shards_or_of_leaders_cross_between_nodes(is_sharded: bool) -> None:
    """Two nodes of three: what crosses is b for the leaders alone, or b / 3 for every rank."""

    def crossing(comm: Communicator) -> list[str]:
        events: list[str] = []
        node = comm.split("ababba".index("ab"["ababba"[comm.rank] == "b"]), comm.rank, "node")
        across: Any = comm.split(node.rank if is_sharded else min(node.rank, 1), comm.rank, "across")
        sizes: list[int] = []

        class Sizes(RecordingCommunicator):
            def start_all_reduce(self, x: Any, out: Any = None) -> Any:
                sizes.append(x.size)
                return super().start_all_reduce(x, out)

        stepped = NodeSumCommunicator(comm, node, Sizes(across, events), is_sharded, "")
        stepped.start_all_reduce(values((6,), comm.rank)).wait()
        return [str(size) for size in sizes]

    crossed = run_ranks(6, crossing)
    assert crossed == ([["2"]] * 6 if is_sharded else [["6"], ["6"], [], [], [], []])


@MODES
@pytest.mark.parametrize("nodes", NODES.values(), ids=NODES)
def test_the_ledger_counts_the_steps(nodes: str, is_sharded: bool) -> None:
    def bytes_of(comm: Communicator) -> None:
        whole, steps = Ledger(), Ledger()
        stepped = by_nodes(comm, is_sharded, nodes[comm.rank])
        metered = MeteredCommunicator(stepped, whole)
        x = values((7, 5), comm.rank)
        metered.start_all_reduce(x).wait()
        [flow] = whole.take().values()
        if not isinstance(stepped, NodeSumCommunicator):
            assert (flow.sent_bytes, flow.received_bytes) == (2 * 3 * 140 // 4, 2 * 3 * 140 // 4)
            return
        parts = [MeteredCommunicator(part, steps) for part in (stepped._node, stepped._across)]
        NodeSumCommunicator(comm, *parts, is_sharded, "").start_all_reduce(x).wait()
        flows = steps.take().values()
        assert flow.sent_bytes == sum(step.sent_bytes for step in flows)
        assert flow.received_bytes == sum(step.received_bytes for step in flows)

    run_ranks(len(nodes), bytes_of)


def test_groups_that_are_split_off_go_by_their_own_nodes() -> None:
    def kinds(comm: Communicator) -> list[str]:
        stepped = by_nodes(comm, True, "aaaabbbb"[comm.rank])
        straddling = stepped.split(comm.rank % 2, comm.rank, "straddling")
        inside = stepped.split(comm.rank // 4, comm.rank, "inside")
        alone = stepped.split(comm.rank, 0, "alone")
        return [type(each).__name__ for each in (straddling, inside, alone)]

    assert run_ranks(8, kinds) == [["NodeSumCommunicator", "ThreadCommunicator", "ThreadCommunicator"]] * 8


def test_what_is_no_gain_is_left_out_and_the_reason_given() -> None:
    assert why_flat("aaaa", False) == "all ranks are on one node"
    assert why_flat("abcd", True) == "no two ranks share a node"
    assert why_flat("aabbb", True) == "nodes have 2 or 3 ranks"
    assert why_flat("aabbb", False) == why_flat("abab", True) == ""


def test_shares_are_as_equal_as_can_be() -> None:
    assert [shares(size, 3) for size in (0, 1, 7, 9)] == [[0, 0, 0], [0, 0, 1], [2, 2, 3], [3, 3, 3]]


@MODES
def test_device_arrays_are_staged_by_way_of_the_nodes_too(is_sharded: bool) -> None:
    def total(comm: Communicator) -> np.ndarray:
        staging = Staging(cupy, 0, chunk_bytes=40)
        stepped = by_nodes(comm, is_sharded, "abba"[comm.rank])
        device_comm = DeviceCommunicator(stepped, cupy, lambda inner: StagedLane(inner, staging))
        x = cupy.asarray(values((7, 5), comm.rank)) + 1
        assert device_comm.all_reduce_bytes(x) == stepped.all_reduce_bytes(values((7, 5), 0))
        return device_comm.start_all_reduce(x, x).wait().get()

    with stand_in() as cupy:
        expected = 4 + sum(values((7, 5), rank) for rank in range(4))
        for result in run_ranks(4, total):
            np.testing.assert_array_equal(result, expected)
    assert RACES == []


@MODES
def test_mpi(mpirun: Callable[..., Result], is_sharded: bool) -> None:
    result = mpirun(4, ["-m", "tests.comm.run_node_sums", "sharded" if is_sharded else "leaders"]).check()
    for stdout in result.rank_stdout:
        assert set(stdout.split()) == {check.__name__ for check in CHECKS}
