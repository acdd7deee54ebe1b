import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from owt_mpi.data.manifest import DataError, Manifest, OddFile, Statistics
from owt_mpi.data.shard_format import ShardReader, read_mean_image, shard_counts
from owt_mpi.data.shard_writer import write_mean_image
from owt_mpi.disk import sha256_of

FIRST = "train-00000-of-00003.h5"
SHUFFLED = np.array([28, 0, 10, 9, 19, 20, 9, 27])  # crosses all shard limits (10, 10, 9), one index twice


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_read_returns_the_images_and_labels_that_were_written(folder: Path, pixels: np.ndarray) -> None:
    reader = ShardReader(folder, "train")
    images, labels = reader.read(SHUFFLED)
    np.testing.assert_array_equal(images, pixels[SHUFFLED])
    np.testing.assert_array_equal(labels, SHUFFLED * 3 % 4)
    assert (reader.num_samples, reader.num_classes, reader.image_shape) == (29, 4, (7, 6, 3))


def test_read_into_out_returns_out(folder: Path, pixels: np.ndarray) -> None:
    out = np.empty((2, 7, 6, 3), np.uint8)
    images, _ = ShardReader(folder, "train").read(np.array([15, 3]), out=out)
    assert images is out
    np.testing.assert_array_equal(out, pixels[[15, 3]])


def test_memory_maps_give_what_plain_h5py_gives(folder: Path) -> None:
    reader = ShardReader(folder, "val")
    assert "memory maps" in reader.describe()
    plain = []
    for shard in reader.manifest.splits["val"].shards:
        with h5py.File(folder / shard.file, "r") as file:
            plain.append(file["images"][:])
    np.testing.assert_array_equal(reader.read(np.arange(11))[0], np.concatenate(plain))


def test_compressed_shards_are_read_chunk_by_chunk_and_the_reader_says_so(folder: Path, pixels: np.ndarray) -> None:
    with h5py.File(folder / FIRST, "r+") as file:
        images = file["images"][:]
        del file["images"]
        file.create_dataset("images", data=images, compression="gzip")
    reader = ShardReader(folder, "train")
    assert "1 shards by chunks (slow), 2 shards by memory maps" in reader.describe()
    np.testing.assert_array_equal(reader.read(SHUFFLED)[0], pixels[SHUFFLED])
    reader.close()


@pytest.mark.parametrize("index", [-1, 29])
def test_index_outside_the_split_is_an_error(folder: Path, index: int) -> None:
    with pytest.raises(IndexError, match=r"0 \.\. 28"):
        ShardReader(folder, "train").read(np.array([0, index]))


def test_manifest_survives_writing_and_reading(folder: Path, tmp_path: Path) -> None:
    train = Manifest.read(folder).splits["train"]
    odd_files = (OddFile("ant/x.png", "it is no JPEG", "skipped"), OddFile("ant/y.jpg", "it is a PNG", "kept"))
    manifest = dataclasses.replace(
        Manifest.read(folder),
        splits={"train": dataclasses.replace(train, odd_files=odd_files)},
        storage="jpeg",
        image_shape=(None, None, 3),
        class_titles=("Ant", "Bee", "Cät", "Dog"),
        mean_image="statistics.h5",
        duplicates=(("train/ant/1", "val/bee/2"),),
        source_notes=("class eel is empty",),
        options={"size": 7, "val": None},
    )
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert [odd.name for odd in manifest.splits["train"].skipped] == ["ant/x.png"]


def test_manifest_describes_the_shards(folder: Path) -> None:
    split = Manifest.read(folder).splits["train"]
    assert [shard.count for shard in split.shards] == shard_counts(29, 3) == [10, 10, 9]
    assert split.shards[0].class_histogram == (3, 2, 2, 3)  # positions 0, 3, 6, ... mod 4
    assert split.class_histogram == (8, 7, 7, 7)
    assert split.shards[1].sha256 == sha256_of(folder / split.shards[1].file)


def test_statistics_of_known_moments() -> None:
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    statistics = Statistics.from_moments(np.array([1.0, 2.0]), turn @ np.diag([1.0, 9.0]) @ turn.T)
    np.testing.assert_allclose(statistics.pca_eigenvalues, [9, 1])
    np.testing.assert_allclose(statistics.pca_eigenvectors, [[0.8, -0.6], [0.6, 0.8]])
    np.testing.assert_allclose(statistics.std, np.sqrt([0.36 + 0.64 * 9, 0.64 + 0.36 * 9]))


def test_missing_shard_is_named(folder: Path) -> None:
    (folder / FIRST).unlink()
    with pytest.raises(DataError, match=rf"{FIRST} is missing.*build_shards"):
        ShardReader(folder, "train")


def test_truncated_shard_is_named(folder: Path) -> None:
    content = (folder / FIRST).read_bytes()
    (folder / FIRST).write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"{FIRST} is truncated"):
        ShardReader(folder, "train")


def test_other_version_of_a_shard_is_an_error(folder: Path) -> None:
    with h5py.File(folder / FIRST, "r+") as file:
        file.attrs["format_version"] = 1
    with pytest.raises(DataError, match=r"format version 1, this program reads 2; run .* with --overwrite"):
        ShardReader(folder, "train")


