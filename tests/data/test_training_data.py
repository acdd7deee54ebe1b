"""The readers of a training run, as the options say."""

import os
from pathlib import Path

import numpy as np
import pytest

from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config, DataOptions
from owt_mpi.data.jpeg_reader import JpegReader
from owt_mpi.data.manifest import DataError
from owt_mpi.data.readers import Reader
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.training.data import fill_cache, open_readers
from tests.data.test_jpeg_reader import encoded_folder, images

__all__ = ["encoded_folder", "images"]  # fixtures
ENOUGH = 1 / 64  # GiB


def windows_of(reader: Reader) -> np.ndarray:
    out = np.zeros((11, 5, 4, 3), np.uint8)
    reader.read_windows(np.arange(11), np.tile([1, 2, 5, 4], (11, 1)), out)
    return out


def readers_of(folder: Path, **options: object) -> tuple[Reader, Reader | None]:
    return open_readers(Config(data=DataOptions(data=str(folder), **options)), num_threads=3)


def test_encoded_shards_are_decoded_by_as_many_threads_as_compute_or_as_told(encoded_folder: Path) -> None:
    for told, threads in ((0, 3), (2, 2)):
        reader, validation = readers_of(encoded_folder, read_threads=told)
        assert isinstance(reader, JpegReader)
        assert validation is None
        assert reader.describe().endswith(f"decoded by {threads} threads a rank")
        reader.close()
    reader, _ = readers_of(encoded_folder, draft=True)
    assert "smaller scale" in reader.describe()
    reader.close()


def test_raw_shards_are_mapped_or_read_as_told(folder: Path) -> None:
    mapped, read = (readers_of(folder, memory_maps=maps)[0] for maps in (True, False))
    assert isinstance(mapped, ShardReader)
    assert mapped.describe().endswith("memory maps")
    assert read.describe().endswith("reads")
    np.testing.assert_array_equal(windows_of(read), windows_of(mapped))
    read.close()


@pytest.mark.parametrize("name", ["folder", "encoded_folder"])
def test_cached_shards_give_the_same_windows_without_their_files(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    config = Config(data=DataOptions(data=str(folder), cache=ENOUGH))

    def run(comm):
        readers = open_readers(config, num_threads=1)
        before = [windows_of(reader) for reader in readers if reader is not None]
        said = fill_cache(config, readers, comm)
        comm.barrier()
        if comm.rank == 0:
            for path in folder.glob("*.h5"):  # what is mapped now shows zeros
                path.write_bytes(bytes(path.stat().st_size))
        comm.barrier()
        after = [windows_of(reader) for reader in readers if reader is not None]
        for reader in readers:
            if reader is not None:
                reader.close()
        return said, before, after

    for said, before, after in run_ranks(2, run):
        assert said["cache"].startswith("all of ")
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)


def test_without_the_option_nothing_is_cached(folder: Path) -> None:
    config = Config(data=DataOptions(data=str(folder)))
    assert run_ranks(2, lambda comm: fill_cache(config, open_readers(config, 1), comm)) == [{}, {}]


def test_shard_that_cannot_be_read_into_the_cache_is_an_error_on_all_ranks(folder: Path) -> None:
    config = Config(data=DataOptions(data=str(folder), cache=ENOUGH, memory_maps=False))

    def run(comm):
        readers = open_readers(config, num_threads=1)
        comm.barrier()
        if comm.rank == 0:
            os.truncate(folder / "val-00001-of-00002.h5", 2000)
        comm.barrier()
        with pytest.raises(DataError, match=r"cannot be filled .*val-00001-of-00002.h5 has no byte"):
            fill_cache(config, readers, comm)
        for reader in readers:
            reader.close()

    run_ranks(2, run)


def test_cache_that_is_no_amount_of_memory_is_refused() -> None:
    for amount in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"--cache is {amount}"):
            Config(data=DataOptions(data="x", cache=amount)).check()
