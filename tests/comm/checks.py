"""What every communicator must do: plain functions that all ranks of `comm` call, on threads or under MPI.

Values depend on rank and position and are small integers, so sums are exact in every dtype and in any order.
"""

from collections.abc import Callable

import numpy as np
import pytest

from owt_mpi.comm.base import Array, Communicator

DTYPES = (np.float32, np.float64, np.int32, np.int64, np.uint8)
Linear = Callable[[Communicator, Array], Array | None]


def values(shape: tuple[int, ...], rank: int, dtype: type = np.float32, salt: int = 0) -> np.ndarray:
    """Return small non-negative integers that differ by rank, position and salt, as `dtype`."""
    index = np.arange(int(np.prod(shape)), dtype=np.int64)
    return (((index + 1) * (2 * rank + 3) + 5 * salt) % 11).reshape(shape).astype(dtype)


def all_values(comm: Communicator, shape: tuple[int, ...], dtype: type = np.float32, salt: int = 0) -> list[np.ndarray]:
    return [values(shape, rank, dtype, salt) for rank in range(comm.size)]


def block(x: np.ndarray, axis: int, rank: int, size: int) -> np.ndarray:
    return np.split(x, size, axis=axis)[rank]


def assert_same(actual: Array, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype
    assert actual.flags.c_contiguous
    np.testing.assert_array_equal(actual, expected, strict=True)


def check_all_reduce_sums_every_dtype(comm: Communicator) -> None:
    for dtype in DTYPES:
        x = values((3, 5), comm.rank, dtype)
        total = comm.start_all_reduce(x).wait()
        assert_same(total, sum(all_values(comm, (3, 5), dtype)[1:], values((3, 5), 0, dtype)))
        assert_same(x, values((3, 5), comm.rank, dtype))
        assert not np.shares_memory(total, x)


def check_all_reduce_writes_out_and_returns_it(comm: Communicator) -> None:
    expected = np.sum(all_values(comm, (2, 3)), axis=0)
    x = values((2, 3), comm.rank)
    out = np.full((2, 3), np.nan, np.float32)
    assert comm.start_all_reduce(x, out).wait() is out
    assert_same(out, expected)
    assert_same(x, values((2, 3), comm.rank))
    assert comm.start_all_reduce(x, x).wait() is x
    assert_same(x, expected)


def check_all_gather_joins_every_axis_of_every_dtype(comm: Communicator) -> None:
    for dtype in (*DTYPES, np.bool_):
        for axis in (0, 1, 2, -1):
            x = values((2, 3, 4), comm.rank, dtype)
            y = comm.start_all_gather(x, axis).wait()
            assert_same(y, np.concatenate(all_values(comm, (2, 3, 4), dtype), axis=axis))
            assert_same(x, values((2, 3, 4), comm.rank, dtype))
            assert not np.shares_memory(y, x)


def check_reduce_scatter_gives_the_own_block_of_the_sum(comm: Communicator) -> None:
    for axis, shape in enumerate([(2 * comm.size, 3, 5), (3, 2 * comm.size, 5), (3, 5, comm.size)]):
        for dtype in DTYPES:
            x = values(shape, comm.rank, dtype)
            y = comm.start_reduce_scatter(x, axis).wait()
            total = sum(all_values(comm, shape, dtype)[1:], values(shape, 0, dtype))
            assert_same(y, np.ascontiguousarray(block(total, axis, comm.rank, comm.size)))
            assert_same(x, values(shape, comm.rank, dtype))


def rows_of_ranks(size: int) -> list[list[int]]:
    """Return some ways to spread rows over ranks: unequal, from one rank alone, from none of the first."""
    return [[2 * r + 1 for r in range(size)], [0] * (size - 1) + [3], [4] + [0] * (size - 1), [2] * size]


def check_all_gather_rows_joins_unequal_parts(comm: Communicator) -> None:
    for num_rows in rows_of_ranks(comm.size):
        for dtype in DTYPES:
            x = values((num_rows[comm.rank], 3, 2), comm.rank, dtype)
            y = comm.start_all_gather_rows(x, num_rows).wait()
            assert_same(y, np.concatenate([values((n, 3, 2), rank, dtype) for rank, n in enumerate(num_rows)]))
            assert not np.shares_memory(y, x)


def check_reduce_scatter_rows_gives_the_own_rows_of_the_sum(comm: Communicator) -> None:
    for num_rows in rows_of_ranks(comm.size):
        for dtype in DTYPES:
            shape = (sum(num_rows), 3, 2)
            y = comm.start_reduce_scatter_rows(values(shape, comm.rank, dtype), num_rows).wait()
            total = sum(all_values(comm, shape, dtype)[1:], values(shape, 0, dtype))
            first = sum(num_rows[: comm.rank])
            assert_same(y, total[first : first + num_rows[comm.rank]])


def check_broadcast_gives_the_roots_array_and_leaves_the_others_alone(comm: Communicator) -> None:
    for root in range(comm.size):
        for dtype in (*DTYPES, np.bool_):
            x = values((3, 4), comm.rank, dtype)
            y = comm.start_broadcast(x, root).wait()
            assert_same(y, values((3, 4), root, dtype))
            assert_same(x, values((3, 4), comm.rank, dtype))
            assert not np.shares_memory(y, x)


def check_reduce_gives_the_sum_to_the_root_alone(comm: Communicator) -> None:
    for root in range(comm.size):
        x = values((3, 4), comm.rank)
        y = comm.start_reduce(x, root).wait()
        if comm.rank == root:
            assert_same(y, np.sum(all_values(comm, (3, 4)), axis=0))
        else:
            assert y is None
        assert_same(x, values((3, 4), comm.rank))


def check_all_to_all_exchanges_blocks_along_every_pair_of_axes(comm: Communicator) -> None:
    for split_axis in range(3):
        for concat_axis in range(3):
            shape = tuple(length * comm.size if axis == split_axis else length for axis, length in enumerate((2, 3, 5)))
            for dtype in (np.float32, np.int64, np.bool_):
                x = values(shape, comm.rank, dtype)
                y = comm.start_all_to_all(x, split_axis, concat_axis).wait()
                blocks = [block(other, split_axis, comm.rank, comm.size) for other in all_values(comm, shape, dtype)]
                assert_same(y, np.concatenate(blocks, axis=concat_axis))
                assert_same(x, values(shape, comm.rank, dtype))


def check_a_sum_of_bools_counts_in_uint8(comm: Communicator) -> None:
    x = values((4, comm.size), comm.rank) > 4
    counts = np.sum([other > 4 for other in all_values(comm, (4, comm.size))], axis=0).astype(np.uint8)
    assert_same(comm.start_all_reduce(x).wait(), counts)
    assert_same(comm.start_reduce_scatter(x, 1).wait(), np.ascontiguousarray(counts[:, comm.rank, None]))
    reduced = comm.start_reduce(x, comm.size - 1).wait()
    if comm.rank == comm.size - 1:
        assert_same(reduced, counts)


def check_zero_size_and_zero_dimensional_arrays(comm: Communicator) -> None:
    empty = np.empty((0, 3), np.float32)
    assert comm.start_all_reduce(empty).wait().shape == (0, 3)
    assert comm.start_all_gather(empty, 1).wait().shape == (0, 3 * comm.size)
    assert comm.start_reduce_scatter(empty, 0).wait().shape == (0, 3)
    assert comm.start_broadcast(empty, 0).wait().shape == (0, 3)
    assert comm.start_all_to_all(empty, 0, 1).wait().shape == (0, 3 * comm.size)
    scalar = np.array(comm.rank + 1.0)
    assert_same(comm.start_all_reduce(scalar).wait(), np.array(comm.size * (comm.size + 1) / 2))
    assert_same(comm.start_broadcast(scalar, comm.size - 1).wait(), np.array(float(comm.size)))


def check_a_result_is_the_same_object_at_every_wait(comm: Communicator) -> None:
    pending = comm.start_all_gather(values((2, 3), comm.rank), 1)
    assert pending.wait() is pending.wait()


def check_interleaved_starts_and_waits_in_any_order(comm: Communicator) -> None:
    other = comm.dup("other")
    xs = [values((2, comm.size), comm.rank, salt=salt) for salt in range(4)]
    first = comm.start_all_reduce(xs[0])
    second = other.start_all_to_all(xs[1], 1, 0)
    third = comm.start_reduce_scatter(xs[2], 1)
    fourth = other.start_all_gather(xs[3], 1)
    totals = [np.sum(all_values(comm, (2, comm.size), salt=salt), axis=0) for salt in range(4)]
    assert_same(fourth.wait(), np.concatenate(all_values(comm, (2, comm.size), salt=3), axis=1))
    assert_same(first.wait(), totals[0])
    assert_same(third.wait(), np.ascontiguousarray(totals[2][:, comm.rank, None]))
    columns = [x[:, comm.rank, None] for x in all_values(comm, (2, comm.size), salt=1)]
    assert_same(second.wait(), np.concatenate(columns, axis=0))


def check_split_groups_by_color_and_orders_by_key(comm: Communicator) -> None:
    half = comm.split(color=comm.rank % 2, key=-comm.rank, label="half")
    ranks = [rank for rank in reversed(range(comm.size)) if rank % 2 == comm.rank % 2]
    assert (half.rank, half.size, half.label) == (ranks.index(comm.rank), len(ranks), "half")
    gathered = half.start_all_gather(np.array([comm.rank])).wait()
    assert gathered.tolist() == ranks
    alone = comm.split(color=comm.rank, key=0, label="alone")
    assert (alone.rank, alone.size) == (0, 1)
    assert_same(alone.start_all_reduce(values((3,), comm.rank)).wait(), values((3,), comm.rank))
    node = comm.split_by_node("node")
    assert (node.rank, node.size) == (comm.rank, comm.size)


def check_dup_keeps_rank_size_and_takes_the_label(comm: Communicator) -> None:
    twin = comm.dup("twin")
    assert (twin.rank, twin.size, twin.label) == (comm.rank, comm.size, "twin")


def check_all_gather_object_gives_copies_in_rank_order(comm: Communicator) -> None:
    mine = {"rank": comm.rank, "names": ["a"] * comm.rank}
    everyone = comm.all_gather_object(mine)
    assert everyone == [{"rank": rank, "names": ["a"] * rank} for rank in range(comm.size)]
    assert everyone[comm.rank] is not mine
    comm.barrier()


def check_bad_arguments_are_refused_before_anything_is_sent(comm: Communicator) -> None:
    x = values((comm.size, 3), comm.rank)
    for start, message in [
        (lambda: comm.start_all_reduce(np.asfortranarray(values((2, 3), 0))), "not C-contiguous"),
        (lambda: comm.start_all_reduce(x.astype(np.float16)), "dtype float16"),
        (lambda: comm.start_all_reduce(x, np.empty((2, 2), np.float32)), "out is float32"),
        (lambda: comm.start_all_gather(x, 2), "axis 2 is not an axis"),
        (lambda: comm.start_all_to_all(x, 0, -3), "concat_axis -3"),
        (lambda: comm.start_all_gather_rows(x, [comm.size] * (comm.size + 1)), "num_rows is"),
        (lambda: comm.start_all_gather_rows(x, [comm.size + 1] * comm.size), "should have"),
        (lambda: comm.start_reduce_scatter_rows(x, [2] * comm.size), "should have"),
        (lambda: comm.start_broadcast(x, comm.size), "is not a rank"),
        (lambda: comm.start_reduce(x, -1), "root -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            start()
    if comm.size > 1:
        with pytest.raises(ValueError, match="cannot share equally"):
            comm.start_reduce_scatter(values((comm.size + 1, 2), comm.rank))
        with pytest.raises(ValueError, match="cannot share equally"):
            comm.start_all_to_all(values((2, comm.size + 1), comm.rank), 1, 0)
    comm.barrier()  # nobody is out of step


def assert_adjoint(comm: Communicator, a: Linear, a_adjoint: Linear, x: Array, y: Array | None) -> None:
    """Assert sum over ranks of <A x, y> == sum over ranks of <x, A' y>; None is the empty space."""
    ax = a(comm, x)
    aty = a_adjoint(comm, y if y is not None else np.zeros_like(x))
    left = 0.0 if ax is None or y is None else float(np.vdot(ax, y))
    right = 0.0 if aty is None else float(np.vdot(x, aty))
    sides = comm.start_all_reduce(np.array([left, right])).wait()
    assert sides[0] != 0
    np.testing.assert_array_equal(sides[0], sides[1])


def check_adjoint_of_all_gather_is_reduce_scatter(comm: Communicator) -> None:
    for axis in range(3):
        shape = tuple(length * comm.size if i == axis else length for i, length in enumerate((2, 3, 4)))
        x, y = values((2, 3, 4), comm.rank, np.float64), values(shape, comm.rank, np.float64, salt=1)

        def gather(comm: Communicator, x: Array, axis: int = axis) -> Array:
            return comm.start_all_gather(x, axis).wait()

        def reduce_scatter(comm: Communicator, x: Array, axis: int = axis) -> Array:
            return comm.start_reduce_scatter(x, axis).wait()

        assert_adjoint(comm, gather, reduce_scatter, x, y)
        assert_adjoint(comm, reduce_scatter, gather, y, x)


def check_adjoint_of_all_gather_rows_is_reduce_scatter_rows(comm: Communicator) -> None:
    for num_rows in rows_of_ranks(comm.size):
        x = values((num_rows[comm.rank], 3), comm.rank, np.float64)
        y = values((sum(num_rows), 3), comm.rank, np.float64, salt=1)

        def gather(comm: Communicator, x: Array, num_rows: list[int] = num_rows) -> Array:
            return comm.start_all_gather_rows(x, num_rows).wait()

        def reduce_scatter(comm: Communicator, x: Array, num_rows: list[int] = num_rows) -> Array:
            return comm.start_reduce_scatter_rows(x, num_rows).wait()

        assert_adjoint(comm, gather, reduce_scatter, x, y)
        assert_adjoint(comm, reduce_scatter, gather, y, x)


def check_adjoint_of_broadcast_is_reduce(comm: Communicator) -> None:
    """broadcast maps the root's x to K copies, so off the root <x, A' y> is empty, and so is <A x, y> of reduce."""
    for root in range(comm.size):
        x, y = values((3, 4), comm.rank, np.float64), values((3, 4), comm.rank, np.float64, salt=1)

        def broadcast(comm: Communicator, x: Array, root: int = root) -> Array:
            return comm.start_broadcast(x, root).wait()

        def reduce(comm: Communicator, x: Array, root: int = root) -> Array | None:
            return comm.start_reduce(x, root).wait()

        assert_adjoint(comm, broadcast, reduce, x, y)
        assert_adjoint(comm, reduce, broadcast, x, y if comm.rank == root else None)


def check_adjoint_of_all_to_all_is_all_to_all_with_axes_exchanged(comm: Communicator) -> None:
    x = values((2, 3 * comm.size, 4), comm.rank, np.float64)
    y = values((2 * comm.size, 3, 4), comm.rank, np.float64, salt=1)

    def exchange(comm: Communicator, x: Array) -> Array:
        return comm.start_all_to_all(x, 1, 0).wait()

    def exchange_back(comm: Communicator, y: Array) -> Array:
        return comm.start_all_to_all(y, 0, 1).wait()

    assert_adjoint(comm, exchange, exchange_back, x, y)


def check_adjoint_of_all_reduce_is_itself(comm: Communicator) -> None:
    def reduce(comm: Communicator, x: Array) -> Array:
        return comm.start_all_reduce(x).wait()

    assert_adjoint(
        comm, reduce, reduce, values((3, 4), comm.rank, np.float64), values((3, 4), comm.rank, np.float64, salt=1)
    )


CHECKS = tuple(check for name, check in sorted(globals().items()) if name.startswith("check_"))
