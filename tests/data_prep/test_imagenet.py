"""ILSVRC2012 in small, with every kind of odd file, becomes the right shards on any number of ranks."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from data_prep.build_shards import build
from data_prep.images import Recipe, prepare
from data_prep.options import Options
from owt_mpi.data.manifest import Manifest
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.data.shard_record import read_record
from tests.data_prep.ilsvrc import CLASSES, NUM_PHOTOS, NUM_VAL, Made, make_ilsvrc
from tests.mpi_run import Result

SIZE = 24
WNIDS = sorted(CLASSES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_ilsvrc(tmp_path_factory.mktemp("ilsvrc") / "source")


@pytest.fixture(scope="module")
def out(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that one rank builds."""
    folder = tmp_path_factory.mktemp("shards") / "one"
    build(Options(made.path, folder, size=SIZE, shards=3, on_error="skip", workers=1))
    return folder


@pytest.fixture(scope="module")
def manifest(out: Path) -> Manifest:
    return Manifest.read(out)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_several_ranks_write_the_same_bytes(
    made: Made, out: Path, tmp_path: Path, mpirun: Callable[..., Result], num_ranks: int
) -> None:
    options = ["--size", str(SIZE), "--shards", "3", "--on-error", "skip", "--workers", "1"]
    mpirun(num_ranks, ["-m", "data_prep.build_shards", str(made.path), str(tmp_path / "many"), *options]).check()
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "many").iterdir())
    assert [name for name in names if (out / name).read_bytes() != (tmp_path / "many" / name).read_bytes()] == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_sound_image_is_stored_once_with_its_label_and_pixels(
    made: Made, out: Path, manifest: Manifest, split: str
) -> None:
    kept = made.with_fate("kept", split)
    records = [read_record(out / shard.file) for shard in manifest.splits[split].shards]
    names = [name for record in records for name in record.names]
    assert sorted(names) == list(kept)
    images, labels = ShardReader(out, split).read(np.arange(len(names)))
    hashes = np.concatenate([record.source_sha256 for record in records])
    for name, image, label, digest in zip(names, images, labels, hashes, strict=True):
        file = kept[name]
        assert label == WNIDS.index(file.wnid)
        assert digest.tobytes() == hashlib.sha256(file.content).digest()
        expected = prepare(file.content, file.name, Recipe("raw", 3, SIZE, square=True, quality=90)).pixels
        np.testing.assert_array_equal(image, expected)


def test_classes_are_in_the_order_of_their_wnids_with_the_kits_titles(manifest: Manifest) -> None:
    assert manifest.class_names == tuple(WNIDS)
    assert manifest.class_titles == tuple(CLASSES[wnid] for wnid in WNIDS)
    assert manifest.splits["val"].class_histogram == (NUM_VAL,) * len(WNIDS)
    assert min(manifest.splits["train"].class_histogram) == NUM_PHOTOS


def test_the_manifest_names_every_file_that_is_left_out_and_why(made: Made, manifest: Manifest) -> None:
    reasons = {
        "truncated": "it cannot be decoded (image file is truncated",
        "empty": "it is empty",
        "huge": "it is too large",
        "text": "it is no JPEG",
    }
    unusable = made.with_fate("unusable", "train")
    skipped = {odd.name: odd.reason for odd in manifest.splits["train"].odd_files if odd.fate == "skipped"}
    assert sorted(skipped) == list(unusable)
    assert sorted(file.kind for file in unusable.values()) == sorted(reasons)
    assert [name for name, file in unusable.items() if not skipped[name].startswith(reasons[file.kind])] == []
    (notes,) = made.with_fate("ignored", "train").values()
    (note,) = manifest.source_notes
    assert note.endswith(f"{notes.wnid}/{notes.name} is not an image file")
    assert manifest.splits["val"].odd_files == ()


def test_the_manifest_names_every_odd_file_that_is_kept_and_files_of_the_same_content(
    made: Made, manifest: Manifest
) -> None:
    remarks = {
        "cmyk": "its colours are CMYK",
        "png": "it is a PNG file by content",
        "gray": "it is gray",
        "rotated": "its EXIF orientation 6 is not followed",
        "tiny": "it is enlarged from 1x1 pixels",
    }
    kept = {odd.name: odd.reason for odd in manifest.splits["train"].odd_files if odd.fate == "kept"}
    files = made.with_fate("kept", "train")
    assert kept == {name: remarks[file.kind] for name, file in files.items() if file.kind in remarks}
    copies = {name for name, file in files.items() if file.kind == "duplicate"}
    (group,) = manifest.duplicates
    assert {name.removeprefix("train/") for name in group} > copies
    assert len(group) == len(copies) + 1
