"""What benchmarks of images do, from photographs to tables; with PyTorch in the environment also against that."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.mpi_run import NO_MPIRUN, REPO_ROOT, find_mpirun


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photographs of three classes, of many sizes."""
    random = np.random.default_rng(1)
    for number in range(6):
        path = tmp_path / "photos" / f"class{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((90 + 10 * number, 100 - 5 * number)).save(path)
    return tmp_path / "photos"


def run(*arguments: str, benchmark: str = "loader") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *arguments]
    return subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, check=False, timeout=250)


def test_every_way_of_reading_has_its_row(photos: Path, tmp_path: Path) -> None:
    small = ["--images", "12", "--batch", "6", "--size", "40", "--crop", "32", "--repeats", "1", "--threads", "2"]
    done = run(str(photos), *small, "--json", str(tmp_path / "json"))
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "json").read_text())
    peers = [peer for peer in ("torchvision", "webdataset") if find_spec("torch") and find_spec(peer)]
    decoded = ["bare decode", "ours, bytes"]
    assert [(row["stored"], row["what"]) for row in told["rows"]] == [
        *(("pixels, 40x40", what) for what in ("memcpy", "ours, bytes", "ours, Loader")),
        *(("JPEG, 40x40", what) for what in (*decoded, "ours, Loader", *peers)),
        *(("original files", what) for what in (*decoded, "ours, bytes, --draft", "ours, Loader", *peers)),
    ]
    assert all(row["images_per_second"] > 0 for row in told["rows"])
    assert {row["against"] for row in told["rows"]} == {"", "memcpy", "bare decode", *peers[:1]}
    for row in told["rows"]:
        assert row["what"] in done.stdout
    assert ("not measured" in told) == (len(peers) < 2)


def test_round_that_is_no_whole_number_of_batches_is_refused(photos: Path) -> None:
    done = run(str(photos), "--images", "13", "--batch", "6")
    assert done.returncode == 1
    assert "--images 13 are no whole number of batches of 6" in done.stderr


@pytest.mark.skipif(find_mpirun() is None, reason=NO_MPIRUN)
def test_preparing_has_a_row_for_each_number_of_ranks(photos: Path, tmp_path: Path) -> None:
    small = ["--copies", "3", "--size", "16", "--repeats", "1", "--json", str(tmp_path / "json")]
    done = run(str(photos), *small, benchmark="prepare")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "json").read_text())
    assert [row["ranks"] for row in rows] == [1, 2]
    assert all(row["ratio"] == pytest.approx(row["ours"] / row["bare"]) for row in rows)
    assert "ours / bare" in done.stdout
