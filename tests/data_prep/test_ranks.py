"""The command on several ranks: what they write does not depend on their number."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.build_shards import build
from data_prep.options import Options
from tests.data_prep.conftest import Files, class_folders
from tests.mpi_run import Result

Mpirun = Callable[..., Result]


@pytest.fixture
def source(files: Files, tmp_path: Path) -> Path:
    return class_folders(files, tmp_path / "source")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(mpirun: Mpirun, num_ranks: int, *arguments: object) -> Result:
    return mpirun(num_ranks, ["-m", "data_prep.build_shards", *map(str, arguments)])


@pytest.mark.parametrize(("num_ranks", "num_workers"), [(2, 1), (4, 1), (2, 2)])
def test_any_number_of_ranks_and_workers_writes_the_same_bytes(
    mpirun: Mpirun, source: Path, tmp_path: Path, num_ranks: int, num_workers: int
) -> None:
    build(Options(source, tmp_path / "one", size=8, val_fraction=0.3, shards=3, workers=1))
    result = run(mpirun, num_ranks, source, tmp_path / "many", "--size", 8, "--val-fraction", 0.3, "--shards", 3,
                 "--workers", num_workers).check()  # fmt: skip
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert "images: 12 of 12" in result.rank_stdout[0]
    assert "".join(result.rank_stdout[1:]) == ""


def test_a_rank_that_fails_ends_all_with_its_message(mpirun: Mpirun, source: Path, tmp_path: Path) -> None:
    (source / "pear/pear_2.PNG").write_bytes(b"nothing")
    result = run(mpirun, 2, source, tmp_path / "out", "--size", 8, "--shards", 4, "--workers", 1)
    assert result.returncode == 3
    assert "pear/pear_2.PNG: it is no JPEG" in result.stderr
    assert result.stderr.count("error:") == 1
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".tmp"]


def test_wrong_options_are_explained_once(mpirun: Mpirun, source: Path, tmp_path: Path) -> None:
    result = run(mpirun, 2, source, tmp_path / "out", "--size", 0)
    assert result.returncode == 2
    assert result.stderr.count("--size is 0; choose 1 or more") == 1
    result = run(mpirun, 2, tmp_path / "nowhere", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.count("nowhere does not exist") == 1
