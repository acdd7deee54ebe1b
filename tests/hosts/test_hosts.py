"""launch/hosts.sh between two hosts: what it trains, and what it does when one of them is lost."""

import shutil
import signal

import numpy as np
import pytest

from tests.gated import Weights
from tests.hosts.conftest import HostsTraining, MakeTraining

_undisturbed: dict[str, np.ndarray] = {}


@pytest.fixture
def undisturbed(make_training: MakeTraining) -> Weights:
    """The weights of the training on two hosts that nothing happens to; trained once."""
    if not _undisturbed:
        whole = make_training("undisturbed")
        whole.open_gate()
        assert whole.start().wait() == 0, whole.output
        assert "ranks: 4 ranks, trunk data parallel, head split over 4 ranks, scheme (c)" in whole.output
        assert whole.steps_kept() == [2, 4, 6, 8, 10, 12]
        _undisturbed.update(whole.weights())
    return _undisturbed


@pytest.fixture
def training(make_training: MakeTraining) -> HostsTraining:
    return make_training("disturbed")


def test_a_signal_stops_the_ranks_of_both_hosts_and_the_same_command_goes_on(
    training: HostsTraining, undisturbed: Weights
):
    ranks = training.start().wait_until_halted()
    training.send(signal.SIGTERM)
    assert training.wait() == 85, training.output
    training.wait_until_gone(ranks)
    assert "stopped after step 5 by SIGUSR1" in training.output
    assert "stopped; the same command goes on from the newest checkpoint" in training.output
    assert training.start().wait() == 0, training.output
    training.assert_went_on(5)
    training.assert_weights(undisturbed)


def test_a_host_that_is_cut_off_ends_the_job_everywhere_and_it_goes_on_without(
    training: HostsTraining, undisturbed: Weights
):
    stalls = ("--stall-seconds", "2", "--stall-abort-seconds", "15")  # after which ranks that nobody can reach end
    training.start(*stalls, OWT_MPI_HOST_SECONDS="3", OWT_MPI_RESTARTS="1")
    ranks = training.wait_until_halted()
    training.hosts.cut_off_west()
    training.open_gate()
    training.wait_until_gone(ranks)
    assert training.wait() == 0, training.output
    assert "west has not answered for 3 seconds: the job ends" in training.output
    assert "ranks: 2 ranks, trunk data parallel, head split over 2 ranks, scheme (c)" in training.output
    training.assert_went_on(2)
    training.assert_weights(undisturbed, tolerance=1e-5)


def test_a_host_whose_processes_are_killed_ends_the_job(training: HostsTraining):
    ranks = training.start().wait_until_halted()
    training.hosts.west.kill_processes()
    training.open_gate()
    assert training.wait() not in (0, 2, 3, 85), training.output
    training.wait_until_gone(ranks)
    assert "the same command goes on from the newest checkpoint" in training.output
    training.assert_whole_checkpoints([2])


@pytest.mark.skipif(shutil.which("sshd") is None, reason="there is no sshd: apt-get install openssh-server")
def test_hosts_are_reached_by_ssh(training: HostsTraining, undisturbed: Weights):
    training.open_gate()
    agent = training.hosts.start_sshd(training.folder / "ssh")
    assert training.start(OWT_MPI_AGENT=agent).wait() == 0, training.output
    training.assert_weights(undisturbed)
