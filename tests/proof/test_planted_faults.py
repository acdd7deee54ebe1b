"""A fault that is planted in the ranks' program fails the very cases that it touches, and no other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import owt_mpi.parallel.sharded
import owt_mpi.parallel.wire
import owt_mpi.trainer
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.comm.threads import run_ranks
from owt_mpi.parallel.collective_ops import AllGatherOp
from owt_mpi.parallel.grad_sync import GradSync
from owt_mpi.parallel.head_update import GradientScales, gradient_scales
from owt_mpi.parallel.schemes import Senders
from owt_mpi.parallel.sharded_sync import _WeightBucket
from owt_mpi.parallel.wire import Wire
from owt_mpi.parallel.wire_format import from_wire, to_wire
from owt_mpi.prove import ProveOptions, run_proof

RANKS = 4
Row = tuple[str, int, int, str, str]  # scheme, senders, group size, head update, what else is not by default
WIRE = ("float16", "sharded bfloat16")
RESTRICTED = "cross-talk 0.25"


@pytest.fixture
def failures(tiny: str, tmp_path: Path) -> Callable[[], set[Row]]:
    """Runs all cases; returns those that fail."""

    def run() -> set[Row]:
        file = tmp_path / "table.json"
        options = ProveOptions(
            model=tiny,
            crop=11,
            classes=8,
            steps=2,
            dtype="float64",
            backend="reference",
            fc_blocks=4,
            json=str(file),
        )
        try:
            run_ranks(RANKS, lambda comm: run_proof(options, comm, RANKS))
            code = 0
        except CollectiveExit as end:
            code = end.code
        table = json.loads(file.read_text())["cases"]
        assert len(table) == 29
        assert {case["verdict"] for case in table} <= {"pass", "FAIL"}
        failing = [case for case in table if case["verdict"] == "FAIL"]
        assert code == (1 if failing else 0)
        return {
            (case["scheme"], case["senders"], case["group_size"], case["head_update"], extras_of(case))
            for case in failing
        }

    return run


def extras_of(case: dict[str, Any]) -> str:
    words = [case["trunk_sync"], case["wire_dtype"], f"cross-talk {case['fc_crosstalk']}"]
    return " ".join(word for word in words if word not in ("all-reduce", "auto", "cross-talk 1.0"))


def cases(schemes: str, updates: tuple[str, ...] = ("per-iteration", "per-pass", "every-2-passes")) -> set[Row]:
    """Return the cases of `schemes` ("s" is c with 2 senders) with one of `updates`."""
    plain = {"dp": [("dp", 0, 1, "per-iteration")]}
    for scheme in "abcd":
        plain[scheme] = [(scheme, 0, 4, "per-iteration"), (scheme, 0, 2, "per-iteration")]
        if scheme != "a":  # two passes in groups of two, so that every-2-passes is per-iteration
            plain[scheme] += [
                (scheme, 0, 4, "per-pass"), (scheme, 0, 4, "every-2-passes"), (scheme, 0, 2, "per-pass")
            ]  # fmt: skip
    plain["s"] = [("c", 2, 4, update) for update in ("per-iteration", "per-pass", "every-2-passes")]
    every = {scheme: [(*case, "") for case in listed] for scheme, listed in plain.items()}
    for scheme in ("dp", "a", "b", "c", "d"):
        every[scheme].append((*plain[scheme][0], RESTRICTED))
    every["c"] += [("c", 0, 2, "per-pass", "sharded"), *(("c", 0, 2, "per-iteration", wire) for wire in WIRE)]
    return {case for scheme in schemes.split() for case in every[scheme] if case[3] in updates}


def with_extras(*extras: str) -> set[Row]:
    """Return the cases of all schemes that have one of `extras`."""
    return {case for case in cases("dp a b c d s") if case[4] in extras}


BETWEEN_PASSES = ("per-pass", "every-2-passes")


def test_without_a_fault_every_case_passes(failures):
    assert failures() == set()
    assert len(cases("dp a b c d s")) == 29


def test_a_slice_in_place_of_a_reduce_scatter_fails_where_units_are_split(failures, monkeypatch):
    def slice_only(self, gy):
        width = gy.shape[1] // self.comm.size
        return (np.ascontiguousarray(gy[:, self.comm.rank * width : (self.comm.rank + 1) * width]),)

    monkeypatch.setattr(AllGatherOp, "backward", slice_only)
    # of (d), restricted layers alone gather: their cross-talk
    assert failures() == cases("a b c s") | (cases("d") & with_extras(RESTRICTED))


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
    in_two_passes = {
        ("c", 2, 4, "every-2-passes", "")
    }  # the two chunks of a turn make one update: their order is the same
    assert failures() == (cases("c s", BETWEEN_PASSES) | cases("d")) - in_two_passes


def test_copies_of_the_head_that_are_not_summed_fail_wherever_there_are_copies(failures, monkeypatch):
    plain = GradSync.__init__

    def without_head(self, parameters, comm, backend, bucket_bytes, multiple):
        own = comm if comm.label == "trunk" else comm.split(comm.rank, 0, "alone")
        plain(self, parameters, own, backend, bucket_bytes, multiple)

    monkeypatch.setattr(GradSync, "__init__", without_head)
    assert failures() == cases("dp") | {case for case in cases("a b c d s") if case[2] == 2}


def test_a_block_of_new_weights_that_is_not_gathered_fails_sharded_updates(failures, monkeypatch):
    def all_but_the_last(self, weights):
        length = len(self.own)
        self._flat[:-length] = weights[:-length]

    monkeypatch.setattr(_WeightBucket, "write", all_but_the_last)
    assert failures() == with_extras("sharded", "sharded bfloat16")


def test_momentum_that_sharded_updates_forget_fails_where_there_are_several(failures, monkeypatch):
    plain = _WeightBucket.update_own

    def forgetful(self, grad, lr, grad_scale, skip):
        for velocity in self._optimizer.velocities:
            velocity[...] = 0
        plain(self, grad, lr, grad_scale, skip)

    monkeypatch.setattr(_WeightBucket, "update_own", forgetful)
    assert failures() == with_extras("sharded")


def test_cross_talk_of_the_block_beside_fails_restricted_layers_that_are_split(failures, monkeypatch):
    plain = owt_mpi.parallel.sharded.block_linear

    def beside(x, cross, w, b, blocks, first, count):
        return plain(x, cross, w, b, blocks, (first + 1) % blocks, count)

    monkeypatch.setattr(owt_mpi.parallel.sharded, "block_linear", beside)
    assert failures() == with_extras(RESTRICTED) - cases("dp")


def test_a_type_that_keeps_fewer_digits_than_the_one_asked_for_fails_there(failures, monkeypatch):
    for function in (to_wire, from_wire):

        def always_bfloat16(x, wire_dtype, *dtype, convert=function):
            return convert(x, "bfloat16", *dtype)

        monkeypatch.setattr(owt_mpi.parallel.wire, function.__name__, always_bfloat16)
    assert failures() == with_extras("float16")


def test_sums_made_in_16_bits_fail_where_they_are_not_rounded_anyway(failures, monkeypatch):
    def in_16_bits(self, terms, dtype):
        first, *others = terms.reshape(self._comm.size, -1)
        total = from_wire(first, self._dtype, dtype)
        for term in others:
            total = from_wire(to_wire(total + from_wire(term, self._dtype, dtype), self._dtype), self._dtype, dtype)
        return total

    monkeypatch.setattr(Wire, "_sum", in_16_bits)
    assert failures() == with_extras("sharded bfloat16")  # an all-reduce rounds sums to send them
