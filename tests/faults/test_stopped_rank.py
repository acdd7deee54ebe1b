"""A rank that stops is missed wherever it does: the job ends by itself, and says which rank it was."""

from pathlib import Path

import pytest

from tests.command.conftest import write_preset, write_shards
from tests.faults.stopping_rank import PLACES
from tests.mpi_run import NO_MPIRUN, find_mpirun, mpi_run


@pytest.mark.skipif(find_mpirun() is None, reason=NO_MPIRUN)
@pytest.mark.parametrize("place", PLACES)
def test_a_job_does_not_wait_for_a_rank_that_stops(place: str, tmp_path: Path) -> None:
    options = {
        "preset": write_preset(tmp_path), "data": write_shards(tmp_path / "shards"), "epochs": 1,
        "backend": "reference", "run-dir": tmp_path / "run", "stall-seconds": 1, "stall-abort-seconds": 4,
    }  # fmt: skip
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    result = mpi_run(2, ["tests/faults/stopping_rank.py", place, *given], timeout_s=40)
    assert result.returncode == 1, result.stderr
    assert "not started yet by rank 1 (" in result.stderr
    assert "--stall-abort-seconds have passed" in result.stderr
