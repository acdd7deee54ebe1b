"""The exchange: the forecast's bytes, and the time they need on links."""

from math import prod

import numpy as np
import pytest

from owt_mpi.nn.models import MODELS
from owt_mpi.parallel.layout import Plan
from owt_mpi.planner.devices import Link
from owt_mpi.planner.exchange import exchange_seconds, exchanges, layout_of
from owt_mpi.summary import BOUNDARY_BYTES, summarise
from tests.planner.steps import SPEC


def parts_of(plan: Plan, n: int = 16, precision="fp32"):
    return {part.part: part for part in exchanges(MODELS["alexnet-owt"](SPEC), layout_of(plan), n, precision)}


@pytest.mark.parametrize("scheme", ["dp", "a", "b", "c", "d"])
@pytest.mark.parametrize(("precision", "dtype"), [("tf32", np.float32), ("bf16", np.float16)])
def test_bytes_are_those_of_a_dry_run(scheme, precision, dtype):
    forecast = summarise(MODELS["alexnet-owt"](SPEC), layout_of(Plan(4, scheme)), 16, np.dtype(dtype)).received_bytes
    assert {p.part: p.received_bytes for p in parts_of(Plan(4, scheme), 16, precision).values()} == forecast


@pytest.mark.parametrize(
    ("plan", "blocks"),
    [
        (Plan(4, "a"), 3),  # a ring all-gather: every rank receives the others' n rows
        (Plan(4, "b"), 4),  # four broadcasts: who does not send receives n rows in each, and all wait for those
        (Plan(4, "c"), 3),
        (Plan(4, "c", senders=2), 4),  # n/2 rows from each of two ranks in each of four passes
        (Plan(4, "d"), 3 / 4),  # a quarter of the features
        (Plan(4, "c", 2), 1),
    ],
)
def test_the_boundary_lasts_as_long_as_its_busiest_link(plan, blocks):
    forward_and_backward = 2 * blocks * 16 * 9216 * 4
    assert parts_of(plan)[BOUNDARY_BYTES].seconds(Link("wire", 1e9)) == pytest.approx(forward_and_backward / 1e9)


def test_a_ring_all_reduce_of_the_trunk_receives_2_k_minus_1_over_k_times_its_bytes():
    gradients = parts_of(Plan(8, "c"))["gradients of the trunk"]
    assert gradients.seconds(Link("wire", 1e9)) == pytest.approx(2 * 7 / 8 * prod((4, 2_469_696)) / 1e9)


def test_one_rank_exchanges_nothing():
    assert exchange_seconds(parts_of(Plan(1)).values(), Link("wire", 1e9)) == 0
