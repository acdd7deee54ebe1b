"""What the launcher's environment variables say about this process, before and after MPI is initialised."""

import os
from collections.abc import Mapping


class LaunchError(ValueError):
    """The processes were started in a way in which they cannot find each other; every one of them finds that out."""


def launcher_rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return this process's rank as mpirun or srun tells it, or None outside of them. Needs no MPI."""
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"):
        if environ.get(name, "").isdigit():
            return int(environ[name])
    return None


def started_by_hydra(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether MPICH's mpirun, or one derived from it, started this process, on whichever host."""
    return "PMI_RANK" in environ and "MPI_LOCALNRANKS" in environ


def check_not_alone(mpi_library: str, environ: Mapping[str, str] = os.environ) -> None:
    """Raise LaunchError if several processes were asked for, given that this one's world has one rank.

    Plain `srun`, and the mpirun of another MPI, start N processes that are each alone, silently; a command in a batch
    script without either runs once where N tasks were allocated.
    """
    launcher_sizes = [int(environ[name]) for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE") if name in environ]
    if 1 in launcher_sizes:
        return
    num_tasks = int(environ.get("SLURM_NTASKS", "1"))
    if num_tasks > 1 and "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ:
        raise LaunchError(
            f"srun started {num_tasks} tasks, but each is alone in its MPI world (the MPI library is {mpi_library}); "
            "use srun --mpi=pmi2 with MPICH, srun --mpi=pmix with Open MPI, or mpirun inside sbatch"
        )
    if num_tasks > 1 and not launcher_sizes:
        raise LaunchError(
            f"SLURM allocated {num_tasks} tasks, but this is one process alone; start it by srun --mpi=pmi2 (MPICH), "
            "srun --mpi=pmix (Open MPI) or mpirun, or by mpirun -n 1 if one is meant"
        )
    if launcher_sizes:
        raise LaunchError(
            f"mpirun started {launcher_sizes[0]} processes, but each is alone in its MPI world: this mpirun does not "
            f"belong to the MPI library that mpi4py loads ({mpi_library}); use the mpirun of that library"
        )
