"""Thread counts take effect in the runtimes, and the default divides what this process may use."""

import os
import threading

import numpy as np  # noqa: F401  (loads the BLAS whose threads are counted)
import pytest
from threadpoolctl import threadpool_info

from owt_mpi.backends import threads
from owt_mpi.backends.threads import cgroup_cpu_quota, default_num_threads, set_num_threads

pytestmark = pytest.mark.usefixtures("restored_num_threads")


@pytest.mark.parametrize("num_threads", [1, 2])
def test_set_num_threads_reaches_the_blas(num_threads):
    set_num_threads(num_threads)
    counts = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    assert counts
    assert set(counts) == {num_threads}


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_set_num_threads_reaches_openmp_in_the_calling_thread(onednn, num_threads):
    onednn.set_num_threads(num_threads)
    assert onednn.library.max_threads() == num_threads
    counts = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "openmp"]
    assert set(counts) == {num_threads}


def test_openmp_threads_are_set_for_one_thread_alone(onednn):
    onednn.set_num_threads(3)
    seen = []

    def other_thread():
        onednn.set_num_threads(2)
        seen.append(onednn.library.max_threads())

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    assert (seen, onednn.library.max_threads()) == ([2], 3)


def test_set_num_threads_refuses_none():
    with pytest.raises(ValueError, match="num_threads is 0; it must be at least 1"):
        set_num_threads(0)


def test_default_divides_the_cores_among_the_ranks(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    monkeypatch.setattr(threads, "cgroup_cpu_quota", lambda: None)
    assert [default_num_threads(ranks) for ranks in (1, 5, 12, 13)] == [12, 2, 1, 1]
    monkeypatch.setattr(threads, "cgroup_cpu_quota", lambda: 6.5)
    assert default_num_threads(2) == 3
    monkeypatch.setattr(threads, "cgroup_cpu_quota", lambda: 0.5)
    assert default_num_threads(1) == 1


def test_default_is_what_the_user_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert default_num_threads(64) == 7
    monkeypatch.setenv("OMP_NUM_THREADS", " 3,2 ")
    assert default_num_threads(64) == 3


@pytest.mark.parametrize("value", ["many", "0", "-2", "1.5"])
def test_default_refuses_a_bad_setting(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(ValueError, match=r"OMP_NUM_THREADS is .*positive whole number"):
        default_num_threads(1)


def test_quota_of_version_2_is_the_smallest_above(tmp_path):
    membership = tmp_path / "cgroup"
    membership.write_text("0::/job/step\n")
    (tmp_path / "fs/job/step").mkdir(parents=True)
    assert cgroup_cpu_quota(membership, tmp_path / "fs") is None
    (tmp_path / "fs/job/step/cpu.max").write_text("max 100000\n")
    assert cgroup_cpu_quota(membership, tmp_path / "fs") is None
    (tmp_path / "fs/job/cpu.max").write_text("250000 100000\n")
    assert cgroup_cpu_quota(membership, tmp_path / "fs") == 2.5
    (tmp_path / "fs/job/step/cpu.max").write_text("400000 100000\n")
    assert cgroup_cpu_quota(membership, tmp_path / "fs") == 2.5


def test_quota_of_version_1_lies_under_its_controller(tmp_path):
    membership = tmp_path / "cgroup"
    membership.write_text("3:memory:/other\n2:cpu,cpuacct:/job\n")
    (tmp_path / "fs/cpu/job").mkdir(parents=True)
    quota, period = tmp_path / "fs/cpu/job/cpu.cfs_quota_us", tmp_path / "fs/cpu/job/cpu.cfs_period_us"
    period.write_text("50000\n")
    quota.write_text("-1\n")
    assert cgroup_cpu_quota(membership, tmp_path / "fs") is None
    quota.write_text("150000\n")
    assert cgroup_cpu_quota(membership, tmp_path / "fs") == 3.0


def test_no_cgroups_mean_no_quota(tmp_path):
    assert cgroup_cpu_quota(tmp_path / "absent", tmp_path) is None
