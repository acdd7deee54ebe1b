"""Shards read from elsewhere than a memory map."""

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from owt_mpi.data import shard_file
from owt_mpi.data.manifest import DataError
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.plain_hdf5.arrays import FileArray

SHUFFLED = np.random.default_rng(0).permutation(29)


def test_shards_that_are_not_mapped_give_the_same_images(folder: Path, pixels: np.ndarray) -> None:
    reader = ShardReader(folder, "train", use_maps=False)
    assert reader.describe().endswith("3 shards, reads")
    np.testing.assert_array_equal(reader.read(SHUFFLED)[0], pixels[SHUFFLED])
    reader.close()


def test_file_system_without_memory_maps_is_read_all_the_same(
    folder: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_map(*arguments: object) -> np.ndarray:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(shard_file.np, "memmap", no_map)
    reader = ShardReader(folder, "train")
    assert reader.describe().endswith("3 shards, reads")
    np.testing.assert_array_equal(reader.read(SHUFFLED)[0], pixels[SHUFFLED])
    reader.close()


@pytest.mark.parametrize("use_maps", [True, False])
def test_copies_take_the_place_of_the_first_shards(folder: Path, pixels: np.ndarray, use_maps: bool) -> None:
    reader = ShardReader(folder, "train", use_maps)
    copies = [255 - np.asarray(images[0 : len(images)]) for images in reader.images_by_shard()[:2]]
    reader.read_from(copies)
    first = len(copies[0]) + len(copies[1])
    expected = np.concatenate([255 - pixels[:first], pixels[first:]])
    np.testing.assert_array_equal(reader.read(SHUFFLED)[0], expected[SHUFFLED])
    reader.close()


def test_sample_is_found_in_its_shard(folder: Path) -> None:
    reader = ShardReader(folder, "train")
    for index in range(29):
        path, row = reader.find(index)
        with h5py.File(path, "r") as file:
            assert file["names"][row].decode().endswith(f"/{index}")


@pytest.mark.parametrize("use_maps", [True, False])
def test_a_shard_that_is_written_to_is_compared_with_the_manifest(folder: Path, pixels: np.ndarray, use_maps: bool):
    reader = ShardReader(folder, "train", use_maps)
    path, row = reader.find(15)
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(reader.read(SHUFFLED)[0], pixels[SHUFFLED])
    before = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(before.index(pixels[15].tobytes()))
        file.write(bytes([pixels[15].flat[0] ^ 1]))
    other = next(index for index in range(29) if reader.find(index)[0] != path)
    reader.read(np.array([other]))
    for harmed in (15, 15 - row):  # another image of the shard is refused as well
        with pytest.raises(DataError, match=f"{path} was changed while it was open; restore it"):
            reader.read(np.array([harmed]))
    with path.open("r+b") as file:
        file.write(before)
    np.testing.assert_array_equal(reader.read(SHUFFLED)[0], pixels[SHUFFLED])
    reader.close()


def test_a_sample_that_cannot_be_read_is_named(folder: Path) -> None:
    reader = ShardReader(folder, "train", use_maps=False)
    path, row = reader.find(15)
    images = reader.images_by_shard()[1]
    assert images.__class__ is FileArray

    def on_a_failing_disk(start: int, shape: tuple[int, ...]) -> np.ndarray:
        raise OSError(errno.EIO, "Input/output error")

    images._read = on_a_failing_disk
    with pytest.raises(
        DataError, match=rf"{path}: sample {row}, '\w+/15' cannot be read: .*Input/output error; restore"
    ):
        reader.read(np.array([15]))
    path.write_bytes(b"")
    with pytest.raises(DataError, match=f"{path}: sample {row} cannot be read: "):
        reader.read(np.array([15]))
    reader.close()
