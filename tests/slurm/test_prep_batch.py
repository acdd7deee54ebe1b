"""launch/prep.sbatch on a real SLURM: a killed job that is submitted again writes the bytes of an undisturbed one."""

from pathlib import Path

import pytest

from tests.data_prep.conftest import class_folders, png
from tests.mpi_run import until
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import NODES, mpi_variables

NUM_SHARDS = 8
# Read by every Python that starts with it on its path: a rank halts when it has finished a shard, for ever.
HALT = """
import pathlib, threading
rename = pathlib.Path.rename
def rename_and_halt(path, target):
    rename(path, target)
    if str(target).endswith(".h5"):
        threading.Event().wait()
pathlib.Path.rename = rename_and_halt
"""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of eight images."""
    images = {f"{number}.png": png(number) for number in range(8)}
    return class_folders({"ant": images, "bee": images}, tmp_path / "photographs")


def submit(cluster: Cluster, source: Path, out: Path, **variables: str) -> str:
    return cluster.submit(
        *NODES, "--gpus-per-node=0", "--time=5", f"--output={out}.txt", "--open-mode=append", "launch/prep.sbatch",
        source, out, "--size", "16", "--shards", str(NUM_SHARDS), "--workers", "1", **(mpi_variables() | variables),
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_preparation_goes_on_to_the_same_bytes(cluster: Cluster, photographs: Path, tmp_path: Path):
    whole, out, halt = tmp_path / "whole", tmp_path / "out", tmp_path / "halt"
    assert cluster.wait(submit(cluster, photographs, whole)) == "COMPLETED", Path(f"{whole}.txt").read_text()
    assert Path(f"{whole}.txt").read_text().splitlines()[-1].endswith("whole: sound")

    halt.mkdir()
    (halt / "sitecustomize.py").write_text(HALT)
    job = submit(cluster, photographs, out, PYTHONPATH=str(halt))
    until(lambda: bool(list(out.glob("*.h5"))), 90, lambda: Path(f"{out}.txt").read_text())
    cluster.run("scancel", "--signal=KILL", job)
    assert cluster.wait(job) in ("CANCELLED", "FAILED")
    assert 0 < len(list(out.glob("*.h5"))) < NUM_SHARDS

    assert cluster.wait(submit(cluster, photographs, out)) == "COMPLETED", Path(f"{out}.txt").read_text()
    assert contents(out) == contents(whole)
