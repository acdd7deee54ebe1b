from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from owt_mpi.data.readers import SyntheticReader
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.data.windows import copy_window


def read_whole(reader: SyntheticReader, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    windows = np.tile([0, 0, *reader.image_shape[:2]], (len(indices), 1))
    out = np.empty((len(indices), *reader.image_shape), np.uint8)
    return out, reader.read_windows(indices, windows, out)


def test_synthetic_samples_depend_on_seed_and_index_alone() -> None:
    reader = SyntheticReader(100, (5, 3, 3), 7, seed=1)
    images, labels = read_whole(reader, np.arange(100))
    some, some_labels = read_whole(reader, np.array([99, 4]))
    np.testing.assert_array_equal(some, images[[99, 4]])
    np.testing.assert_array_equal(some_labels, labels[[99, 4]])
    assert len(np.unique(images.reshape(100, -1), axis=0)) == 100
    assert not np.array_equal(images, read_whole(SyntheticReader(100, (5, 3, 3), 7, seed=2), np.arange(100))[0])


def test_synthetic_statistics_fit_its_pixels() -> None:
    reader = SyntheticReader(200, (16, 16, 3), 7, seed=1)
    images, labels = read_whole(reader, np.arange(200))
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), reader.statistics.mean, rtol=0.01)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2)), reader.statistics.std, rtol=0.01)
    assert set(labels.tolist()) == set(range(7))


def test_synthetic_reader_refuses_an_index_outside() -> None:
    with pytest.raises(IndexError):
        read_whole(SyntheticReader(10, (5, 3, 1), 7, seed=1), np.array([10]))


WINDOWS = np.array([[0, 0, 4, 3], [3, 2, 4, 3], [1, 0, 4, 3], [0, 0, 7, 6], [2, 1, 2, 5], [3, 3, 4, 3], [2, 2, 3, 4]])
SHUFFLED = np.array([28, 0, 10, 9, 19, 9, 27])  # crosses all shard limits (10, 10, 9), one index twice


@pytest.mark.parametrize("num_threads", [1, 3])
def test_windows_are_cut_from_the_images_or_resized_as_images_of_their_own(
    folder: Path, pixels: np.ndarray, num_threads: int
) -> None:
    reader = ShardReader(folder, "train", num_threads=num_threads)
    out = np.empty((7, 4, 3, 3), np.uint8)
    labels = reader.read_windows(SHUFFLED, WINDOWS, out)
    np.testing.assert_array_equal(labels, SHUFFLED * 3 % 4)
    for index, (top, left, height, width), image in zip(SHUFFLED, WINDOWS.tolist(), out, strict=True):
        window = pixels[index, top : top + height, left : left + width]
        expected = Image.fromarray(window).resize((3, 4), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image, np.asarray(expected))  # Pillow copies what has the size already


def test_windows_of_chunked_shards_are_the_same(folder: Path) -> None:
    expected, out = np.empty((7, 4, 3, 3), np.uint8), np.empty((7, 4, 3, 3), np.uint8)
    ShardReader(folder, "train").read_windows(SHUFFLED, WINDOWS, expected)
    with h5py.File(folder / "train-00000-of-00003.h5", "r+") as file:
        images = file["images"][:]
        del file["images"]
        file.create_dataset("images", data=images, compression="gzip")
    reader = ShardReader(folder, "train")
    reader.read_windows(SHUFFLED, WINDOWS, out)
    reader.close()
    np.testing.assert_array_equal(out, expected)


def test_channels_are_resized_each_by_itself() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    colour, gray = np.empty((4, 5, 3), np.uint8), np.empty((4, 5, 1), np.uint8)
    copy_window(image, (1, 2, 7, 6), colour)
    for channel in range(3):
        copy_window(image[..., channel : channel + 1], (1, 2, 7, 6), gray)
        np.testing.assert_array_equal(gray[..., 0], colour[..., channel])


def test_a_reader_knows_the_sizes_of_its_images(folder: Path) -> None:
    assert ShardReader(folder, "train").sizes(np.array([28, 0])).tolist() == [[7, 6], [7, 6]]
    assert SyntheticReader(10, (5, 3, 1), 7, seed=1).sizes(np.array([2])).tolist() == [[5, 3]]


@pytest.mark.parametrize("index", [-1, 29])
def test_windows_of_a_sample_outside_the_split_are_an_error(folder: Path, index: int) -> None:
    with pytest.raises(IndexError, match=r"0 \.\. 28"):
        ShardReader(folder, "train").read_windows(np.array([0, index]), WINDOWS[:2], np.empty((2, 4, 3, 3), np.uint8))
