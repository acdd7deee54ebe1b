"""What libraries say of themselves, each asked in a process of its own: one that hangs or crashes harms nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_SECONDS = 60.0
_MARK = "owt_mpi says: "
# what tells an MPI library that it was started by a launcher, where it would wait for the other ranks
_LAUNCHERS = ("PMI_", "PMIX_", "PMI2_", "OMPI_COMM_", "OMPI_UNIVERSE", "HYD", "MPI_LOCAL", "SLURM_", "MPICH_INTERFACE")


def onednn() -> dict[str, str]:
    """Return the oneDNN library of the CPU backend."""
    from owt_mpi.backends.onednn_api import Library, find_library

    library = Library(find_library())
    return {"oneDNN": f"{library.version} from {library.path}, {library.isa}, {library.max_threads()} threads"}


def blas() -> dict[str, str]:
    """Return the BLAS and OpenMP libraries that NumPy brings."""
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    return {
        f"{each['internal_api']} {number}": f"{each.get('version') or 'of no version'} from {each['filepath']}, "
        f"{each['num_threads']} threads"
        for number, each in enumerate(threadpool_info())
    }


def hdf5() -> dict[str, str]:
    """Return the HDF5 library that writes shards and checkpoints."""
    from owt_mpi.checkpoint.weights import hdf5_version

    return {"HDF5": hdf5_version()}


def mpi() -> dict[str, str]:
    """Return the MPI library, started for one rank, and whether it takes arrays of a GPU."""
    from owt_mpi.comm import mpi as library
    from owt_mpi.comm.gpu_aware import ask_library, claimed, mpi_libraries

    world = library.initialise().world
    support = claimed("auto", os.environ) or world.submit(ask_library).wait()
    facts = {
        "MPI": library.library(),
        "library": ", ".join(mpi_libraries()) or "not seen in the process",
        "arrays of a GPU": f"{'yes' if support.is_there else 'no'}: {support.reason}",
    }
    library.finalise()
    return facts


def gpu() -> dict[str, str]:
    """Return what CuPy, cuDNN and NCCL see."""
    from owt_mpi.backends.at_hand import gpus
    from owt_mpi.comm.nccl import load_nccl

    return {**gpus(), "NCCL": load_nccl()[1]}


def driver() -> dict[str, str]:
    """Return what NVIDIA's driver says, which needs no CuPy."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,mig.mode.current", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS / 2)
    except FileNotFoundError:
        return {"nvidia-smi": "not found"}
    if done.returncode:
        return {"nvidia-smi": f"fails: {' '.join((done.stdout + done.stderr).split())[:200]}"}
    return {f"GPU {number}": line.strip() for number, line in enumerate(done.stdout.splitlines())}


PROBES = {each.__name__: each for each in (mpi, onednn, blas, hdf5, gpu, driver)}


def ask(name: str, command: Sequence[str] = (), seconds: float = _SECONDS) -> dict[str, str]:
    """Return what the probe `name` says, run by `command` (this module), or how it failed. Nothing is raised."""
    run = [*command] or [sys.executable, "-m", "owt_mpi.environment.probes", name]
    try:
        done = subprocess.run(
            run, env=_alone(os.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            check=False, timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {name: f"gave no answer within {seconds:g} seconds"}
    except OSError as error:
        return {name: f"cannot be asked: {error}"}
    said = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    try:
        return {str(key): str(value) for key, value in json.loads(said[-1]).items()}
    except (IndexError, ValueError, AttributeError):
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        how = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"ended with code {done.returncode}"
        return {name: lines[-1][:300] if lines else how}


def _alone(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that no launcher knows of, and that finds this package."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_LAUNCHERS)}
    folder = str(Path(__file__).resolve().parents[2])
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [folder, environ.get("PYTHONPATH")]))}


if __name__ == "__main__":
    print(_MARK + json.dumps(PROBES[sys.argv[1]]()), flush=True)
