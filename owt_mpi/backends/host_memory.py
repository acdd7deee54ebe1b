"""How much memory this process may still take on its node: what Linux has, and what its control groups allow."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from owt_mpi.backends.base import Memory

_UNLIMITED = 1 << 60  # version 1 says "no limit" by a number close to 2^63


@dataclass(frozen=True)
class _Files:
    """What a version of control groups calls what is read here. Sums over a group and those below it."""

    limit: str
    used: str
    reclaimable: tuple[str, ...]  # in memory.stat: what is dropped before a process is killed
    swap: tuple[str, str] | None  # limit and use


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"), swap=None)
_V2 = _Files(
    "memory.max",
    "memory.current",
    ("active_file", "inactive_file", "slab_reclaimable"),
    ("memory.swap.max", "memory.swap.current"),
)


def host_memory(root: Path = Path("/")) -> list[Memory]:
    """Return every limit that this process is under: the node's, and those of its control groups, inner ones first.

    Batch systems put a job, its steps and sometimes each task into groups of their own. `root` is where proc and sys
    are. What cannot be read is no limit.
    """
    meminfo = _numbers(root / "proc/meminfo", unit=1024)
    swap = meminfo.get("SwapFree:", 0)
    found = [memory for folder, files, name in _groups(root) for memory in _limit(folder, files, name, swap)]
    if {"MemAvailable:", "MemTotal:"} <= meminfo.keys():
        found.append(Memory("the node", "node", meminfo["MemAvailable:"], meminfo["MemTotal:"], swap))
    return found


def _groups(root: Path) -> Iterator[tuple[Path, _Files, str]]:
    """Yield the folders of this process's groups and of those around them, as far as they are to be seen."""
    own: dict[bool, str] = {}  # by whether it is version 1
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            own[number != "0"] = path
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        (top, mounted), (kind, _, options) = before.split()[3:5], after.split()[:3]
        is_v1 = kind == "cgroup" and "memory" in options.split(",")
        if not (is_v1 or kind == "cgroup2") or is_v1 not in own:
            continue
        files, inside = _V1 if is_v1 else _V2, _below(own[is_v1], top)
        for depth in range(len(inside), -1, -1):
            name = "/" + "/".join(inside[:depth])
            yield root / mounted.lstrip("/") / name.lstrip("/"), files, name


def _below(path: str, top: str) -> list[str]:
    """Return the parts of a group's path below `top`, the group that is mounted; none where it is out of sight."""
    parts, above = path.strip("/").split("/"), [part for part in top.split("/") if part]
    inside = parts[len(above) :] if parts[: len(above)] == above else []
    return [] if ".." in inside else [part for part in inside if part]


def _limit(folder: Path, files: _Files, name: str, swap: int) -> Iterator[Memory]:
    """Yield the limit of one group, if it has one. `swap` is what the node has free of it."""
    total, used = _number(folder / files.limit), _number(folder / files.used)
    if total is None or used is None or total >= _UNLIMITED:
        return
    statistics = _numbers(folder / "memory.stat")
    free = total - used + sum(statistics.get(each, 0) for each in files.reclaimable)
    if files.swap is not None:
        most, taken = (_number(folder / each) for each in files.swap)
        swap = swap if most is None else min(swap, max(0, most - (taken or 0)))
    place = os.stat(folder)  # the same wherever it is mounted
    yield Memory(f"control group {name}", f"{place.st_dev}:{place.st_ino}", max(0, min(free, total)), total, swap)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    """Return the number in `file`, None where there is none, as in "max"."""
    text = "".join(_lines(file))
    return int(text) if text.isdigit() else None


def _numbers(file: Path, unit: int = 1) -> dict[str, int]:
    """Return the numbers of lines that each say "NAME NUMBER ..."."""
    words = (line.split() for line in _lines(file))
    return {each[0]: int(each[1]) * unit for each in words if len(each) > 1 and each[1].isdigit()}
