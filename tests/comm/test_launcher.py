"""What is read from the launchers' environment variables."""

import pytest

from owt_mpi.comm.launcher import LaunchError, check_not_alone, launcher_rank, started_by_hydra


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({}, None),
        ({"PMI_RANK": "3"}, 3),
        ({"OMPI_COMM_WORLD_RANK": "2", "PMIX_RANK": "2"}, 2),
        ({"PMIX_RANK": "1", "SLURM_PROCID": "1"}, 1),
        ({"SLURM_PROCID": "4"}, 4),
        ({"PMI_RANK": "3", "SLURM_PROCID": "0"}, 3),  # mpirun inside sbatch
        ({"PMI_RANK": ""}, None),
    ],
)
def test_launcher_rank(environ: dict[str, str], rank: int | None) -> None:
    assert launcher_rank(environ) == rank


@pytest.mark.parametrize(
    ("environ", "by_hydra"),
    [
        ({"PMI_RANK": "0", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "2", "HYDI_CONTROL_FD": "7"}, True),
        ({"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "2"}, True),  # on another host than mpirun
        ({"PMI_RANK": "2", "PMI_SIZE": "4", "SLURM_PROCID": "2"}, False),  # srun --mpi=pmi2
        ({"OMPI_COMM_WORLD_RANK": "2"}, False),
        ({}, False),
    ],
)
def test_mpich_is_known_by_what_its_mpirun_tells_ranks_on_every_host(environ: dict[str, str], by_hydra: bool) -> None:
    assert started_by_hydra(environ) == by_hydra


@pytest.mark.parametrize(
    ("environ", "fix"),
    [
        (
            {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2"},
            r"4 tasks.*pmi2 with MPICH, .*pmix with Open",
        ),
        ({"SLURM_NTASKS": "4"}, "SLURM allocated 4 tasks, but this is one process"),  # no srun in a batch script
        ({"PMI_SIZE": "4", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2"}, "srun started 4 tasks"),
        ({"PMI_SIZE": "2"}, r"mpirun started 2 processes.*\(Open MPI v5\); use the mpirun of that library"),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, "mpirun started 3 processes"),
    ],
)
def test_processes_that_are_each_alone_are_told_the_fix(environ: dict[str, str], fix: str) -> None:
    with pytest.raises(LaunchError, match=fix):
        check_not_alone("Open MPI v5", environ)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"PMI_SIZE": "1"},
        {"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"},
        {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_a_process_that_was_started_alone_may_be_alone(environ: dict[str, str]) -> None:
    check_not_alone("Open MPI v5", environ)
