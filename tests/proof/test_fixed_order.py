"""The arithmetic of the bitwise proof: sums in one order, whatever the number of ranks."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from owt_mpi.autograd import Tensor, backward, tensor
from owt_mpi.backends.base import Array
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.nn.module import Context
from owt_mpi.proof.fixed_order.backend import FixedOrderBackend, UnsteadyOperation
from owt_mpi.proof.fixed_order.communicator import FixedOrderCommunicator
from owt_mpi.proof.fixed_order.head import FixedOrderArithmetic
from owt_mpi.proof.fixed_order.pieces import Pieces, pairwise_sum

REFERENCE = ReferenceBackend()
PAIRWISE = np.float32([1, 2**24, 1, -(2**24)])  # (1 + 2**24) + (1 - 2**24) = 2**24 - (2**24 - 1): 1; in turn: 0


def random(*shape: int) -> np.ndarray:
    """Return values whose sums round differently in every order."""
    return np.random.default_rng(sum(shape)).lognormal(0, 3, shape).astype(np.float32)


def same_bits(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def test_pairwise_sum_adds_neighbours_first():
    assert pairwise_sum(PAIRWISE) == 1
    assert np.float32(sum(PAIRWISE)) == 0  # so that the order can be seen
    parts = random(8, 3)
    assert same_bits(pairwise_sum(parts), pairwise_sum(np.stack([pairwise_sum(parts[:4]), pairwise_sum(parts[4:])])))
    assert same_bits(pairwise_sum(parts[:1]), parts[0])


def on_ranks(call: Callable[[Communicator], Array]) -> list[Array]:
    results = {}

    def rank(comm: Communicator) -> None:
        results[comm.rank] = call(FixedOrderCommunicator(comm))

    run_ranks(4, rank)
    return [results[r] for r in range(4)]


def term(rank: int) -> np.ndarray:
    return random(4, 8, 4)[rank]


TOTAL = pairwise_sum(random(4, 8, 4))


def test_collectives_sum_pairwise_by_rank():
    assert not same_bits(TOTAL, sum(random(4, 8, 4)))
    for result in on_ranks(lambda comm: comm.start_all_reduce(term(comm.rank)).wait()):
        assert same_bits(result, TOTAL)
    for axis, blocks in ((0, np.split(TOTAL, 4)), (1, np.split(TOTAL, 4, axis=1)), (-1, np.split(TOTAL, 4, axis=1))):
        results = on_ranks(lambda comm, axis=axis: comm.start_reduce_scatter(term(comm.rank), axis).wait())
        assert all(same_bits(result, block) for result, block in zip(results, blocks, strict=True))
    rows = [3, 0, 4, 1]
    results = on_ranks(lambda comm: comm.start_reduce_scatter_rows(term(comm.rank), rows).wait())
    assert all(same_bits(*pair) for pair in zip(results, np.split(TOTAL, [3, 3, 7]), strict=True))
    reduced = on_ranks(lambda comm: comm.start_reduce(term(comm.rank), root=2).wait())
    assert same_bits(reduced.pop(2), TOTAL)
    assert reduced == [None] * 3


def test_all_reduce_in_place_fills_the_array():
    def call(comm: Communicator) -> Array:
        x = term(comm.rank).copy()
        pending = comm.start_all_reduce(x, out=x)
        assert pending.wait() is pending.wait() is x
        return x

    assert all(same_bits(x, TOTAL) for x in on_ranks(call))


def test_communicators_made_of_it_keep_the_order():
    halves = [pairwise_sum(random(4, 8, 4)[::2]), pairwise_sum(random(4, 8, 4)[1::2])]
    results = on_ranks(lambda c: c.dup("copy").split(c.rank % 2, c.rank, "half").start_all_reduce(term(c.rank)).wait())
    assert all(same_bits(result, halves[rank % 2]) for rank, result in enumerate(results))


PIECES = Pieces(4, 16)  # four rows a piece, one row of it in a pass of the head


def in_pieces() -> FixedOrderBackend:
    return FixedOrderBackend(REFERENCE, PIECES, num_classes=8, checks=True)


def test_backend_gives_a_share_of_the_batch_what_it_gives_the_whole():
    backend, x, w, b = in_pieces(), random(16, 7, 6, 3), random(5, 3, 3, 3), random(5)
    stride, pad = (2, 1), (1, 0)
    y = backend.conv2d(x, w, b, stride, pad)
    np.testing.assert_allclose(y, REFERENCE.conv2d(x, w, b, stride, pad), rtol=1e-5)
    gx = backend.conv2d_grad_x(y, w, stride, pad, x.shape)
    gw, gb = backend.conv2d_grad_w(y, x, stride, pad, w.shape, True)
    assert backend.conv2d_grad_w(y, x, stride, pad, w.shape, False)[1] is None
    pooled, workspace = backend.max_pool2d(y, (3, 2), (2, 1), (1, 0))
    g_pooled = backend.max_pool2d_grad(pooled, workspace, (3, 2), (2, 1), (1, 0), y.shape)
    normed, scales = backend.lrn(y, 3, 0.1, 0.75, 2.0)
    g_normed = backend.lrn_grad(normed, y, scales, 3, 0.1, 0.75, 2.0)
    averaged = backend.avg_pool2d(y, (2, 2), (2, 2), (0, 0))
    g_averaged = backend.avg_pool2d_grad(averaged, (2, 2), (2, 2), (0, 0), y.shape)
    halves = []
    for rows in (slice(0, 8), slice(8, 16)):
        assert same_bits(backend.conv2d(x[rows], w, b, stride, pad), y[rows])
        assert same_bits(backend.conv2d_grad_x(y[rows], w, stride, pad, x[rows].shape), gx[rows])
        part, own = backend.max_pool2d(y[rows], (3, 2), (2, 1), (1, 0))
        assert same_bits(part, pooled[rows])
        gradient = backend.max_pool2d_grad(part, own, (3, 2), (2, 1), (1, 0), y[rows].shape)
        assert same_bits(gradient, g_pooled[rows])
        part, own = backend.lrn(y[rows], 3, 0.1, 0.75, 2.0)
        assert same_bits(part, normed[rows])
        assert same_bits(backend.lrn_grad(part, y[rows], own, 3, 0.1, 0.75, 2.0), g_normed[rows])
        part = backend.avg_pool2d(y[rows], (2, 2), (2, 2), (0, 0))
        assert same_bits(part, averaged[rows])
        assert same_bits(backend.avg_pool2d_grad(part, (2, 2), (2, 2), (0, 0), y[rows].shape), g_averaged[rows])
        halves.append(backend.conv2d_grad_w(y[rows], x[rows], stride, pad, w.shape, True))
    assert same_bits(halves[0][0] + halves[1][0], gw)
    assert same_bits(halves[0][1] + halves[1][1], gb)


def test_backend_sums_rows_of_classes_in_pieces():
    x = random(5, 8).clip(-10, 10)
    row_max = x.max(axis=1, keepdims=True)
    left, right = (in_pieces().softmax_sum(half, row_max) for half in (x[:, :4], x[:, 4:]))
    assert same_bits(left + right, in_pieces().softmax_sum(x, row_max))


def test_backend_names_an_operation_that_gives_other_bits_each_time(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def grad_w(gy: Array, x: Array, *rest: object) -> tuple[Array, None]:
        calls.append(gy)
        return np.float32([len(calls)]), None

    monkeypatch.setattr(REFERENCE, "conv2d_grad_w", grad_w, raising=False)
    gy = random(16, 2, 2, 3)
    with pytest.raises(UnsteadyOperation, match=r"conv2d_grad_w of reference gives other bits .* another --backend"):
        in_pieces().conv2d_grad_w(gy, gy, (1, 1), (0, 0), (3, 1, 1, 3), False)
    steady = FixedOrderBackend(REFERENCE, PIECES, num_classes=8)
    steady.conv2d_grad_w(gy, gy, (1, 1), (0, 0), (3, 1, 1, 3), False)  # it does not look


def gradients(rows_of_passes: list[np.ndarray], outputs: slice, inputs: slice) -> tuple[Array, Array, Array, Array]:
    """Return y, gx, gw and gb of a 12 to 8 layer's shard, its rows in the order of the batch."""
    x, gy = random(16, 12), random(16, 8)
    w, b = tensor(random(8, 12)[outputs, inputs], REFERENCE, True), tensor(random(8)[outputs], REFERENCE, True)
    arithmetic = FixedOrderArithmetic(12, 8, PIECES, rows_per_head=16)
    y, gx = np.empty((16, w.shape[0]), np.float32), np.empty((16, w.shape[1]), np.float32)
    for rows in rows_of_passes:
        own = tensor(np.ascontiguousarray(x[rows][:, inputs]), REFERENCE, True)
        out: Tensor = arithmetic.linear(own, w, b, Context(True, rows))
        backward(out, np.ascontiguousarray(gy[rows][:, outputs]))
        y[rows], gx[rows] = out.data, own.grad
    return y, gx, w.grad, b.grad