def test_other_version_of_the_manifest_is_an_error(folder: Path) -> None:
    edit_manifest(folder, lambda content: content.update(format_version=1))
    with pytest.raises(DataError, match=r"format version 1, this program reads 2; run .* with --overwrite"):
        ShardReader(folder, "train")


def test_exchanged_shards_are_an_error(folder: Path) -> None:
    (folder / "train-00001-of-00003.h5").rename(folder / FIRST)
    with pytest.raises(DataError, match="is inside shard 1 of 3 of split 'train'"):
        ShardReader(folder, "train")


@pytest.mark.parametrize("label", [-1, 4])
def test_label_out_of_range_is_an_error(folder: Path, label: int) -> None:
    with h5py.File(folder / FIRST, "r+") as file:
        file["labels"][3] = label
    with pytest.raises(DataError, match=f"label {label}, but there are 4 classes"):
        ShardReader(folder, "train")


def test_other_labels_than_the_manifest_says_are_an_error(folder: Path) -> None:
    with h5py.File(folder / FIRST, "r+") as file:
        file["labels"][3] = (file["labels"][3] + 1) % 4
    with pytest.raises(DataError, match="other numbers of images of each class"):
        ShardReader(folder, "train")


def test_other_number_of_images_than_the_manifest_says_is_an_error(folder: Path) -> None:
    with h5py.File(folder / FIRST, "r+") as file:
        images = file["images"][:-1]
        del file["images"]
        file["images"] = images
    with pytest.raises(DataError, match=r"\(9, 7, 6, 3\), the manifest says uint8 \(10, 7, 6, 3\)"):
        ShardReader(folder, "train")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m["splits"]["train"].update(count=30), "has 30 images but its shards 29"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file="../x.h5"), "not in its own folder"),
        (lambda m: m["splits"]["train"]["shards"][0].update(class_histogram=[10]), "does not add up"),
        (lambda m: m["splits"]["train"].update(class_histogram=[7, 8, 7, 7]), "not the sum of its shards'"),
        (lambda m: m.update(class_titles=["Ant"]), "1 titles of 4 classes"),
        (lambda m: m.update(mean_image="../x.h5"), "not in its own folder"),
        (lambda m: m.update(storage="webp"), "storage 'webp', this program reads raw and jpeg"),
        (lambda m: m.update(image_shape=[None, None, 3]), "raw images differ in size"),
        (lambda m: m.update(storage="jpeg"), "has storage 'raw', the manifest says otherwise"),
        (lambda m: m.pop("class_names"), r"malformed \(it has no 'class_names'\)"),
        (lambda m: m.update(image_shape=[7, 6]), r"malformed \(image_shape is \[7, 6\], and not"),
        (lambda m: m.update(format="coco"), "not a manifest of the format"),
        (lambda m: m.update(image_shape=[7, 2**60, 3]), "image_shape is 1152921504606846976, and not a whole number"),
        (lambda m: m["statistics"].update(mean=[1.0, float("nan"), 2.0]), "mean is nan, and not a finite number"),
        (lambda m: m["statistics"].update(std=[1.0]), "std has 1 values instead of 3, one for each channel"),
        (lambda m: m["splits"]["train"]["shards"][0].update(count=10**400), "count is 1000000.*, and not a whole"),
        (lambda m: m["splits"]["train"]["shards"][0].update(count=0), "count is 0, and not a whole number from 1"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file="a\0b"), "not in its own folder"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file="a" * 3000), "not in its own folder"),
        (lambda m: m["splits"]["train"].update(shards=[]), "split 'train' has 0 shards"),
        (lambda m: m["splits"].update({"../x": m["splits"]["val"]}), "split '../x' has 2 shards, or is called as none"),
        (lambda m: m["splits"].pop("train"), "no training images"),
        (lambda m: m.update(class_names=["ant", "ant", "bee", "cat"]), "two of one name"),
        (lambda m: m.update(options={"size": -1}), "the option size is -1"),
    ],
)
def test_wrong_manifest_is_an_error(folder: Path, edit: Callable[[dict[str, Any]], object], message: str) -> None:
    edit_manifest(folder, edit)
    with pytest.raises(DataError, match=message):
        ShardReader(folder, "train")


def test_folder_without_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest.json does not exist.*build_shards"):
        ShardReader(tmp_path, "train")


def test_mean_image_is_read_and_its_absence_is_named(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert read_mean_image(folder, manifest) is None
    manifest = dataclasses.replace(manifest, mean_image="statistics.h5")
    with pytest.raises(DataError, match=r"statistics.h5 cannot be read .*build_shards"):
        read_mean_image(folder, manifest)
    mean = np.arange(7 * 6 * 3).reshape(7, 6, 3) / 7
    write_mean_image(folder, mean)
    np.testing.assert_array_equal(read_mean_image(folder, manifest), mean)


def test_unknown_split_is_an_error_that_names_those_there(folder: Path) -> None:
    with pytest.raises(DataError, match="no split 'test', only 'train', 'val'"):
        ShardReader(folder, "test")


def test_more_shards_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="3 images cannot fill 4 shards"):
        shard_counts(3, 4)


def test_damage_inside_the_hdf5_structure_is_named_whatever_h5py_makes_of_it(folder: Path) -> None:
    path = folder / "train-00000-of-00003.h5"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, min(4096, len(whole)), 3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            ShardReader(folder, "train").close()
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(str(path) in message and "\n" not in message for message in messages)
