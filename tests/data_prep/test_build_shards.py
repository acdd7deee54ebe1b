import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep import build_shards
from data_prep.build_shards import build, main
from data_prep.images import Recipe, prepare
from data_prep.options import Options
from owt_mpi import rng
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.data.manifest import DataError, Manifest
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.disk import sha256_of

Files = dict[str, dict[str, bytes]]
Writers = dict[str, Callable[[Files, Path], Path]]


@pytest.fixture
def source(files: Files, writers: Writers, tmp_path: Path) -> Path:
    return writers["tar of class tars"](files, tmp_path / "train.tar.gz")


@pytest.fixture
def broken(files: Files, writers: Writers, tmp_path: Path) -> Path:
    """A source whose class pear has two damaged images."""
    damaged = {**files["pear"], "pear_2.PNG": b"nothing", "pear_0.PNG": files["pear"]["pear_0.PNG"][:60]}
    return writers["tar of class tars"]({**files, "pear": damaged}, tmp_path / "broken.tar")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(*arguments: object) -> int:
    """Return the exit status of the command; its error goes to stderr, as run_command prints it."""
    try:
        return main([str(argument) for argument in arguments])
    except CollectiveExit as end:
        print(end, file=sys.stderr)
        return int(str(end.code))


def test_images_labels_and_order_are_those_of_the_definition(source: Path, files: Files, tmp_path: Path) -> None:
    manifest = build(Options(source, tmp_path / "out", size=8, shards=2, seed=4, workers=1))
    assert manifest.class_names == ("apple", "pear", "quince")
    images, labels = ShardReader(tmp_path / "out", "train").read(np.arange(12))
    samples = sorted((class_name, name) for class_name in files for name in files[class_name])
    positions = rng.permutation(rng.stream_key(4, "shuffle", "train"), 12)
    for (class_name, name), position in zip(samples, positions, strict=True):
        expected = prepare(files[class_name][name], name, Recipe("raw", 3, 8, square=True, quality=90)).pixels
        np.testing.assert_array_equal(images[position], expected)
        assert manifest.class_names[labels[position]] == class_name
    np.testing.assert_allclose(manifest.statistics.mean, images.mean(axis=(0, 1, 2)))


