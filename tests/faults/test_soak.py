"""A short soak; `python -m tests.faults.soak` is the long one (docs/reliability.md)."""

from pathlib import Path

import pytest

from tests.faults.soak import FAULTS, soak
from tests.mpi_run import NO_MPIRUN, find_mpirun


@pytest.mark.skipif(find_mpirun() is None, reason=NO_MPIRUN)
def test_a_training_survives_one_fault_of_each_kind_with_its_bits(tmp_path: Path) -> None:
    outcomes = soak(tmp_path / "soak", ranks=2, epochs=12, every=4, faults=len(FAULTS), seed=1, say=print)
    assert len(outcomes) == len(FAULTS)