WHOLE = slice(None)
ONE_PASS = [np.arange(16)]


def test_linear_is_the_plain_one_but_for_rounding():
    y, gx, gw, gb = gradients(ONE_PASS, WHOLE, WHOLE)
    x, gy, w, b = (each.astype(np.float64) for each in (random(16, 12), random(16, 8), random(8, 12), random(8)))
    for own, exact in ((y, x @ w.T + b), (gx, gy @ w), (gw, gy.T @ x), (gb, gy.sum(axis=0))):
        np.testing.assert_allclose(own, exact, rtol=1e-5)


@pytest.mark.parametrize(
    "passes",
    [
        [np.arange(8), np.arange(8, 16)],
        [np.array([0, 1, 8, 9]), np.array([2, 3, 10, 11]), np.array([4, 5, 12, 13]), np.array([6, 7, 14, 15])],
        [np.array([k * 4 + p for k in range(4)]) for p in range(4)],
    ],
    ids=["b at 2", "c at 2", "c at 4"],
)
def test_linear_gives_any_passes_the_bits_of_one_pass(passes: list[np.ndarray]):
    for one, other in zip(gradients(ONE_PASS, WHOLE, WHOLE), gradients(passes, WHOLE, WHOLE), strict=True):
        assert same_bits(one, other)


