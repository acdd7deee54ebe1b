import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from owt_mpi.data.jpeg_reader import JpegReader
from owt_mpi.data.manifest import DataError, Manifest, Statistics
from owt_mpi.data.shard_format import ShardReader
from tests.shards import jpeg, write_split

CLASS_NAMES = ("ant", "bee", "cat")
SHUFFLED = np.array([12, 0, 5, 4, 5, 11])  # crosses the shards' limits (5, 4, 4), one index twice
WINDOWS = np.array([[0, 0, 18, 20], [3, 2, 18, 20], [1, 0, 20, 33], [0, 0, 9, 10], [2, 1, 24, 30], [5, 7, 40, 44]])


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Images of many sizes, all at least 24 x 33."""
    random = np.random.default_rng(5)
    sides = zip(range(30, 56, 2), range(60, 34, -2), strict=True)
    return [random.integers(0, 256, (max(h, 47), max(w, 51), 3), dtype=np.uint8) for h, w in sides]


@pytest.fixture
def encoded_folder(tmp_path: Path, images: list[np.ndarray]) -> Path:
    labels = [index * 2 % 3 for index in range(len(images))]
    train = write_split(tmp_path, "train", images, labels, 3, CLASS_NAMES, storage="jpeg")
    statistics = Statistics.from_moments(np.array([1.0, 2.0, 3.0]), np.diag([4.0, 9.0, 16.0]))
    Manifest(CLASS_NAMES, (None, None, 3), {"train": train}, statistics, seed=0, storage="jpeg").write(tmp_path)
    return tmp_path


def expected(image: np.ndarray, window: list[int]) -> np.ndarray:
    top, left, height, width = window
    with Image.open(io.BytesIO(jpeg(image))) as file:
        cut = file.crop((left, top, left + width, top + height))
        return np.asarray(cut.resize((20, 18), Image.Resampling.BILINEAR))  # the same pixels where it has the size


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("use_maps", [True, False])
def test_windows_are_those_of_the_decoded_images(
    encoded_folder: Path, images: list[np.ndarray], num_threads: int, use_maps: bool
) -> None:
    reader = JpegReader(ShardReader(encoded_folder, "train", use_maps), num_threads)
    out = np.zeros((6, 18, 20, 3), np.uint8)
    labels = reader.read_windows(SHUFFLED, WINDOWS, out)
    reader.close()
    np.testing.assert_array_equal(labels, SHUFFLED * 2 % 3)
    for image, index, window in zip(out, SHUFFLED, WINDOWS.tolist(), strict=True):
        np.testing.assert_array_equal(image, expected(images[index], window))


def test_sizes_classes_and_channels_are_the_data_set_s(encoded_folder: Path, images: list[np.ndarray]) -> None:
    reader = JpegReader(ShardReader(encoded_folder, "train"), 2)
    assert (reader.num_samples, reader.num_classes, reader.num_channels) == (13, 3, 3)
    assert reader.sizes(SHUFFLED).tolist() == [list(images[index].shape[:2]) for index in SHUFFLED]
    assert reader.statistics.mean == (1, 2, 3)
    assert "of many sizes" in reader.describe()
    assert reader.describe().endswith("decoded by 2 threads a rank")
    reader.close()


def test_draft_is_said_and_changes_large_windows_alone(encoded_folder: Path) -> None:
    exact = JpegReader(ShardReader(encoded_folder, "train"), 1)
    draft = JpegReader(ShardReader(encoded_folder, "train"), 1, use_draft=True)
    assert draft.describe().endswith("at a smaller scale where that is enough")
    outs = [np.zeros((6, 18, 20, 3), np.uint8) for _ in range(2)]
    for reader, out in zip((exact, draft), outs, strict=True):
        reader.read_windows(SHUFFLED, WINDOWS, out)
        reader.close()
    changed = [not np.array_equal(*pair) for pair in zip(*outs, strict=True)]
    assert changed == [False, False, False, False, False, True]


def test_image_that_cannot_be_decoded_is_named_with_shard_row_and_sample(encoded_folder: Path) -> None:
    with h5py.File(encoded_folder / "train-00001-of-00003.h5", "r+") as file:
        file["bytes"][int(file["offsets"][1]) : int(file["offsets"][2])] = 0
    reader = JpegReader(ShardReader(encoded_folder, "train"), 3)
    message = r"train-00001-of-00003.h5: sample 1, 'ant/6' cannot be decoded: cannot identify"
    with pytest.raises(DataError, match=message):
        reader.read_windows(np.arange(13), np.tile(WINDOWS[0], (13, 1)), np.zeros((13, 18, 20, 3), np.uint8))
    reader.close()


def test_index_outside_the_split_is_an_error(encoded_folder: Path) -> None:
    reader = JpegReader(ShardReader(encoded_folder, "train"), 1)
    with pytest.raises(IndexError, match=r"0 \.\. 12"):
        reader.read_windows(np.array([13]), WINDOWS[:1], np.zeros((1, 18, 20, 3), np.uint8))
    reader.close()
