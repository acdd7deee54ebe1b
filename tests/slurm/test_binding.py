"""What cores srun gives the ranks of launch/train.sbatch, on nodes that have this machine's cores."""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, this_machine
from tests.slurm.conftest import MakeTraining

NUM_CORES = 2  # of a node that are asked for


@pytest.fixture(scope="module")
def bound_cluster(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes, each with all cores of this machine, to which SLURM binds ranks."""
    cpus = this_machine()
    if cpus["ThreadsPerCore"] > 1 or len(os.sched_getaffinity(0)) < max(NUM_CORES, cpus["CPUs"]):
        pytest.skip(f"needs {NUM_CORES} cores of one thread, all of them for the tests: {cpus}")
    with Cluster(tmp_path_factory.mktemp("slurm") / "bound", cpus=cpus) as running:
        yield running


@pytest.mark.parametrize("ranks", [1, NUM_CORES])
def test_a_rank_has_the_cores_that_it_asked_for_and_shares_none(
    make_training: MakeTraining, bound_cluster: Cluster, ranks: int
):
    cores = NUM_CORES // ranks
    training = make_training("bound", bound_cluster).submit(f"--ntasks-per-node={ranks}", f"--cpus-per-task={cores}")
    bound = [os.sched_getaffinity(pid) for pid in training.wait_until_halted(2 * ranks)]
    for node in (bound[:ranks], bound[ranks:]):
        assert [len(each) for each in node] == [cores] * ranks
        assert len(set.union(*node)) == NUM_CORES
        assert node == sorted(node, key=min), "in the order of the ranks"
