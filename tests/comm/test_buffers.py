"""Buffers of MPI calls, without MPI."""

import numpy as np

from owt_mpi.comm.buffers import Scratch


def test_scratch_reuses_and_grows_a_buffer_for_each_name() -> None:
    scratch = Scratch()
    large = scratch.array("send", (3, 5), np.dtype(np.float64))
    small = scratch.array("send", (2, 2), np.dtype(np.int32))
    assert large.shape == (3, 5)
    assert (small.dtype, small.flags.c_contiguous) == (np.int32, True)
    assert np.shares_memory(large, small)
    assert not np.shares_memory(small, scratch.array("receive", (2, 2), np.dtype(np.int32)))
    larger = scratch.array("send", (4, 5), np.dtype(np.float64))
    assert not np.shares_memory(large, larger)
    assert scratch.array("send", (0, 3), np.dtype(np.float32)).shape == (0, 3)
