"""The batch scripts do what their lines say; `srun` is a stand-in that runs what it is given as one rank."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from owt_mpi.data.manifest import Manifest
from tests.data_prep.conftest import class_folders, png
from tests.mpi_run import REPO_ROOT

SCRIPTS = sorted((REPO_ROOT / "launch").glob("*.sbatch"))
FAKE_SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do echo "srun option $1"; shift; done
exec "$@"
"""


def run(script: str, *arguments: str, path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a batch script as SLURM would, from another folder."""
    srun = path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(FAKE_SRUN)
    srun.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI", "SLURM"))}
    env |= {"PATH": f"{srun.parent}:{env['PATH']}", "SLURM_SUBMIT_DIR": str(REPO_ROOT), "OWT_MPI_VENV": sys.prefix}
    return subprocess.run(
        ["bash", str(REPO_ROOT / "launch" / script), *arguments],
        cwd=path, env=env | variables, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_line_of_a_batch_script_is_explained(script: Path):
    lines = script.read_text(encoding="utf-8").splitlines()
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    for before, line in pairwise(lines):
        if line.startswith("#SBATCH"):
            assert before.startswith(("# ", "#SBATCH")), f"{line!r} comes without a word"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of four images, which are not at the same place as the script."""
    images = {f"{number}.png": png(number) for number in range(4)}
    return class_folders({"ant": images, "bee": images}, tmp_path / "photographs")


needs_environment = pytest.mark.skipif(
    not Path(sys.prefix, "bin", "activate").exists(), reason="the tests do not run in a virtual environment"
)


@needs_environment
def test_the_preparation_builds_shards_and_verifies_them(photographs: Path, tmp_path: Path):
    out = tmp_path / "shards"
    done = run("prep.sbatch", str(photographs), str(out), "--size", "16", "--val-fraction", "0.25", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "srun option --mpi=pmix" in done.stdout
    assert "srun option --kill-on-bad-exit=1" in done.stdout
    assert Manifest.read(out).splits["train"].count == 6
    assert done.stdout.splitlines()[-1].endswith("shards: sound")


@needs_environment
def test_the_other_way_for_ranks_to_meet_is_a_variable(photographs: Path, tmp_path: Path):
    arguments = (str(photographs), str(tmp_path / "shards"), "--size", "16")
    done = run("prep.sbatch", *arguments, path=tmp_path, OWT_MPI_SRUN_MPI="pmi2")
    assert done.returncode == 0, done.stderr
    assert "srun option --mpi=pmi2" in done.stdout


@needs_environment
def test_a_preparation_without_its_folders_says_how_it_is_called(tmp_path: Path):
    done = run("prep.sbatch", "somewhere", path=tmp_path)
    assert (done.returncode, done.stderr) == (
        2, "usage: sbatch launch/prep.sbatch SOURCE OUT [options of data_prep.build_shards]\n",
    )  # fmt: skip
