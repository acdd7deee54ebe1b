"""The machine: processor, cores, memory and its limits, and what is left in shared memory."""

import os
import platform
import time
from pathlib import Path

from owt_mpi.backends.host_memory import host_memory
from owt_mpi.backends.processor import processor_name
from owt_mpi.backends.threads import cgroup_cpu_quota, usable_cores

_SHARED_MEMORY = Path("/dev/shm")
_MOST_LEFTOVERS = 10
# what convolutions and products are made faster by, on x86 and on ARM
_FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "sve", "sve2", "bf16", "i8mm",
)  # fmt: skip


def system(root: Path = Path("/")) -> dict[str, str]:
    """Return the operating system. `root` is where etc is."""
    release = {}
    for line in _lines(root / "etc/os-release"):
        name, _, value = line.partition("=")
        release[name] = value.strip('"')
    libc = " ".join(platform.libc_ver())
    return {"distribution": release.get("PRETTY_NAME", "not known"), "C library": libc or "not known"}


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return name and features of the processor, and how many of its cores this process may use."""
    told = [line.partition(":") for line in _lines(cpuinfo)]
    flags = next((words.split() for name, _, words in told if name.strip().lower() in ("flags", "features")), [])
    quota, affinity = cgroup_cpu_quota(), _ranges(os.sched_getaffinity(0))
    return {
        "processor": processor_name(cpuinfo),
        "features": " ".join(each for each in _FEATURES if each in flags) or "not known",
        "cores": f"{usable_cores()} to be used, {os.cpu_count()} online, {affinity} in the affinity",
        "control group": "no limit of cores" if quota is None else f"{quota:g} cores",
    }


def memory() -> dict[str, str]:
    """Return every limit of memory that this process is under, and what is free of it."""
    return {
        limit.name: f"{limit.free / 1e6:,.0f} of {limit.total / 1e6:,.0f} MB free"
        + (f", {limit.swap / 1e6:,.0f} MB of swap" if limit.swap else "")
        for limit in host_memory()
    }


def shared_memory(folder: Path = _SHARED_MEMORY, now: float | None = None) -> dict[str, str]:
    """Return how much shared memory is free, and this user's files in it: ranks that were killed leave some behind."""
    try:
        space = os.statvfs(folder)
        found = [(path, path.lstat()) for path in sorted(folder.iterdir())]
    except OSError as error:
        return {str(folder): f"cannot be looked at: {error.strerror}"}
    own = [(path, state) for path, state in found if state.st_uid == os.getuid()]
    facts = {"free": f"{space.f_bavail * space.f_frsize / 1e6:,.0f} of {space.f_blocks * space.f_frsize / 1e6:,.0f} MB"}
    total = sum(state.st_blocks for _, state in own) * 512
    facts["files of this user"] = f"{len(own)}, {total / 1e6:,.1f} MB"
    stamp = time.time() if now is None else now
    for path, state in sorted(own, key=lambda each: -each[1].st_blocks)[:_MOST_LEFTOVERS]:
        hours = (stamp - state.st_mtime) / 3600
        facts[path.name] = f"{state.st_blocks * 512 / 1e6:,.1f} MB, written {hours:,.1f} hours ago"
    return facts


def _ranges(cores: set[int]) -> str:
    """Return numbers of cores as 0-3,8."""
    parts: list[list[int]] = []
    for core in sorted(cores):
        if parts and core == parts[-1][-1] + 1:
            parts[-1][1:] = [core]
        else:
            parts.append([core])
    return ",".join("-".join(map(str, part)) for part in parts)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
