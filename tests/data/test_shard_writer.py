from pathlib import Path

import h5py
import numpy as np
import pytest

from owt_mpi.data.manifest import DataError, ImageShape, Manifest, OddFile, Statistics
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_format import ShardReader, shard_files
from owt_mpi.data.shard_record import read_record
from owt_mpi.data.shard_writer import SampleRecord, ShardPlan, ShardWriter
from tests.shards import image_shape_of, jpeg, write_split

CLASS_NAMES = ("ant", "bee", "\N{LATIN SMALL LETTER C WITH CARON}at")
SKIPPED = OddFile("bee/x.png", "it is no JPEG file", "skipped")


def plan(num_rows: int, storage: str = "raw", shape: ImageShape = (2, 3, 1)) -> ShardPlan:
    return ShardPlan("train", 0, 1, num_rows, storage, shape, CLASS_NAMES, "source")


def sample(number: int, shape: tuple[int, int, int] = (2, 3, 1)) -> tuple[SampleRecord, np.ndarray]:
    label = number % len(CLASS_NAMES)
    image = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    return SampleRecord(f"{CLASS_NAMES[label]}/{number}", label, bytes([number]) * 32, shape[:2]), image


def write(folder: Path, num_rows: int, rows: list[int], storage: str = "raw") -> None:
    """Write sample r * r in each row r of `rows`, in this order, of `num_rows` planned ones."""
    sums = PixelSums.zero(1, (2, 3))
    with ShardWriter(folder, plan(num_rows, storage)) as writer:
        for row in rows:
            record, image = sample(row * row)
            writer.write(row, record, image if storage == "raw" else jpeg(image))
            sums.add_images([image])
        writer.commit(sums, [SKIPPED])


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_a_record_tells_all_of_a_shard_but_its_images(tmp_path: Path, storage: str) -> None:
    write(tmp_path, 4, [2, 0, 1, 3], storage)
    record = read_record(tmp_path / "train-00000-of-00001.h5")
    assert record.names == ("ant/0", "bee/1", "bee/4", "ant/9")
    assert record.labels.tolist() == [0, 1, 1, 0]
    assert record.source_sha256.tolist() == [[number] * 32 for number in (0, 1, 4, 9)]
    assert (record.storage, record.source, record.class_names) == (storage, "source", CLASS_NAMES)
    assert (record.split, record.shard, record.num_shards) == ("train", 0, 1)
    assert record.odd_files == (SKIPPED,)
    pixels = np.stack([sample(row * row)[1] for row in range(4)]).astype(np.int64)
    assert record.sums.count == 24
    np.testing.assert_array_equal(record.sums.image, pixels.sum(axis=0))
    assert record.sums.products.tolist() == [[(pixels**2).sum()]]


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_the_order_of_writing_does_not_change_a_byte(tmp_path: Path, storage: str) -> None:
    contents = []
    for number, rows in enumerate(([0, 1, 2, 3], [3, 1, 0, 2])):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, 4, rows, storage)
        contents.append((folder / "train-00000-of-00001.h5").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_rows_that_were_not_written_leave_no_gap(tmp_path: Path, storage: str) -> None:
    write(tmp_path, 6, [4, 1, 3], storage)
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000-of-00001.h5"]
    with h5py.File(tmp_path / "train-00000-of-00001.h5", "r") as file:
        assert file["names"].asstr()[:].tolist() == ["bee/1", "ant/9", "bee/16"]
        images = [sample(row * row)[1] for row in (1, 3, 4)]
        if storage == "raw":
            np.testing.assert_array_equal(file["images"][:], images)
        else:
            assert file["bytes"][:].tobytes() == b"".join(map(jpeg, images))


def test_encoded_images_and_their_sizes_are_read_as_written(tmp_path: Path) -> None:
    images = [sample(number, (2 + number % 3, 4 + number, 3))[1] for number in range(7)]
    labels = [number % 3 for number in range(7)]
    splits = {"train": write_split(tmp_path, "train", images, labels, 2, CLASS_NAMES, "jpeg")}
    statistics = Statistics.from_moments(np.ones(3), np.eye(3))
    assert image_shape_of(images) == (None, None, 3)
    Manifest(CLASS_NAMES, (None, None, 3), splits, statistics, seed=0, storage="jpeg").write(tmp_path)
    reader = ShardReader(tmp_path, "train")
    assert [reader.encoded(index) for index in (6, 0, 3, 4)] == [jpeg(images[index]) for index in (6, 0, 3, 4)]
    assert reader.sizes(np.array([5, 0, 2])).tolist() == [list(images[index].shape[:2]) for index in (5, 0, 2)]
    assert reader.labels.tolist() == labels
    assert "7 images of many sizes" in reader.describe()
    with pytest.raises(DataError, match="differ in size; build it with --crop centre"):
        _ = reader.image_shape
    with pytest.raises(IndexError, match=r"0 \.\. 6"):
        reader.encoded(7)


@pytest.mark.parametrize(
    ("dataset", "value", "message"),
    [("offsets", [0, 5, 5], "offsets do not rise"), ("sizes", [[2, 3], [2, 4]], "other sizes than the manifest says")],
)
def test_a_wrong_index_of_encoded_images_is_an_error(
    tmp_path: Path, dataset: str, value: list[int], message: str
) -> None:
    images = [sample(number)[1] for number in range(2)]
    splits = {"train": write_split(tmp_path, "train", images, [0, 1], 1, CLASS_NAMES, "jpeg")}
    statistics = Statistics.from_moments(np.ones(1), np.eye(1))
    Manifest(CLASS_NAMES, (2, 3, 1), splits, statistics, seed=0, storage="jpeg").write(tmp_path)
    ShardReader(tmp_path, "train").close()
    with h5py.File(tmp_path / "train-00000-of-00001.h5", "r+") as file:
        file[dataset][:] = value
    with pytest.raises(DataError, match=message):
        ShardReader(tmp_path, "train")


def test_leaving_the_writer_without_commit_leaves_no_file(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, plan(3)) as writer:
        writer.write(2, *sample(4))
        assert len(shard_files(tmp_path, "train", finished=False)) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_shard_has_no_final_name_before_commit(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, plan(1)) as writer:
        writer.write(0, *sample(0))
        assert not list(tmp_path.glob("*.h5"))
        writer.commit(PixelSums.zero(1, (2, 3)))
        assert [path.name for path in tmp_path.iterdir()] == ["train-00000-of-00001.h5"]


def test_only_names_of_shards_are_taken_for_shards(tmp_path: Path) -> None:
    ours = ["train-00003-of-00009.h5", "train-00000-of-00001.h5.0a1b.tmp", "train-00000-of-00001.h5.tmp"]
    for name in (*ours, "train.h5", "train-1-of-2.h5", "train-00003-of-00009.h5.bak", "val-00000-of-00001.h5"):
        (tmp_path / name).touch()
    assert [path.name for path in shard_files(tmp_path, "train")] == sorted(ours)
    assert [path.name for path in shard_files(tmp_path, "train", finished=False)] == sorted(ours[1:])


def test_commit_without_any_sample_is_a_bug(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, plan(2)) as writer, pytest.raises(AssertionError, match="no sample was written"):
        writer.commit(PixelSums.zero(1, (2, 3)))


def test_a_row_written_twice_is_a_bug(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, plan(2)) as writer:
        writer.write(1, *sample(1))
        with pytest.raises(AssertionError, match="row 1 is written twice"):
            writer.write(1, *sample(1))


def test_a_damaged_shard_has_no_record(tmp_path: Path) -> None:
    write(tmp_path, 2, [0, 1])
    path = tmp_path / "train-00000-of-00001.h5"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"train-00000-of-00001.h5 is truncated.*build_shards"):
        read_record(path)
