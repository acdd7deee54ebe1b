"""SLURM that cannot be installed is a reason to leave tests out, not a failure of theirs."""

from pathlib import Path

import pytest

from tests.slurm import install


@pytest.fixture
def without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An apt-get to be written, where SLURM is not, nor anything that a machine may lack."""
    monkeypatch.setattr(install, "PROGRAMS", ("slurmctld-of-nobody",))
    monkeypatch.setattr(install, "no_hosts", lambda: None)
    monkeypatch.setattr(install, "APT", (str(tmp_path / "apt-get"),))
    monkeypatch.setattr(install.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    return tmp_path / "apt-get"


def test_a_network_that_is_not_there_is_the_reason(without_slurm: Path, monkeypatch: pytest.MonkeyPatch):
    without_slurm.write_text("#!/bin/sh\necho 'E: Could not resolve deb.debian.org' >&2\nexit 100\n")
    without_slurm.chmod(0o755)
    monkeypatch.setenv("OWT_MPI_INSTALL_SLURM", "1")
    reason = "slurmctld-of-nobody not found: apt-get update: E: Could not resolve deb.debian.org"
    assert install.missing(open_mpi=False) == reason


def test_nothing_is_installed_unasked(without_slurm: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OWT_MPI_INSTALL_SLURM", raising=False)
    reason = install.missing(open_mpi=False)  # without calling apt-get, which is not there
    assert reason is not None
    assert "apt-get install -y --no-install-recommends slurm-wlm libpmix2, or set OWT_MPI_INSTALL_SLURM=1" in reason
