"""The cluster of these tests, and a small training that can be halted in the middle of a step."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.command import conftest as small_training
from tests.gated import GatedTraining
from tests.mpi_run import NO_MPIRUN, ONE_THREAD, OPEN_MPI_ENV, ends, find_mpirun, is_open_mpi
from tests.slurm.cluster import ENDED, Cluster
from tests.slurm.install import missing

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


class Training(GatedTraining):
    """A training job of 2 nodes with 2 ranks each. `job` is its number once it is submitted."""

    def __init__(self, cluster: Cluster, folder: Path, shards: Path, preset: Path) -> None:
        super().__init__(folder, shards, preset)
        self.cluster, self.job = cluster, ""

    def submit(self, *given: str, script: str = "launch/train.sbatch", **variables: str) -> "Training":
        """Submit the job, with `given` as further options of sbatch."""
        self.job = self.cluster.submit(
            *NODES, "--time=5", f"--output={self.folder}/job.out", *given, script, self.run_dir, *self.arguments,
            **(mpi_variables() | variables),
        )  # fmt: skip
        return self

    def preempt(self) -> str:
        """Submit a job that takes the nodes away, and return its number."""
        whole = ("--partition=urgent", "--nodes=2", "--ntasks-per-node=4", "--mem-per-cpu=10M")
        return self.cluster.submit(*whole, f"--output={self.folder}/urgent.out", "--wrap=true")

    def wait(self) -> str:
        """Return the state in which the job ends."""
        return self.cluster.wait(self.job)

    def has_ended(self) -> bool:
        return self.cluster.facts(self.job)["JobState"] in ENDED

    def wait_until_gone(self, processes: list[int]) -> None:
        """Return when none of the processes is left."""
        assert all(ends(process, 60) for process in processes)

    def assert_went_on(self, step: int) -> None:
        super().assert_went_on(step)
        assert self.cluster.facts(self.job)["Restarts"] == "1"


MakeTraining = Callable[[str, Cluster], Training]


@pytest.fixture
def make_training(shards: Path, preset: Path, tmp_path: Path) -> Iterator[MakeTraining]:
    """Make trainings of 12 steps with a checkpoint after every second, not submitted yet; cancelled after the test."""
    made = []

    def make(name: str, cluster: Cluster) -> Training:
        made.append(Training(cluster, tmp_path / name, shards, preset))
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
