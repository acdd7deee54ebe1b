"""How many CPU threads the maths uses: NumPy's BLAS and the OpenMP runtime under oneDNN, set together."""

import os
from pathlib import Path

from threadpoolctl import ThreadpoolController


def set_num_threads(num_threads: int) -> None:
    """Use `num_threads` threads in every BLAS and OpenMP runtime that is loaded by now.

    OpenBLAS takes the number for the whole process; OpenMP takes it for the calling thread alone, so each thread that
    computes calls this. Libraries loaded later are not reached: create the backend first.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads is {num_threads}; it must be at least 1")
    ThreadpoolController().limit(limits=num_threads)


def default_num_threads(ranks_sharing_cores: int) -> int:
    """Return how many threads each of the ranks that may run on the same cores should use.

    OMP_NUM_THREADS decides where the user has set it. Otherwise it is the cores that this process may use (affinity
    and cgroup quota) divided by the ranks, at least 1.
    """
    if ranks_sharing_cores < 1:
        raise ValueError(f"ranks_sharing_cores is {ranks_sharing_cores}; it must be at least 1")
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted:
        first = wanted.split(",")[0].strip()  # OpenMP allows a list, one number a nesting level
        if not first.isdigit() or int(first) < 1:
            raise ValueError(f"OMP_NUM_THREADS is {wanted!r}; set it to a positive whole number, or unset it")
        return int(first)
    return max(1, usable_cores() // ranks_sharing_cores)


def usable_cores() -> int:
    """Return on how many cores this process may run at once: its affinity, cut by a cgroup's CPU quota."""
    cores = len(os.sched_getaffinity(0))
    quota = cgroup_cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def cgroup_cpu_quota(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the smallest CPU quota, in cores, of this process's cgroup and those above it, or None without one.

    `membership` has lines "id:controllers:path". Version 2 keeps "quota period" in cpu.max, version 1 two files under
    the cpu controller. In a container the path may be the host's: what is not there under `root` sets no quota.
    """
    if not membership.exists():
        return None
    quotas = []
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            quotas += [_quota_v2(group) for group in _group_and_above(root, path)]
        elif "cpu" in controllers.split(","):
            quotas += [_quota_v1(group) for group in _group_and_above(root / "cpu", path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _group_and_above(mount: Path, path: str) -> list[Path]:
    group = mount / path.lstrip("/")
    return [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]


def _quota_v2(group: Path) -> float | None:
    file = group / "cpu.max"
    if not file.exists():
        return None
    quota, period = file.read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(group: Path) -> float | None:
    file = group / "cpu.cfs_quota_us"
    if not file.exists():
        return None
    quota = int(file.read_text())
    return None if quota < 0 else quota / int((group / "cpu.cfs_period_us").read_text())