def test_number_of_workers_and_layout_do_not_change_a_byte(
    files: Files, writers: Writers, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.builder.CHUNK", 2)  # so that both workers get several
    options: dict[str, Any] = {"size": 8, "shards": 2, "val_fraction": 0.3}
    build(Options(source, tmp_path / "one", workers=1, **options))
    build(Options(source, tmp_path / "two", workers=2, **options))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    folder = writers["folder of class folders"](files, tmp_path / "folder")
    build(Options(folder, tmp_path / "three", workers=1, **options))
    one, three = Manifest.read(tmp_path / "one"), Manifest.read(tmp_path / "three")
    assert (one.splits, one.statistics) == (three.splits, three.statistics)


def test_the_seed_changes_the_order(source: Path, tmp_path: Path) -> None:
    orders = []
    for seed in (0, 1):
        build(Options(source, tmp_path / str(seed), size=8, seed=seed, workers=1))
        orders.append(ShardReader(tmp_path / str(seed), "train").labels.tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_files_with_the_same_content_are_listed_across_splits(files: Files, writers: Writers, tmp_path: Path) -> None:
    train = {f"train/{name}": images for name, images in files.items()}
    val = {"val/pear": {"a.PNG": files["pear"]["pear_1.PNG"]}, "val/quince": {"b.PNG": files["quince"]["quince_4.PNG"]}}
    path = writers["tar of class folders"](train | val, tmp_path / "both.tar")
    manifest = build(Options(path, tmp_path / "out", size=8, shards=1, workers=1))
    assert manifest.duplicates == (
        ("train/pear/pear_1.PNG", "val/pear/a.PNG"), ("train/quince/quince_4.PNG", "val/quince/b.PNG")
    )  # fmt: skip


def test_val_fraction_takes_that_part_of_each_class(source: Path, tmp_path: Path) -> None:
    manifest = build(Options(source, tmp_path / "out", size=8, val_fraction=0.4, workers=1))
    assert manifest.splits["val"].shards[0].class_histogram == (2, 2, 1)  # of 4, 5 and 3
    assert manifest.splits["train"].shards[0].class_histogram == (2, 3, 2)
    together = np.concatenate(
        [ShardReader(tmp_path / "out", s).read(np.arange(n))[0] for s, n in (("train", 7), ("val", 5))]
    )
    assert len(np.unique(together.reshape(12, -1), axis=0)) == 12


def test_validation_folder_beside_the_training_folder_is_found(files: Files, writers: Writers, tmp_path: Path) -> None:
    both = {f"train/{name}": images for name, images in files.items()}
    both |= {f"test/{name}": dict(list(images.items())[:2]) for name, images in files.items()}
    path = writers["tar of class folders"](both, tmp_path / "both.tar")
    manifest = build(Options(path, tmp_path / "out", size=8, workers=1))
    assert {name: split.count for name, split in manifest.splits.items()} == {"train": 12, "val": 6}
    with pytest.raises(ValueError, match="validation images of its own"):
        build(Options(path, tmp_path / "other", val_fraction=0.5))


def test_images_per_shard_bounds_every_file(source: Path, tmp_path: Path) -> None:
    manifest = build(Options(source, tmp_path / "out", size=8, images_per_shard=5, workers=1))
    assert [shard.count for shard in manifest.splits["train"].shards] == [4, 4, 4]


def test_gray_images_have_one_channel(source: Path, tmp_path: Path) -> None:
    assert build(Options(source, tmp_path / "out", size=8, channels=1, workers=1)).image_shape == (8, 8, 1)
    assert ShardReader(tmp_path / "out", "train").read(np.array([3]))[0].shape == (1, 8, 8, 1)


def test_the_hashes_in_the_manifest_are_those_of_the_files(source: Path, tmp_path: Path) -> None:
    manifest = build(Options(source, tmp_path / "out", size=8, shards=2, workers=1))
    for shard in manifest.splits["train"].shards:
        assert sha256_of(tmp_path / "out" / shard.file) == shard.sha256


def test_building_again_says_so_and_changes_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(source, tmp_path / "out", "--size", 8, "--workers", 1) == 0
    before = contents(tmp_path / "out")
    monkeypatch.setattr(build_shards, "open_source", None)  # not even looked at
    assert run(source, tmp_path / "out", "--size", 8, "--workers", 2) == 0
    assert "already built" in capsys.readouterr().out
    assert contents(tmp_path / "out") == before


def test_other_options_are_refused_without_overwrite(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(source, out, "--size", 8, "--workers", 1, "--shards", 3) == 0
    assert run(source, out, "--size", 6, "--workers", 1) == 2
    assert "built with size = 8 instead of 6" in capsys.readouterr().err
    assert run(source, out, "--size", 6, "--workers", 1, "--overwrite") == 0
    assert sorted(contents(out)) == ["manifest.json", "statistics.h5", "train-00000-of-00001.h5"]
    assert ShardReader(out, "train").image_shape == (6, 6, 3)


def test_an_incomplete_data_set_is_not_taken_for_built(source: Path, tmp_path: Path) -> None:
    build(Options(source, tmp_path / "out", size=8, workers=1))
    (tmp_path / "out/train-00000-of-00001.h5").unlink()
    with pytest.raises(DataError, match="is missing"):
        build(Options(source, tmp_path / "out", size=8, workers=1))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_corrupt_image_is_named_and_leaves_nothing(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], num_workers: int
) -> None:
    assert run(broken, tmp_path / "out", "--size", 8, "--workers", num_workers) == 3
    error = capsys.readouterr().err
    assert "broken.tar: pear/pear_2.PNG: it is no JPEG, PNG" in error
    assert "--on-error skip" in error
    assert error.count("\n") == 1
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_corrupt_images_are_skipped_on_demand_without_gaps(broken: Path, tmp_path: Path, num_workers: int) -> None:
    manifest = build(Options(broken, tmp_path / "out", size=8, on_error="skip", workers=num_workers))
    split = manifest.splits["train"]
    assert split.count == 10
    assert [odd.name for odd in split.skipped] == ["pear/pear_0.PNG", "pear/pear_2.PNG"]
    assert split.shards[0].class_histogram == (4, 3, 3)
    assert ShardReader(tmp_path / "out", "train").read(np.arange(10))[0].any(axis=(1, 2, 3)).all()


def test_a_full_disk_is_named_and_leaves_no_manifest_and_no_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    build(Options(source, out, size=6, workers=1))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("owt_mpi.data.shard_writer.PixelFile.write", full_disk)
    assert run(source, out, "--size", 8, "--workers", 1, "--overwrite") == 3
    assert contents(out) == {}
    error = capsys.readouterr().err
    assert f"{out} is full (No space left on device); make room and give the same command again" in error


def test_other_files_in_out_are_left_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("notes.txt", "train.h5", "train-00003-of-00009.h5", "val-00000-of-00001.h5.tmp"):
        (out / name).write_text("mine")
    build(Options(source, out, size=8, workers=1))
    assert sorted(contents(out)) == [
        "manifest.json",
        "notes.txt",
        "statistics.h5",
        "train-00000-of-00001.h5",
        "train.h5",
    ]


def test_classes_of_validation_images_must_be_known(
    source: Path, files: Files, writers: Writers, tmp_path: Path
) -> None:
    other = writers["tar of class tars"]({"fig": files["pear"]}, tmp_path / "val.tar")
    with pytest.raises(DataError, match="1 classes without training images, such as 'fig'"):
        build(Options(source, tmp_path / "out", val=other, size=8))


def test_one_class_alone_is_an_error(files: Files, writers: Writers, tmp_path: Path) -> None:
    path = writers["tar of class tars"]({"pear": files["pear"]}, tmp_path / "one.tar")
    with pytest.raises(DataError, match="has the one class 'pear'"):
        build(Options(path, tmp_path / "out"))


def test_summary_is_written_with_its_warnings(
    files: Files, writers: Writers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = writers["tar of class tars"]({**files, "fig": {}}, tmp_path / "train.tar")
    report = tmp_path / "summary.json"
    assert run(path, tmp_path / "out", "--size", 8, "--workers", 1, "--json", report) == 0
    summary = json.loads(report.read_text())
    assert summary["splits"] == {"train": {"images": 12, "shards": 1, "skipped": 0}}
    assert summary["classes"] == 3
    assert f"{path}: class fig is empty and left out" in summary["warnings"]
    assert summary["images_per_second"] > 0
    assert "images: 12 of 12, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--val", "x", "--val-fraction", "0.5"), "--val and --val-fraction exclude each other"),
        (("--shards", "2", "--images-per-shard", "5"), "--shards and --images-per-shard exclude each other"),
        (("--val-fraction", "1.0"), "--val-fraction is 1.0; choose a number between 0 and 1"),
        (("--val-fraction", "0.01"), "is no image at all"),
        (("--size", "0"), "--size is 0; choose 1 or more"),
        (("--workers", "0"), "--workers is 0; choose 1 or more"),
        (("--shards", "13"), "12 images cannot fill 13 shards"),
        (("--val", "nowhere"), "nowhere does not exist"),
    ],
)
def test_wrong_options_are_explained_in_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(source, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_source_does_not_validate_itself(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, tmp_path / "out", "--val", source) == 2
    assert f"--val is SOURCE itself, {source}; leave it out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