def test_linear_split_by_outputs_or_inputs_has_the_bits_of_the_whole():
    y, gx, gw, gb = gradients(ONE_PASS, WHOLE, WHOLE)
    first, second = (gradients(ONE_PASS, half, WHOLE) for half in (slice(0, 4), slice(4, 8)))
    assert same_bits(np.concatenate([first[0], second[0]], axis=1), y)
    assert same_bits(first[1] + second[1], gx)
    assert same_bits(np.concatenate([first[2], second[2]]), gw)
    assert same_bits(np.concatenate([first[3], second[3]]), gb)
    left, right = (gradients(ONE_PASS, WHOLE, half) for half in (slice(0, 6), slice(6, 12)))
    assert same_bits(np.concatenate([left[1], right[1]], axis=1), gx)
    assert same_bits(np.concatenate([left[2], right[2]], axis=1), gw)


@pytest.mark.parametrize(
    ("pieces", "ranks", "message"),
    [
        (Pieces(6, 36), 2, "--pieces 6 must be a power of two that the number of ranks, 2, divides"),
        (Pieces(8, 64), 3, "--pieces 8 must be a power of two that the number of ranks, 3, divides"),
        (Pieces(4, 24), 2, "a batch of 24 cannot be cut into 4 pieces .* use --images-per-rank 8 or a multiple"),
    ],
)
def test_pieces_that_do_not_come_out_even_are_explained(pieces: Pieces, ranks: int, message: str, tiny: str):
    model = find_builder(tiny)(InputSpec(11, 3, 8))
    assert re.search(message, pieces.obstacle(model, ranks))
    assert not Pieces(4, 16).obstacle(model, 4)
    assert "12 units of head.fc2 cannot both be cut into 8 pieces" in Pieces(8, 64).obstacle(model, 4)
