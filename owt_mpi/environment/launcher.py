"""What launcher and user have set: named variables alone, as an environment may hold what nobody else should read."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_MOST_CHARACTERS = 300
_SLURM = (
    "CLUSTER_NAME", "JOB_ID", "JOB_PARTITION", "JOB_NUM_NODES", "NNODES", "NODEID", "NTASKS", "NTASKS_PER_NODE",
    "TASKS_PER_NODE", "PROCID", "LOCALID", "STEP_ID", "CPUS_PER_TASK", "CPUS_ON_NODE", "JOB_CPUS_PER_NODE", "CPU_BIND",
    "MEM_BIND", "MEM_PER_NODE", "MEM_PER_CPU", "GPUS", "GPUS_ON_NODE", "GPUS_PER_NODE", "GPUS_PER_TASK", "GPU_BIND",
    "JOB_GPUS", "STEP_GPUS", "TRES_PER_TASK", "MPI_TYPE", "DISTRIBUTION", "RESTART_COUNT", "SRUN_COMM_HOST",
)  # fmt: skip
_NAMES = (
    "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "KMP_AFFINITY",
    "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_TF32_OVERRIDE",
    "CUPY_TF32", "LD_LIBRARY_PATH", "LD_PRELOAD", "HDF5_USE_FILE_LOCKING", "MALLOC_ARENA_MAX", "PYTHONPATH",
)  # fmt: skip
_FAMILIES = (
    "OWT_MPI_", "NCCL_", "UCX_", "FI_", "MPIR_CVAR_", "MPICH_", "OMPI_MCA_", "PRTE_MCA_", "PMIX_MCA_", "I_MPI_",
    "DNNL_", "ONEDNN_",
)  # fmt: skip
_SECRET = ("KEY", "TOKEN", "SECRET", "PASS", "CRED", "AUTH", "COOKIE")


def variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that libraries and this program heed. Names that sound like secrets are left out."""
    named = [name for name in environ if name in _NAMES or name.startswith(_FAMILIES)]
    return {name: _short(environ[name]) for name in sorted(named) if not any(word in name for word in _SECRET)}


def slurm(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what SLURM says of the job, nothing outside of one."""
    names = [f"SLURM_{name}" for name in _SLURM]
    return {name: _short(environ[name]) for name in names if name in environ}


def mpirun() -> dict[str, str]:
    """Return the mpirun that starts ranks, and what it calls itself."""
    own = Path(sys.prefix) / "bin" / "mpirun"
    found = str(own) if own.exists() else shutil.which("mpirun")
    if found is None:
        return {"mpirun": "not found"}
    try:
        done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"mpirun": f"{found}, which cannot say its version: {error}"}
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    version = next((line for line in lines if "Version" in line or "mpirun" in line), lines[0] if lines else "")
    return {"mpirun": f"{found}: {' '.join(version.split())}"}


def _short(value: str) -> str:
    return value if len(value) <= _MOST_CHARACTERS else f"{value[:_MOST_CHARACTERS]}..."
