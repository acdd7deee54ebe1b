"""Gradients in 16 bits on the wire: exact conversions, sums in full precision, the same bits on every rank."""

import numpy as np
import pytest

from owt_mpi.comm.base import Then
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.parallel.grad_sync import AllReduceSync
from owt_mpi.parallel.layout import Plan
from owt_mpi.parallel.sharded_sync import ShardedSync
from owt_mpi.parallel.wire import Wire
from owt_mpi.parallel.wire_format import from_wire, to_wire, wire_itemsize
from tests.parallel.chain import LAYER_BYTES, TwoAlike, events_of_step
from tests.tiny import largest_difference, train_tiny_on

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
PATTERNS = np.arange(1 << 16, dtype=np.uint16)
UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # half the spacing at 1


def float32_of(bits):
    return np.asarray(bits, np.uint32).view(np.float32)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("wire_dtype", ["float16", "bfloat16"])
def test_every_16_bit_number_comes_back_as_it_is(wire_dtype, dtype):
    with np.errstate(invalid="ignore"):  # signalling NaNs, which to_wire does not make
        values = from_wire(PATTERNS, wire_dtype, dtype)
    assert values.dtype == dtype
    number = ~np.isnan(values)
    back = to_wire(values, wire_dtype)
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back[number], PATTERNS[number])
    assert np.isnan(from_wire(back[~number], wire_dtype, dtype)).all()
    assert (~number).sum() == 2 * (2 ** (10 if wire_dtype == "float16" else 7) - 1)


