"""A fault that is planted in the ranks' program fails the very cases that it touches, and no other."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import owt_mpi.trainer
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.comm.threads import run_ranks
from owt_mpi.parallel.collective_ops import AllGatherOp
from owt_mpi.parallel.grad_sync import GradSync
from owt_mpi.parallel.head_update import GradientScales, gradient_scales
from owt_mpi.parallel.schemes import Senders
from owt_mpi.prove import ProveOptions, run_proof

RANKS = 4


@pytest.fixture
def failures(tiny: str, tmp_path: Path) -> Callable[[], set[tuple[str, int, int, str]]]:
    """Runs all cases; returns those that fail, as (scheme, senders, group size, head update)."""

    def run() -> set[tuple[str, int, int, str]]:
        file = tmp_path / "table.json"
        options = ProveOptions(
            model=tiny, crop=11, classes=8, steps=2, dtype="float64", backend="reference", json=str(file)
        )
        try:
            run_ranks(RANKS, lambda comm: run_proof(options, comm, RANKS))
            code = 0
        except CollectiveExit as end:
            code = end.code
        table = json.loads(file.read_text())["cases"]
        assert len(table) == 21
        assert {case["verdict"] for case in table} <= {"pass", "FAIL"}
        failing = [case for case in table if case["verdict"] == "FAIL"]
        assert code == (1 if failing else 0)
        return {(case["scheme"], case["senders"], case["group_size"], case["head_update"]) for case in failing}

    return run


def cases(schemes: str, updates: tuple[str, ...] = ("per-iteration", "per-pass", "every-2-passes")) -> set:
    """Return the cases of `schemes` ("s" is c with 2 senders) with one of `updates`."""
    every: dict[str, list[tuple[str, int, int, str]]] = {"dp": [("dp", 0, 1, "per-iteration")], "s": []}
    for scheme in "abcd":
        every[scheme] = [(scheme, 0, 4, "per-iteration"), (scheme, 0, 2, "per-iteration")]
        if scheme != "a":  # two passes in groups of two, so that every-2-passes is per-iteration
            every[scheme] += [
                (scheme, 0, 4, "per-pass"), (scheme, 0, 4, "every-2-passes"), (scheme, 0, 2, "per-pass")
            ]  # fmt: skip
    every["s"] = [("c", 2, 4, update) for update in ("per-iteration", "per-pass", "every-2-passes")]
    return {case for scheme in schemes.split() for case in every[scheme] if case[3] in updates}


BETWEEN_PASSES = ("per-pass", "every-2-passes")


def test_without_a_fault_every_case_passes(failures):
    assert failures() == set()
    assert len(cases("dp a b c d s")) == 21


def test_a_slice_in_place_of_a_reduce_scatter_fails_where_units_are_split(failures, monkeypatch):
    def slice_only(self, gy):
        width = gy.shape[1] // self.comm.size
        return (np.ascontiguousarray(gy[:, self.comm.rank * width : (self.comm.rank + 1) * width]),)

    monkeypatch.setattr(AllGatherOp, "backward", slice_only)
    assert failures() == cases("a b c s")


def test_a_missing_scale_at_the_boundary_fails_where_the_head_is_updated_between_passes(failures, monkeypatch):
    def unscaled(*arguments: int) -> GradientScales:
        scales = gradient_scales(*arguments)
        return GradientScales(scales.head_batch, scales.head, 1.0)

    monkeypatch.setattr(owt_mpi.trainer, "gradient_scales", unscaled)
    assert failures() == cases("b c d s", BETWEEN_PASSES)


def test_a_head_whose_loss_is_no_mean_over_its_batch_fails_where_it_is_updated_between_passes(failures, monkeypatch):
    def mean_over_all(global_batch: int, num_passes: int, period: int) -> GradientScales:
        return GradientScales(global_batch * period // num_passes, 1.0 / global_batch, 1.0)

    monkeypatch.setattr(owt_mpi.trainer, "gradient_scales", mean_over_all)
    assert failures() == cases("b c d s", BETWEEN_PASSES)


def test_labels_of_the_rows_beside_fail_all_schemes_with_passes(failures, monkeypatch):
    plain = Senders.group_rows
    monkeypatch.setattr(Senders, "group_rows", lambda self, size, n, p: (plain(self, size, n, p) + 1) % (size * n))
    assert failures() == cases("b c d s")


def test_sending_the_chunk_beside_fails_where_a_rank_sends_several(failures, monkeypatch):
    def beside(self, comm, num_rows, p):
        if comm.rank // self.senders != p // self.senders:
            return None
        length = num_rows // self.senders
        chunk = (p + 1) % self.senders
        return slice(chunk * length, (chunk + 1) * length)

    monkeypatch.setattr(Senders, "own_rows", beside)
    assert failures() == cases("c s")


def test_passes_in_another_order_fail_where_the_head_is_updated_between_them(failures, monkeypatch):
    """The rows sent, their labels and what returns agree with each other, but not with the paper's order."""
    rows, own = Senders.group_rows, Senders.own_rows

    def other(self: Senders, p: int) -> int:
        turn, chunk = divmod(p, self.senders)
        return turn * self.senders + (self.senders - 1 - chunk)

    monkeypatch.setattr(Senders, "group_rows", lambda self, size, n, p: rows(self, size, n, other(self, p)))
    monkeypatch.setattr(Senders, "own_rows", lambda self, comm, n, p: own(self, comm, n, other(self, p)))
    # (d) has own rows of its own, which no longer go with the labels; (b) has one chunk a turn, and nothing changes
    in_two_passes = {("c", 2, 4, "every-2-passes")}  # the two chunks of a turn make one update: their order is the same
    assert failures() == (cases("c s", BETWEEN_PASSES) | cases("d")) - in_two_passes


def test_copies_of_the_head_that_are_not_summed_fail_wherever_there_are_copies(failures, monkeypatch):
    plain = GradSync.__init__

    def without_head(self, parameters, comm, *others):
        plain(self, parameters, comm if comm.label == "trunk" else comm.split(comm.rank, 0, "alone"), *others)

    monkeypatch.setattr(GradSync, "__init__", without_head)
    assert failures() == cases("dp") | {case for case in cases("a b c d s") if case[2] == 2}
