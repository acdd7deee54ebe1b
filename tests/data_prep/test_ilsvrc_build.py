"""ILSVRC2012 as it is handed out, with every odd file known, becomes shards: on any number of ranks, killed or not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.build_shards import build
from data_prep.images import prepare
from data_prep.options import Options
from owt_mpi.data.manifest import Manifest
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.data.shard_record import read_record
from tests.data_prep.ilsvrc import CLASSES, Made, devkit_tar, make_ilsvrc
from tests.mpi_run import Result

Mpirun = Callable[..., Result]
ARGUMENTS = ("--size", "24", "--shards", "4", "--on-error", "skip", "--workers", "1")
REASONS = {  # of each kind of odd file
    "cmyk": "its colours are CMYK",
    "png": "it is a PNG file by content",
    "gray": "it is gray",
    "rotated": "its EXIF orientation 6 is not followed",
    "tiny": "it is enlarged from 1x1 pixels",
    "truncated": "it cannot be decoded (image file is truncated",
    "empty": "it is empty",
    "huge": "it is too large: it has more than 89478485 pixels",
    "text": "it is no JPEG, PNG",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_ilsvrc(tmp_path_factory.mktemp("ilsvrc") / "ILSVRC2012")


@pytest.fixture(scope="module")
def built(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set as one rank builds it."""
    out = tmp_path_factory.mktemp("built") / "out"
    build(Options(made.path, out, size=24, shards=4, on_error="skip", workers=1))
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_image_has_its_pixels_and_its_label(made: Made, built: Path) -> None:
    recipe = Options(made.path, built, size=24).recipe()
    manifest = Manifest.read(built)
    assert manifest.class_names == tuple(sorted(CLASSES))
    assert manifest.class_titles == tuple(CLASSES[wnid] for wnid in sorted(CLASSES))
    for split in ("train", "val"):
        reader = ShardReader(built, split)
        images, labels = reader.read(np.arange(reader.num_samples))
        names = [name for shard in manifest.splits[split].shards for name in read_record(built / shard.file).names]
        kept = made.with_fate("kept", split)
        assert sorted(names) == list(kept)
        for name, image, label in zip(names, images, labels, strict=True):
            np.testing.assert_array_equal(image, prepare(kept[name].content, name, recipe).pixels)
            assert manifest.class_names[label] == kept[name].wnid


def test_each_odd_file_and_its_fate_is_in_the_manifest(made: Made, built: Path) -> None:
    manifest = Manifest.read(built)
    expected = {
        f"{file.wnid}/{file.name}": (REASONS[file.kind], "skipped" if file.kind in unusable else "kept")
        for unusable in [("truncated", "empty", "huge", "text")]
        for file in made.files
        if file.kind in REASONS
    }
    found = {odd.name: (odd.reason, odd.fate) for odd in manifest.splits["train"].odd_files}
    assert list(found) == sorted(expected)
    for name, (reason, fate) in expected.items():
        assert found[name][0].startswith(reason)
        assert found[name][1] == fate
    assert manifest.splits["val"].odd_files == ()
    same = [file for file in made.files if file.kind == "duplicate"]
    first = next(file for file in made.files if file.content == same[0].content)
    assert manifest.duplicates == (tuple(sorted(f"train/{file.wnid}/{file.name}" for file in [first, *same])),)
    assert [note.rpartition("/")[2] for note in manifest.source_notes] == ["n02119789_110.txt is not an image file"]


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_any_number_of_ranks_writes_the_same_bytes(
    mpirun: Mpirun, made: Made, built: Path, tmp_path: Path, num_ranks: int
) -> None:
    mpirun(num_ranks, ["-m", "data_prep.build_shards", str(made.path), str(tmp_path / "out"), *ARGUMENTS]).check()
    assert contents(tmp_path / "out") == contents(built)


@pytest.mark.parametrize(("rank", "moment"), [(0, 5), (1, 14), (1, 31)])
def test_a_job_that_loses_a_rank_is_finished_by_the_next(
    mpirun: Mpirun, made: Made, built: Path, tmp_path: Path, rank: int, moment: int
) -> None:
    arguments = [str(made.path), str(tmp_path / "out"), *ARGUMENTS]
    result = mpirun(2, ["tests/data_prep/run_killed.py", str(rank), str(moment), *arguments])
    assert result.returncode != 0
    assert not (tmp_path / "out/manifest.json").exists()
    mpirun(3, ["-m", "data_prep.build_shards", *arguments]).check()
    assert contents(tmp_path / "out") == contents(built)


def test_wrong_counts_against_the_kit_are_reported_by_class(tmp_path: Path) -> None:
    made = make_ilsvrc(tmp_path / "source")
    val = sorted((file for file in made.files if file.split == "val"), key=lambda file: file.name)
    kit = devkit_tar([file.wnid for file in val], {"n03126707": 9})
    (made.path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(kit)
    manifest = build(Options(made.path, tmp_path / "out", size=8, on_error="skip", workers=1))
    assert any("class n03126707 has 4 images instead of 9" in note for note in manifest.source_notes)