@pytest.mark.parametrize("below", [1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_what_lies_between_two_bfloat16_numbers_goes_to_the_nearer_and_a_tie_to_the_even_one(below):
    low = PATTERNS[(PATTERNS & 0x7FFF) < 0x7F80].astype(np.uint32)  # all that are finite, subnormal ones included
    between = float32_of(low << 16 | below).astype(np.float64)
    ends = [float32_of(bits << 16).astype(np.float64) for bits in (low, low + 1)]
    ends[1][np.isinf(ends[1])] = np.copysign(2.0**128, ends[1][np.isinf(ends[1])])  # where the next number would be
    to_low, to_high = (np.abs(between - end) for end in ends)
    expected = np.where(to_low == to_high, low + (low & 1), np.where(to_low < to_high, low, low + 1))
    np.testing.assert_array_equal(to_wire(float32_of(low << 16 | below), "bfloat16"), expected)


def test_no_nan_becomes_a_number_and_what_is_too_large_becomes_infinite():
    nans = float32_of([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF])
    large = np.array([np.inf, -np.inf, 3.4028235e38, -3.4028235e38], np.float32)
    for wire_dtype in ("float16", "bfloat16"):
        assert np.isnan(from_wire(to_wire(nans, wire_dtype), wire_dtype, FLOAT32)).all()
        got = from_wire(to_wire(large, wire_dtype), wire_dtype, FLOAT32)
        np.testing.assert_array_equal(got, [np.inf, -np.inf, np.inf, -np.inf])


def test_the_numbers_to_send_are_not_changed():
    x = np.random.default_rng(0).standard_normal(9).astype(np.float32)
    before = x.copy()
    for wire_dtype in ("float32", "float16", "bfloat16"):
        sent = to_wire(x, wire_dtype)
        assert sent.itemsize == wire_itemsize(wire_dtype, FLOAT32)
        sent[...] = 0
        np.testing.assert_array_equal(x, before)
    assert (wire_itemsize("auto", FLOAT32), wire_itemsize("auto", FLOAT64)) == (4, 8)


def term_of(rank, dtype=FLOAT64):
    return np.random.default_rng(rank).standard_normal(12 * 5).astype(dtype)


def sums_of(num_ranks, wire_dtype, make_term, dtype=FLOAT64):
    """Return what each rank gets from an all-reduce, and the blocks of a reduce-scatter joined."""

    def fn(comm):
        wire, flat = Wire(comm, wire_dtype), make_term(comm.rank, dtype)
        own = wire.start_reduce_scatter(flat).wait()
        total = wire.start_all_reduce(flat).wait().wait()
        assert total is flat
        assert own.dtype == total.dtype == dtype
        return total, own

    results = run_ranks(num_ranks, fn)
    for total, _ in results[1:]:
        np.testing.assert_array_equal(total, results[0][0])
    return results[0][0], np.concatenate([own for _, own in results])


@pytest.mark.parametrize("wire_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_sums_are_wrong_by_no_more_than_stated_and_equal_on_all_ranks(num_ranks, wire_dtype):
    exact = sum(term_of(rank) for rank in range(num_ranks))
    magnitude = sum(np.abs(term_of(rank)) for rank in range(num_ranks))
    reduced, scattered = sums_of(num_ranks, wire_dtype, term_of)
    u = UNIT[wire_dtype]
    slack = 1 + 2.0**-14  # bfloat16 is rounded by way of float32
    assert (np.abs(scattered - exact) <= slack * u * magnitude).all()
    assert (np.abs(reduced - exact) <= slack * (2 * u + u * u) * magnitude).all()
    assert np.abs(scattered - exact).max() > u / 8, "something was rounded"
    np.testing.assert_array_equal(reduced, from_wire(to_wire(reduced, wire_dtype), wire_dtype, FLOAT64))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_as_computed_nothing_is_rounded(dtype):
    expected = term_of(0, dtype) + term_of(1, dtype) + term_of(2, dtype)
    for got in sums_of(3, "auto", term_of, dtype):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("wire_dtype", "large"), [("float16", 2048), ("bfloat16", 256)])
def test_sums_are_not_made_in_16_bits(wire_dtype, large):
    # in 16 bits large + 1 is large, twice
    reduced, scattered = sums_of(3, wire_dtype, lambda rank, dtype: np.full(6, [large, 1, 1][rank], dtype), FLOAT32)
    assert (reduced == large + 2).all()
    assert (scattered == large + 2).all()


@pytest.mark.parametrize("trunk_sync", ["all-reduce", "sharded"])
@pytest.mark.parametrize("wire_dtype", ["float32", "float16", "bfloat16"])
def test_ranks_stay_alike_and_near_the_network_of_full_precision(wire_dtype, trunk_sync):
    plan = Plan(4, "c", group_size=2)  # copies of the head too; train_tiny_on looks that all ranks agree
    exact, _ = train_tiny_on(plan, num_steps=5)
    rounded, _ = train_tiny_on(plan, num_steps=5, trunk_sync=trunk_sync, wire_dtype=wire_dtype)
    assert 0 < largest_difference(rounded, exact) < UNIT[wire_dtype]


@pytest.mark.parametrize("sync_type", [AllReduceSync, ShardedSync])
def test_terms_cross_during_backward_and_sums_or_weights_come_back_after_it(sync_type, monkeypatch):
    layer = "backward of a layer"
    sent = [layer, layer, "start all_to_all 1", layer, layer, "start all_to_all 2"]
    returned = {
        AllReduceSync: [
            "wait all_to_all 1", "start all_gather 3", "wait all_to_all 2", "start all_gather 4",
            "wait all_gather 3", "wait all_gather 4", "update", "other work",
        ],
        ShardedSync: [
            "wait all_to_all 1", "update", "start all_gather 3", "wait all_to_all 2", "update", "start all_gather 4",
            "other work", "wait all_gather 3", "wait all_gather 4",
        ],
    }  # fmt: skip
    events = events_of_step(sync_type, TwoAlike(), monkeypatch, 2 * LAYER_BYTES, "bfloat16")
    assert events == sent + returned[sync_type]


def test_a_result_is_worked_out_once():
    calls: list[np.ndarray] = []
    pending = Then(SerialCommunicator().start_all_reduce(np.ones(2)), lambda x: calls.append(x) or x.sum())
    assert (pending.wait(), pending.wait(), len(calls)) == (2.0, 2.0, 1)
