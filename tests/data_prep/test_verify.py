import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep import verify
from owt_mpi.data.manifest import MANIFEST_NAME
from owt_mpi.disk import sha256_of
from tests.data_prep.data_sets import some_images, write_data_set

CLASS_NAMES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A raw data set of one size, and an encoded one of several, by their storage."""
    return {
        storage: write_data_set(
            tmp_path_factory.mktemp(storage),
            {"train": some_images(14, 1, sizes=storage == "jpeg"), "val": some_images(5, 2, sizes=storage == "jpeg")},
            CLASS_NAMES,
            storage=storage,
        )
        for storage in ("raw", "jpeg")
    }


@pytest.fixture
def raw(finished: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished["raw"], tmp_path / "raw"))


@pytest.fixture
def encoded(finished: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished["jpeg"], tmp_path / "encoded"))


def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = verify.main([str(folder), "--workers", "1"])
    return status, " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_sound_data_set_passes_with_a_table(
    finished: dict[str, Path], storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = run(finished[storage], capsys)
    assert status == 0
    assert said.endswith(f"{finished[storage]}: sound")
    assert "│ train │ 2 │ 2 │ 14 │ 3 │" in said
    assert "│ val │ 2 │ 2 │ 5 │ 3 │" in said


def test_several_processes_find_the_same(
    finished: dict[str, Path], raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_bit(raw / "train-00001-of-00002.h5", 4000)
    for workers in ("1", "2"):
        assert verify.main([str(raw), "--workers", workers, "--json", str(tmp_path / workers)]) == 3
    one, two = (json.loads((tmp_path / workers).read_text()) for workers in ("1", "2"))
    assert one == two
    assert one["sound"] is False
    assert [split["sound_shards"] for split in one["splits"]] == [1, 2]
    assert {problem["file"] for problem in one["problems"]} == {"train-00001-of-00002.h5"}


@pytest.mark.parametrize("name", ["train-00001-of-00002.h5", "val-00000-of-00002.h5"])
def test_any_flipped_bit_of_a_shard_is_found_and_the_shard_named(
    raw: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    size = (raw / name).stat().st_size
    for position in np.linspace(0, size - 1, 9).astype(int):
        flip_bit(raw / name, int(position))
        status, said = run(raw, capsys)
        assert status == 3
        assert f"NOT SOUND: {name}: its bytes are not those that were written" in said
        flip_bit(raw / name, int(position))
    assert run(raw, capsys)[0] == 0


def test_image_that_cannot_be_decoded_is_named_though_the_checksum_fits(
    encoded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(encoded / "train-00001-of-00002.h5", "r+") as file:
        file["bytes"][int(file["offsets"][2]) : int(file["offsets"][3])] = 0
    correct_checksum(encoded, "train", 1)
    status, said = run(encoded, capsys)
    assert status == 3
    assert "NOT SOUND: train-00001-of-00002.h5: sample ant/9 cannot be decoded" in said
    assert "1 problems" in said


def edit_labels(file: h5py.File) -> None:
    file["labels"][:2] = file["labels"][:2][::-1]


def edit_pixels(file: h5py.File) -> None:
    file["images"][3, 2, 1, 0] ^= 1


def edit_classes(file: h5py.File) -> None:
    file["classes"][0] = b"fly"


def edit_name(file: h5py.File) -> None:
    file["names"][0] = b"\x1b[2J/"


def remove_images(file: h5py.File) -> None:
    del file["images"]


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (edit_labels, "sample ant/0 has the label of class bee"),
        (edit_pixels, "its pixels do not have the sums that it says"),
        (edit_name, "sample \\x1b[2J/ has the label"),
        (edit_classes, "its classes are not the manifest's"),
        (remove_images, "has no dataset 'images'"),
    ],
)
def test_what_does_not_fit_together_is_named_though_the_checksum_fits(
    raw: Path, edit: Callable[[h5py.File], None], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(raw / "train-00000-of-00002.h5", "r+") as file:
        edit(file)
    correct_checksum(raw, "train", 0)
    status, said = run(raw, capsys)
    assert status == 3
    assert "NOT SOUND: train-00000-of-00002.h5:" in said
    assert what in said


def edit_mean(manifest: dict) -> None:
    manifest["statistics"]["mean"][1] *= 1 + 1e-6


def edit_vectors(manifest: dict) -> None:
    manifest["statistics"]["pca_eigenvectors"][0][2] *= 1 + 1e-6


def edit_histogram(manifest: dict) -> None:
    manifest["splits"]["train"]["class_histogram"][0] += 1


@pytest.mark.parametrize(
    ("edit", "what"), [(edit_mean, "its mean is not"), (edit_vectors, "its PCA is not"), (edit_histogram, "histogram")]
)
def test_manifest_that_does_not_fit_the_shards_is_not_sound(
    raw: Path, edit: Callable[[dict], None], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_manifest(raw, edit)
    status, said = run(raw, capsys)
    assert status == 3
    assert f"NOT SOUND: {MANIFEST_NAME}: " in said
    assert what in said


def test_wrong_mean_image_is_found(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(raw / "statistics.h5", "r+") as file:
        file["mean_image"][3, 2, 1] += 1e-3
    status, said = run(raw, capsys)
    assert status == 3
    assert "statistics.h5 does not hold the mean" in said


@pytest.mark.parametrize("name", [MANIFEST_NAME, "train-00000-of-00002.h5", "statistics.h5"])
def test_missing_file_is_named(raw: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / name).unlink()
    status, said = run(raw, capsys)
    assert status == 3
    assert f"{raw / name}" in said


def test_leftovers_are_noted_and_do_no_harm(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "train-00000-of-00007.h5").write_bytes(b"of another build")
    (raw / "train-00000-of-00002.h5.1234.tmp").write_bytes(b"")
    status, said = run(raw, capsys)
    assert status == 0
    assert "note: train-00000-of-00007.h5 is no part of the data set" in said
    assert "note: train-00000-of-00002.h5.1234.tmp is no part of the data set (left behind by a build" in said


def test_wrong_number_of_workers_is_refused(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(raw), "--workers", "0"]) == 2
    assert "--workers is 0" in capsys.readouterr().err


def flip_bit(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 4]))


def edit_manifest(folder: Path, edit: Callable[[dict], None]) -> None:
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    edit(manifest)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def correct_checksum(folder: Path, split: str, shard: int) -> None:
    def edit(manifest: dict) -> None:
        entry = manifest["splits"][split]["shards"][shard]
        entry["sha256"] = sha256_of(folder / entry["file"])

    edit_manifest(folder, edit)
