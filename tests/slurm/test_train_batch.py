"""launch/train.sbatch on a real SLURM: whatever happens to the job, it ends with the weights of an undisturbed run."""

import os
import signal

import pytest

from tests.gated import Weights
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import MakeTraining, Training

LAUNCHERS = ["srun", "mpirun"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_nodes_train_to_the_end(training: Training, undisturbed: Weights, launcher: str):
    training.open_gate()
    assert training.submit(OWT_MPI_LAUNCHER=launcher).wait() == "COMPLETED", training.output
    assert "ranks: 4 ranks, trunk data parallel, head split over 4 ranks, scheme (c)" in training.output
    training.assert_whole_checkpoints([2, 4, 6, 8, 10, 12])
    facts = training.cluster.facts(training.job)
    assert (facts["NodeList"], facts["ExitCode"], facts["Restarts"]) == ("n[1-2]", "0:0", "0")
    training.assert_weights(undisturbed)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_signal_to_the_script_lets_the_job_go_on_later(training: Training, undisturbed: Weights, launcher: str):
    """As the one that --signal sends, but now."""
    training.submit(OWT_MPI_LAUNCHER=launcher)
    training.wait_until_halted()
    training.cluster.run("scancel", "--signal=USR1", "--batch", training.job)
    assert training.wait() == "COMPLETED", training.output
    assert "stopped after step 5 by SIGUSR1" in training.output
    assert f"job {training.job} is submitted again" in training.output
    training.assert_went_on(5)
    training.assert_weights(undisturbed)


def test_the_end_of_the_time_is_announced_early_enough(training: Training, undisturbed: Weights):
    """The time is cut to two minutes from now when all ranks are halted; SLURM looks at limits every half minute."""
    training.submit("--time=60", "--signal=B:USR1@90")
    training.wait_until_halted()
    hours, minutes, _ = map(int, training.cluster.facts(training.job)["RunTime"].split(":"))
    training.cluster.run("scontrol", "update", f"JobId={training.job}", f"TimeLimit={hours * 60 + minutes + 2}")
    assert training.wait() == "COMPLETED", training.output
    assert "stopped after step 5 by SIGUSR1" in training.output
    training.assert_went_on(5)
    training.assert_weights(undisturbed)


# Read by every Python that starts with it on its path: in the job's first life a rank is the last to leave.
LINGER = """
import atexit, os, time
if os.environ.get("SLURM_PROCID") == "3" and "SLURM_RESTART_COUNT" not in os.environ:
    atexit.register(time.sleep, 30)
"""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_job_of_higher_priority_has_the_nodes_first(training: Training, undisturbed: Weights, launcher: str):
    """The ranks alone get SIGTERM, and srun ends the one that has not left when the others have, by another code."""
    (training.folder / "sitecustomize.py").write_text(LINGER)
    training.submit(OWT_MPI_LAUNCHER=launcher, PYTHONPATH=str(training.folder))
    training.wait_until_halted()
    urgent = training.preempt()
    assert training.wait() == "COMPLETED", training.output
    assert training.cluster.wait(urgent) == "COMPLETED"
    assert "stopped after step 5 by SIGTERM" in training.output
    assert f"job {training.job} is submitted again" in training.output, "within the time that SLURM grants"
    training.assert_went_on(5)
    training.assert_weights(undisturbed)


def test_a_job_that_is_requeued_goes_on_later(training: Training, undisturbed: Weights):
    training.submit()
    training.wait_until_halted()
    training.cluster.run("scontrol", "requeue", training.job)
    assert training.wait() == "COMPLETED", training.output
    assert "stopped after step 5 by SIGTERM" in training.output
    training.assert_went_on(5)
    training.assert_weights(undisturbed)


def test_a_cancelled_job_leaves_no_rank_and_whole_checkpoints(training: Training, undisturbed: Weights):
    training.submit()
    ranks = training.wait_until_halted()
    training.cluster.run("scancel", training.job)
    assert training.wait() == "CANCELLED", training.output
    training.wait_until_gone(ranks)
    training.assert_whole_checkpoints([2, 4, 5])
    assert training.submit().wait() == "COMPLETED", training.output
    assert f"going on from {training.run_dir}/checkpoints/step-000000005" in training.output
    training.assert_weights(undisturbed)


def test_a_killed_rank_ends_the_job_and_it_goes_on_when_submitted_again(
    make_training: MakeTraining, strict_cluster: Cluster, undisturbed: Weights
):
    training = make_training("disturbed", strict_cluster).submit()
    ranks = training.wait_until_halted()
    os.kill(ranks[3], signal.SIGKILL)
    assert training.wait() == "FAILED", training.output
    training.wait_until_gone(ranks)
    assert training.cluster.facts(training.job)["Restarts"] == "0", "it would fail again"
    training.assert_whole_checkpoints([2])
    training.open_gate()
    assert training.submit().wait() == "COMPLETED", training.output
    assert f"going on from {training.run_dir}/checkpoints/step-000000002" in training.output
    training.assert_weights(undisturbed)


def test_a_job_goes_on_on_the_node_that_is_left(
    make_training: MakeTraining, strict_cluster: Cluster, undisturbed: Weights
):
    cluster = strict_cluster
    training = make_training("disturbed", cluster).submit()
    ranks = training.wait_until_halted()
    with cluster.without_node("n2"):
        training.wait_until_gone(ranks)
        cluster.wait_for_state(training.job, "PENDING")  # until there are two nodes again
        assert cluster.facts(training.job)["Restarts"] == "1"
        cluster.run("scancel", training.job)
        training.open_gate()
        training.submit("--nodes=1", "--ntasks-per-node=4", "--gpus-per-node=0")
        assert training.wait() == "COMPLETED", training.output
    assert cluster.facts(training.job)["NodeList"] == "n1"
    assert f"going on from {training.run_dir}/checkpoints/step-000000002" in training.output
    training.assert_weights(undisturbed, tolerance=1e-5)


def test_a_wrong_way_for_ranks_to_meet_is_refused_with_the_right_ones(training: Training):
    training.submit(OWT_MPI_SRUN_MPI="none")
    assert training.wait() == "FAILED"
    assert "srun started 4 tasks, but each is alone in its MPI world" in training.output
    assert "use srun --mpi=pmi2 with MPICH, srun --mpi=pmix with Open MPI, or mpirun inside sbatch" in training.output
    assert not training.run_dir.exists()
