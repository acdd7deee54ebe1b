import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep import reshard, rewrite, verify, write_shard
from data_prep.write_shard import share_of
from owt_mpi.data.manifest import MANIFEST_NAME, Manifest
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.data.shard_record import read_record
from tests.data_prep.data_sets import some_images, write_data_set

CLASS_NAMES = ("ant", "bee", "cat")


@pytest.fixture(params=["raw", "jpeg"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """14 training images in 2 shards, 5 validation images in 2; of differing sizes where they are encoded."""
    sizes = request.param == "jpeg"
    images = {"train": some_images(14, 1, sizes), "val": some_images(5, 2, sizes)}
    return write_data_set(tmp_path / "set", images, CLASS_NAMES, storage=request.param)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def samples_of(folder: Path, split: str) -> list[tuple[bytes, int, str, bytes]]:
    """Return stored image, label, name and source hash of every sample, in order."""
    reader = ShardReader(folder, split)
    found = []
    for index in range(reader.num_samples):
        path, row = reader.find(index)
        record = read_record(path)
        raw = reader.storage == "raw"
        image = reader.read(np.array([index]))[0].tobytes() if raw else reader.encoded(index)
        found.append((image, int(reader.labels[index]), record.names[row], record.source_sha256[row].tobytes()))
    return found


@pytest.mark.parametrize("num_shards", [1, 4])
def test_samples_stay_where_they_are_and_statistics_stay_to_the_bit(folder: Path, num_shards: int) -> None:
    before = contents(folder)
    out = folder.parent / "out"
    assert reshard.main([str(folder), str(out), "--shards", str(num_shards), "--workers", "1"]) == 0
    assert contents(folder) == before, "the source is untouched"
    old, new = Manifest.read(folder), Manifest.read(out)
    assert {split: len(entry.shards) for split, entry in new.splits.items()} == {
        "train": num_shards,
        "val": 1 if num_shards == 1 else 2,
    }
    for split in ("train", "val"):
        assert samples_of(out, split) == samples_of(folder, split)
    assert new.statistics == old.statistics
    assert (new.class_names, new.image_shape, new.storage) == (old.class_names, old.image_shape, old.storage)
    assert verify.main([str(out), "--workers", "1"]) == 0
    if old.storage == "raw":
        assert (out / "statistics.h5").read_bytes() == (folder / "statistics.h5").read_bytes()


def test_same_bytes_come_of_any_number_of_processes_and_of_a_second_way(folder: Path) -> None:
    outs = [folder.parent / name for name in ("one", "two", "by way of five")]
    reshard.main([str(folder), str(outs[0]), "--shards", "3", "--workers", "1"])
    reshard.main([str(folder), str(outs[1]), "--shards", "3", "--workers", "2"])
    assert contents(outs[0]) == contents(outs[1])
    reshard.main([str(folder), str(folder.parent / "five"), "--shards", "5", "--workers", "1"])
    reshard.main([str(folder.parent / "five"), str(outs[2]), "--shards", "3", "--workers", "1"])
    assert samples_of(outs[2], "train") == samples_of(outs[0], "train")
    assert Manifest.read(outs[2]).statistics == Manifest.read(outs[0]).statistics


def test_second_run_finds_it_done_and_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    command = [str(folder), str(out), "--shards", "3", "--workers", "1"]
    assert reshard.main(command) == 0
    before, times = contents(out), {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert reshard.main([*command, "--json", str(folder.parent / "json")]) == 0
    assert "is there already" in capsys.readouterr().out
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    told = json.loads((folder.parent / "json").read_text())
    assert told["splits"] == {"train": {"images": 14, "shards": 3}, "val": {"images": 5, "shards": 2}}


@pytest.mark.parametrize("num_whole", [0, 1, 3])
def test_interrupted_run_goes_on_to_the_same_bytes(
    folder: Path, num_whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [str(folder), "", "--shards", "3", "--workers", "1"]
    expected, out = folder.parent / "expected", folder.parent / "out"
    reshard.main([command[0], str(expected), *command[2:]])
    written: list[str] = []

    def interrupted(task: write_shard.ShardTask) -> object:
        if len(written) == num_whole:
            (out / f"{task.plan.file}.12ab34cd.tmp").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        written.append(task.plan.file)
        return write_shard.write_shard(task)

    with monkeypatch.context() as patch:
        patch.setattr(rewrite, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reshard.main([command[0], str(out), *command[2:]])
    assert not (out / MANIFEST_NAME).exists()
    times = {name: (out / name).stat().st_mtime_ns for name in written}
    assert reshard.main([command[0], str(out), *command[2:]]) == 0
    assert contents(out) == contents(expected)
    assert {name: (out / name).stat().st_mtime_ns for name in written} == times, "whole shards are kept"


def test_full_disk_is_an_error_that_leaves_no_half_shard(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_shard.ShardWriter, "commit", full)
    out = folder.parent / "out"
    assert reshard.main([str(folder), str(out), "--shards", "3", "--workers", "1"]) == 3
    assert "No space left" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_folder_with_something_else_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    reshard.main([str(folder), str(out), "--shards", "3", "--workers", "1"])
    before = contents(out)
    assert reshard.main([str(folder), str(out), "--shards", "2", "--workers", "1"]) == 2
    assert "holds another data set; choose another folder" in capsys.readouterr().err
    os.remove(out / MANIFEST_NAME)
    assert reshard.main([str(folder), str(out), "--shards", "2", "--workers", "1"]) == 2
    assert "of another data set; choose another folder" in capsys.readouterr().err
    assert contents(out) == {name: content for name, content in before.items() if name != MANIFEST_NAME}


def test_damaged_shard_of_an_interrupted_run_is_made_again(folder: Path) -> None:
    out, expected = folder.parent / "out", folder.parent / "expected"
    command = ["--shards", "3", "--workers", "1"]
    reshard.main([str(folder), str(expected), *command])
    shutil.copytree(expected, out)
    (out / MANIFEST_NAME).unlink()
    (out / "train-00001-of-00003.h5").write_bytes(b"no HDF5")
    assert reshard.main([str(folder), str(out), *command]) == 0
    assert contents(out) == contents(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out", "--shards", "0"], "--shards is 0; 14 training images fill 1 to 14 shards"),
        (["out", "--shards", "15"], "--shards is 15"),
        (["set", "--shards", "3"], "is a source as well"),
        (["out", "--shards", "3", "--workers", "0"], "--workers is 0"),
    ],
)
def test_what_cannot_be_is_refused(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    assert reshard.main([str(folder), str(folder.parent / arguments[0]), *arguments[1:]]) == 2
    assert message in capsys.readouterr().err
    assert contents(folder) == before


def test_source_that_is_no_data_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reshard.main([str(tmp_path), str(tmp_path / "out"), "--shards", "3"]) == 3
    assert "does not exist: not a data set" in capsys.readouterr().err


def test_shares_of_sums_add_up_to_them() -> None:
    random = np.random.default_rng(1)
    sums = PixelSums(1001, random.integers(0, 2**50, 3), random.integers(0, 2**55, (3, 3)), None)
    whole = PixelSums.zero(3, None)
    for first, stop in ((0, 4), (4, 5), (5, 13), (13, 13)):
        whole.add(share_of(sums, first, stop, 13))
    assert whole.count == sums.count
    np.testing.assert_array_equal(whole.total, sums.total)
    np.testing.assert_array_equal(whole.products, sums.products)
