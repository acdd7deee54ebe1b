"""Weights files hold global arrays, however many ranks wrote them."""

import h5py
import numpy as np
import pytest

from owt_mpi.autograd import Parameter, Shard
from owt_mpi.checkpoint.weights import FORMAT, FORMAT_VERSION, opened_weights, read_weights, save_weights
from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.init import Normal, initialise
from owt_mpi.plain_hdf5.arrays import FileArray
from owt_mpi.plain_hdf5.reader import LIBVER
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
    with pytest.raises(ValueError, match=r"other.h5 is no weights file of version 2"):
        read_weights(path)


def test_the_rows_that_are_asked_for_are_read(tmp_path, monkeypatch):
    whole = save_on(1, tmp_path / "net.h5")["head.a"]
    shapes, plain = [], FileArray._read
    monkeypatch.setattr(
        FileArray, "_read", lambda self, start, shape: shapes.append(shape) or plain(self, start, shape)
    )
    with opened_weights(tmp_path / "net.h5", is_checked=False) as arrays:
        assert arrays["head.a"].shape == (4, 8)
        assert shapes == []
        np.testing.assert_array_equal(arrays["head.a"][1:3, 2:5], whole[1:3, 2:5])
        assert shapes == [(2, 8)]


def test_other_numbers_and_no_hdf5_are_told(tmp_path):
    with h5py.File(tmp_path / "net.h5", "w", libver=LIBVER) as file:
        file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
        file["head.a"] = np.arange(3)
    with pytest.raises(ValueError, match=r"net.h5 has 'head.a' as int64, and not as floating-point numbers"):
        read_weights(tmp_path / "net.h5")
    (tmp_path / "net.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"net.h5 is no HDF5 file"):
        read_weights(tmp_path / "net.h5")


def test_other_numbers_than_were_written_are_damage_wherever_they_are(tmp_path):
    whole = save_on(1, tmp_path / "net.h5")
    content = (tmp_path / "net.h5").read_bytes()
    for values in whole.values():
        place = content.index(values.tobytes())
        for byte in (place, place + values.nbytes - 1):
            damaged = bytearray(content)
            damaged[byte] ^= 1
            (tmp_path / "net.h5").write_bytes(damaged)
            with pytest.raises(ValueError, match=r"net.h5 is damaged: its SHA-256 is another one; take a checkpoint"):
                read_weights(tmp_path / "net.h5")


def test_arrays_that_have_changed_names_are_damage(tmp_path):
    save_on(1, tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        file.move("head.a", "head.x")
        file.move("head.b", "head.a")
        file.move("head.x", "head.b")
    with pytest.raises(ValueError, match="is damaged"):
        read_weights(tmp_path / "net.h5")


def test_files_of_before_there_was_a_sha256_are_read(tmp_path):
    whole = save_on(1, tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        del file.attrs["sha256"]
    with pytest.raises(ValueError, match="is damaged"):
        read_weights(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        file.attrs["format_version"] = 1
    found = read_weights(tmp_path / "net.h5")
    assert all(np.array_equal(found[name], whole[name]) for name in whole)
