"""Weights files hold global arrays, however many ranks wrote them."""

import h5py
import numpy as np
import pytest

from owt_mpi.autograd import Parameter, Shard
from owt_mpi.checkpoint.weights import read_weights, save_weights
from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.init import Normal, initialise
from tests.op_check import REFERENCE


def save_on(num_ranks, path):
    def fn(comm):
        shards = (None, Shard(0, comm.rank, comm.size), Shard(1, comm.rank, comm.size))
        parameters = []
        for name, shard in zip("abc", shards, strict=True):
            parameters.append(Parameter((4, 8), Normal(1.0), shard=shard if comm.size > 1 else None))
            parameters[-1].name = f"head.{name}"
        initialise(parameters, REFERENCE, 1, np.dtype(np.float64))
        save_weights(path, parameters, comm, is_writer=comm.rank == 0)

    run_ranks(num_ranks, fn)
    return read_weights(path)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_any_number_of_ranks_writes_the_same_arrays(tmp_path, num_ranks):
    alone, shared = save_on(1, tmp_path / "one.h5"), save_on(num_ranks, tmp_path / "more.h5")
    assert list(alone) == ["head.a", "head.b", "head.c"]
    for name, values in alone.items():
        np.testing.assert_array_equal(shared[name], values)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["more.h5", "one.h5"], "no temporary file is left"


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match=r"other.h5 is no weights file of version 1"):
        read_weights(path)
