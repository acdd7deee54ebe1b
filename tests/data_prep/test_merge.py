import json
import re
from pathlib import Path

import numpy as np
import pytest

from data_prep import merge, verify
from owt_mpi.data.manifest import Manifest
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_format import ShardReader, read_mean_image
from tests.data_prep.data_sets import some_images, write_data_set
from tests.data_prep.test_reshard import contents, samples_of

A_CLASSES, B_CLASSES, ALL = ("ant", "cat", "dog"), ("bee", "cat"), ("ant", "bee", "cat", "dog")


@pytest.fixture(params=["raw", "jpeg"])
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """14 and 9 training images, 5 and 3 validation images, of 3 and 2 classes, one of them in both."""
    sizes = request.param == "jpeg"
    a = {"train": some_images(14, 1, sizes), "val": some_images(5, 2, sizes)}
    b = {"train": some_images(9, 3, sizes), "val": some_images(3, 4, sizes)}
    return (
        write_data_set(tmp_path / "a", a, A_CLASSES, storage=request.param),
        write_data_set(tmp_path / "b", b, B_CLASSES, num_shards=1, storage=request.param),
    )


def run(folders: tuple[Path, Path], out: Path, *arguments: str) -> int:
    return merge.main([*map(str, folders), str(out), "--workers", "1", *arguments])


def test_all_samples_are_there_with_the_labels_of_their_classes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before = [contents(folder) for folder in folders]
    out = tmp_path / "out"
    assert run(folders, out) == 0
    assert [contents(folder) for folder in folders] == before, "the sources are untouched"
    manifest = Manifest.read(out)
    assert manifest.class_names == ALL
    assert [len(manifest.splits[split].shards) for split in ("train", "val")] == [3, 3]
    for split in ("train", "val"):
        expected = []
        for folder, names in zip(folders, (A_CLASSES, B_CLASSES), strict=True):
            for image, label, name, source in samples_of(folder, split):
                expected.append((image, ALL.index(names[label]), name, source))
        merged = samples_of(out, split)
        assert sorted(merged) == sorted(expected)
        assert merged != expected, "they are mixed"
    assert verify.main([str(out), "--workers", "1"]) == 0


def test_statistics_are_those_of_all_pixels(tmp_path: Path) -> None:
    images = some_images(14, 1), some_images(9, 3)
    folders = (
        write_data_set(tmp_path / "a", {"train": images[0]}, A_CLASSES),
        write_data_set(tmp_path / "b", {"train": images[1]}, B_CLASSES),
    )
    assert run(folders, tmp_path / "out") == 0
    sums = PixelSums.zero(3, (7, 6))
    sums.add_images([*images[0], *images[1]])
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.statistics == sums.statistics()
    np.testing.assert_array_equal(read_mean_image(tmp_path / "out", manifest), sums.mean_image(23))


def test_same_bytes_come_of_a_second_run_and_others_of_another_seed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("one", "two", "three")]
    for out, seed in zip(outs, ("5", "5", "6"), strict=True):
        assert run(folders, out, "--seed", seed) == 0
    assert contents(outs[0]) == contents(outs[1])
    assert samples_of(outs[0], "train") != samples_of(outs[2], "train")


def test_sample_that_both_have_is_told_as_a_duplicate(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run((folders[0], folders[0]), out, "--json", str(tmp_path / "json")) == 0
    assert json.loads((tmp_path / "json").read_text())["duplicates"] == 19
    assert Manifest.read(out).duplicates[0] == ("train/ant/0", "train/ant/0")


def test_split_that_one_lacks_is_the_other_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_data_set(tmp_path / "a", {"train": some_images(6, 1), "val": some_images(4, 2)}, A_CLASSES)
    b = write_data_set(tmp_path / "b", {"train": some_images(6, 3)}, B_CLASSES)
    assert run((b, a), tmp_path / "out") == 0
    assert f"warning: {b} has no split 'val'" in capsys.readouterr().out
    assert ShardReader(tmp_path / "out", "val").num_samples == 4


def test_encoded_sets_of_different_sizes_make_one_of_many_sizes(tmp_path: Path) -> None:
    small = [image[:6, :5] for image in some_images(6, 1)]
    a = write_data_set(tmp_path / "a", {"train": small}, A_CLASSES, storage="jpeg")
    b = write_data_set(tmp_path / "b", {"train": some_images(6, 3)}, B_CLASSES, storage="jpeg")
    assert run((a, b), tmp_path / "out") == 0
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.image_shape == (None, None, 3)
    assert manifest.mean_image is None
    assert sorted(sample[2:] for sample in samples_of(tmp_path / "out", "train")) == sorted(
        sample[2:] for folder in (a, b) for sample in samples_of(folder, "train")
    )
    assert verify.main([str(tmp_path / "out"), "--workers", "1"]) == 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"storage": "jpeg"}, "has the storage raw and .* jpeg"),
        ({"channels": 1}, r"has the number of channels 3 and .* 1"),
        ({"cut": 5}, r"has the size \(7, 6, 3\) and .* \(7, 5, 3\)"),
    ],
)
def test_sets_that_do_not_go_together_are_refused(
    tmp_path: Path, other: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_data_set(tmp_path / "a", {"train": some_images(6, 1)}, A_CLASSES)
    images = [image[:, : other.get("cut", 6)] for image in some_images(6, 2, channels=other.get("channels", 3))]
    b = write_data_set(tmp_path / "b", {"train": images}, B_CLASSES, storage=other.get("storage", "raw"))
    assert run((a, b), tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "build one of them again like the other" in said
    assert re.search(message, said)
    assert not (tmp_path / "out").exists()
