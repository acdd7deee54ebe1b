"""What a process may take on its node, read from made-up trees of proc and sys."""

from pathlib import Path

import pytest

from owt_mpi.backends.base import Memory
from owt_mpi.backends.half import HalfBackend
from owt_mpi.backends.host_memory import host_memory
from owt_mpi.backends.reference import ReferenceBackend

MEMINFO = "MemTotal:  4000 kB\nMemFree:  12 kB\nMemAvailable:  3000 kB\nHugePages_Total:  0\nSwapFree:  500 kB\n"
NODE = ("the node", 3000 * 1024, 4000 * 1024, 500 * 1024)
V2 = "31 23 0:28 {top} /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)
NO_LIMIT_V1 = 2**63 - 4096


def write(root: Path, files: dict[str, str | int]) -> None:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n" if isinstance(text, int) else text)


def linux(root: Path, cgroup: str, mountinfo: str) -> Path:
    write(root, {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo})
    return root


def v2(root: Path, group: str, limit: str | int, used: int, **others: str | int) -> None:
    folder = f"sys/fs/cgroup{group}"
    write(root, {f"{folder}/memory.max": limit, f"{folder}/memory.current": used})
    write(root, {f"{folder}/memory.{name.replace('_', '.', 1)}": text for name, text in others.items()})


def v1(root: Path, group: str, limit: int, used: int, statistics: str = "") -> None:
    folder = f"sys/fs/cgroup/memory{group}"
    write(root, {f"{folder}/memory.limit_in_bytes": limit, f"{folder}/memory.usage_in_bytes": used})
    write(root, {f"{folder}/memory.stat": statistics})


def seen(root: Path) -> list[tuple[str, int, int, int]]:
    return [(each.name, each.free, each.total, each.swap) for each in host_memory(root)]


def test_without_control_groups_the_node_is_the_limit(tmp_path):
    assert seen(linux(tmp_path, "0::/\n", "")) == [NODE]
    assert host_memory(tmp_path / "absent") == []
    write(tmp_path, {"proc/meminfo": "MemTotal:  4000 kB\n"})
    assert host_memory(tmp_path) == [], "Linux before 3.14 does not say what is available"


def test_a_job_under_slurm_is_under_its_steps_and_its_jobs_limit(tmp_path):
    job = "/system.slice/slurmstepd.scope/job_7"
    root = linux(tmp_path, f"0::{job}/step_0/user/task_1\n", V2.format(top="/"))
    v2(root, f"{job}/step_0/user/task_1", "max\n", 10)
    v2(root, f"{job}/step_0/user", "max\n", 40)
    reclaimable = "inactive_file 50\nactive_file 30\nslab_reclaimable 5\n"
    v2(root, f"{job}/step_0", 900, 400, stat=f"anon 300\nfile 90\n{reclaimable}")
    v2(root, job, 1000, 700, swap_max=0, swap_current=0)
    assert seen(root) == [
        (f"control group {job}/step_0", 900 - 400 + 85, 900, 500 * 1024),
        (f"control group {job}", 300, 1000, 0),
        NODE,
    ]


def test_a_groups_swap_is_what_it_has_left_of_its_own(tmp_path):
    root = linux(tmp_path, "0::/job\n", V2.format(top="/"))
    v2(root, "/job", 1000, 400, swap_max=300, swap_current=100)
    assert seen(root)[0] == ("control group /job", 600, 1000, 200)
    v2(root, "/job", 1000, 1200, swap_max="max\n", swap_current=100)
    assert seen(root)[0] == ("control group /job", 0, 1000, 500 * 1024)


def test_version_1_has_other_names_and_a_number_for_no_limit(tmp_path):
    root = linux(tmp_path, "9:name=systemd:/a\n4:cpu,memory:/slurm/uid_1/job_7/step_0\n0::/\n", V1.format(top="/"))
    v1(root, "/slurm/uid_1/job_7/step_0", NO_LIMIT_V1, 500)
    v1(root, "/slurm/uid_1/job_7", 2000, 500, "cache 3\ntotal_inactive_file 70\ntotal_active_file 7\nactive_file 1\n")
    v1(root, "/", NO_LIMIT_V1, 9000)
    assert seen(root) == [("control group /slurm/uid_1/job_7", 1577, 2000, 500 * 1024), NODE]


def test_both_versions_at_once_are_read_each_in_its_place(tmp_path):
    unified = V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ").format(top="/")
    root = linux(tmp_path, "4:memory:/job\n0::/other\n", V1.format(top="/") + unified)
    v1(root, "/job", 2000, 500)
    write(root, {"sys/fs/cgroup/unified/other/cgroup.procs": "1\n"})
    assert seen(root) == [("control group /job", 1500, 2000, 500 * 1024), NODE]


@pytest.mark.parametrize(
    ("own", "top", "name"),
    [
        ("/docker/1a/work", "/docker/1a", "/work"),  # version 1 in a container: its own group is what is mounted
        ("/docker/1a", "/docker/1a", "/"),
        ("/", "/", "/"),  # a namespace of its own
        ("/../../elsewhere", "/", "/"),  # out of sight
    ],
)
def test_in_a_container_paths_begin_at_the_group_that_is_mounted(tmp_path, own, top, name):
    root = linux(tmp_path, f"0::{own}\n", V2.format(top=top))
    v2(root, name, 1000, 400)
    assert seen(root) == [(f"control group {name}", 600, 1000, 500 * 1024), NODE]


def test_a_group_of_another_container_is_not_taken_for_ones_own(tmp_path):
    root = linux(tmp_path, "0::/docker/1a/work\n", V2.format(top="/docker/2b"))
    v2(root, "/work", 1000, 400)
    assert seen(root) == [NODE]


def test_a_group_has_one_key_wherever_it_is_mounted(tmp_path):
    root = linux(tmp_path, "0::/job/step\n", V2.format(top="/"))
    v2(root, "/job", 1000, 400)
    v2(root, "/job/step", 900, 400)
    inner, outer, node = (each.key for each in host_memory(root))
    assert len({inner, outer, node}) == 3
    inside = linux(tmp_path, "0::/job\n", "31 23 0:28 /job /sys/fs/cgroup/job rw - cgroup2 cgroup2 rw\n")
    assert [each.key for each in host_memory(inside)] == [outer, node]


def test_backends_on_the_host_are_under_the_hosts_limits(monkeypatch):
    limits = [Memory("the node", "node", 3, 4)]
    monkeypatch.setattr("owt_mpi.backends.host.host_memory", lambda: limits)
    assert ReferenceBackend().memory() == HalfBackend(ReferenceBackend()).memory() == limits
