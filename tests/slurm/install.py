"""Whether SLURM is here, and how it gets here."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.virtual_hosts import no_hosts

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
APT = ("apt-get", "-o", "DPkg::Lock::Timeout=60")
LIMITS = {"update": 60, "install": 180}  # seconds; together less than a test may take


def missing(open_mpi: bool) -> str | None:
    """Return why there can be no cluster here for Open MPI or MPICH, None if there can.

    Installs what lacks where OWT_MPI_INSTALL_SLURM is 1 and apt-get is there.
    """
    if (reason := no_hosts()) is not None:
        return reason
    if not _absent(open_mpi):
        return None
    packages = ("slurm-wlm", "libpmix-dev" if open_mpi else "libpmix2")
    failure = ""
    if os.environ.get("OWT_MPI_INSTALL_SLURM") == "1" and shutil.which("apt-get"):
        failure = _install(packages)
    absent = ", ".join(_absent(open_mpi))
    by_hand = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    way_out = failure or f"{by_hand}, or set OWT_MPI_INSTALL_SLURM=1 to let the tests do it"
    return f"{absent} not found: {way_out}" if absent else None


def _absent(open_mpi: bool) -> list[str]:
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    # SLURM loads PMIx by a name that Debian has in the package for developers alone
    pmix = list(Path("/usr/lib").glob("*/pmix2/lib/libpmix.so.2"))
    if open_mpi and pmix and not pmix[0].with_suffix("").exists():
        absent.append(str(pmix[0].with_suffix("")))
    return absent


def _install(packages: tuple[str, ...]) -> str:
    """Install packages; return what went wrong, nothing if it went well."""
    for action, *given in (("update",), ("install", "-y", "--no-install-recommends", *packages)):
        command = [*APT, action, *given]
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=LIMITS[action],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"apt-get {action} took more than {LIMITS[action]} s"
        except subprocess.CalledProcessError as error:
            return f"apt-get {action}: {(error.stderr.strip() or error.stdout.strip()).splitlines()[-1]}"
    return ""
