"""The cluster of these tests, and a small training that can be halted in the middle of a step."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from owt_mpi.checkpoint.weights import read_weights
from tests.command import conftest as small_training
from tests.mpi_run import NO_MPIRUN, ONE_THREAD, OPEN_MPI_ENV, ends, find_mpirun, is_open_mpi
from tests.slurm.cluster import Cluster, until
from tests.slurm.install import missing

# A network behind a gate, at which every rank halts in its fourth step until there is a file "open" or the rank is to
# stop.
GATE = """
import os
import time
from pathlib import Path
from owt_mpi.comm.launcher import launcher_rank
from owt_mpi.training.stopping import wish_to_stop
HERE = Path(__file__).parent
class Gate(Module):
    def forward(self, x, ctx):
        if ctx.training and ctx.step == 3 and not (HERE / "open").exists():
            (HERE / f"halted-{launcher_rank()}").write_text(str(os.getpid()))
            while not (HERE / "open").exists() and wish_to_stop() is None:
                time.sleep(0.01)
        return x
def gated(spec):
    model = residual(spec)
    trunk = Sequential({"gate": Gate(), **model.trunk.layers})
    return Model("gated", spec, trunk, model.head, "softmax")
"""
shards, preset = small_training.shards, small_training.preset
NODES = ("--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1", "--mem-per-cpu=10M")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def slurm() -> None:
    """SLURM, or a skipped test."""
    mpirun = find_mpirun()
    if mpirun is None:
        pytest.skip(NO_MPIRUN)
    reason = missing(open_mpi=is_open_mpi(mpirun))
    if reason is not None:
        pytest.skip(reason)
    if not Path(sys.prefix, "bin", "activate").exists():
        pytest.skip("the tests do not run in a virtual environment")


@pytest.fixture(scope="session")
def cluster(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of 4 CPUs and 2 fake GPUs each, which give jobs a minute to write checkpoints after SIGTERM."""
    with Cluster(tmp_path_factory.mktemp("slurm") / "cluster", kill_wait=60) as running:
        yield running


@pytest.fixture(scope="session")
def strict_cluster(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """As `cluster`, but 2 seconds: where ranks are lost, those left wait for them and not for a signal."""
    with Cluster(tmp_path_factory.mktemp("slurm") / "strict", kill_wait=2) as running:
        yield running


def mpi_variables() -> dict[str, str]:
    """Return what the batch scripts are told of the MPI of this environment."""
    mpirun = find_mpirun()
    assert mpirun is not None
    open_mpi = is_open_mpi(mpirun)
    variables = {"OWT_MPI_VENV": sys.prefix, "OWT_MPI_SRUN_MPI": "pmix" if open_mpi else "pmi2"}
    return {**variables, **ONE_THREAD, **(OPEN_MPI_ENV if open_mpi else {})}


@dataclass
class Training:
    """A training job of 2 nodes with 2 ranks each, and its files. `job` is its number once it is submitted."""

    cluster: Cluster
    folder: Path
    arguments: tuple[str, ...]
    job: str = ""

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def output(self) -> str:
        file = self.folder / "job.out"
        return file.read_text() if file.exists() else ""

    def submit(self, *given: str, script: str = "launch/train.sbatch", **variables: str) -> "Training":
        """Submit the job, with `given` as further options of sbatch."""
        self.job = self.cluster.submit(
            *NODES, "--time=5", f"--output={self.folder}/job.out", *given, script, self.run_dir, *self.arguments,
            **(mpi_variables() | variables),
        )  # fmt: skip
        return self

    def open_gate(self) -> None:
        (self.folder / "open").touch()

    def wait_until_halted(self, num_ranks: int = 4) -> list[int]:
        """Return the process ids of the ranks when all halt in step 4, and the checkpoint of step 2 is written."""
        halted = [self.folder / f"halted-{rank}" for rank in range(num_ranks)]
        until(
            lambda: all(file.exists() and file.read_text() for file in halted) and self.steps_kept() == [2],
            90, lambda: f"{self.output}\n{self.cluster.logs()}",
        )  # fmt: skip
        return [int(file.read_text()) for file in halted]

    def wait(self) -> str:
        """Return the state in which the job ends."""
        return self.cluster.wait(self.job)

    def wait_until_gone(self, processes: list[int]) -> None:
        """Return when none of the processes is left."""
        assert all(ends(process, 60) for process in processes)

    def steps_kept(self) -> list[int]:
        """Return the steps of the checkpoints that `latest` may name: those that are whole."""
        return sorted(int(path.name.split("-")[1]) for path in (self.run_dir / "checkpoints").glob("step-*"))

    def weights(self) -> dict[str, np.ndarray]:
        return read_weights(self.run_dir / "weights.h5")


MakeTraining = Callable[[str, Cluster], Training]


@pytest.fixture
def make_training(shards: Path, preset: Path, tmp_path: Path) -> Iterator[MakeTraining]:
    """Make trainings of 12 steps with a checkpoint after every second, not submitted yet; cancelled after the test."""
    made = []

    def make(name: str, cluster: Cluster) -> Training:
        folder = tmp_path / name
        folder.mkdir()
        nets = folder / "gated.py"
        nets.write_text((tmp_path / "my_nets.py").read_text() + GATE)
        arguments = ("--preset", str(preset), "--model", f"{nets}:gated", "--data", str(shards), "--backend",
                     "reference", "--checkpoint-every", "2", "--keep-checkpoints", "9", "--log-every", "1")  # fmt: skip
        made.append(Training(cluster, folder, arguments))
        return made[-1]

    yield make
    for training in made:
        training.open_gate()
        if training.job:
            training.cluster.run("scancel", training.job)
            training.wait()


@pytest.fixture
def training(make_training: MakeTraining, cluster: Cluster) -> Training:
    """A training, not submitted yet."""
    return make_training("disturbed", cluster)


_undisturbed: dict[str, np.ndarray] = {}


@pytest.fixture
def undisturbed(make_training: MakeTraining, cluster: Cluster) -> dict[str, np.ndarray]:
    """The weights of the training that nothing happens to; trained once, every test's data and nets being the same."""
    if not _undisturbed:
        whole = make_training("undisturbed", cluster)
        whole.open_gate()
        assert whole.submit().wait() == "COMPLETED", whole.output
        _undisturbed.update(whole.weights())
    return _undisturbed
