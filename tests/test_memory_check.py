"""A run that does not fit is refused by all ranks, before it starts, with the parts and the ways out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from owt_mpi.backends import host
from owt_mpi.backends.base import Memory
from owt_mpi.backends.memory import host_memory
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.backends.wrapper import BackendWrapper
from owt_mpi.comm.guard import USAGE_ERROR, CollectiveExit
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import BatchOptions, Config, DataOptions, ModelOptions, ParallelOptions, RunOptions
from owt_mpi.memory_check import check_memory, describe_memory, peak_resident_bytes
from owt_mpi.memory_forecast import MemoryForecast
from owt_mpi.training_run import run_training

FORECAST = MemoryForecast(
    {"weights": 2_000_000}, {"head": {"exchange": 1_000_000, "update": 0}}, lost_share=0.0, least_bytes=0
)


def config(run_dir: Path) -> Config:
    return Config(
        model=ModelOptions("small", crop=16),
        data=DataOptions("synthetic", synthetic_images=16, synthetic_classes=4),
        batch=BatchOptions(images_per_rank=4, epochs=1, max_steps=1),
        parallel=ParallelOptions(virtual_ranks=2, backend="reference"),
        run=RunOptions(run_dir=str(run_dir), progress="lines"),
    )


def run(config: Config) -> list[str]:
    """Return what each of two ranks ended with, "" where it trained."""

    def fn(comm):
        try:
            run_training(config, comm, ranks_sharing_cores=2)
        except CollectiveExit as end:
            return f"{end.code}: {end.message}"
        return ""

    return run_ranks(2, fn)


def test_what_fits_passes_to_the_byte_and_what_does_not_is_explained():
    check_memory(FORECAST, Memory(6_000_000, 8_000_000), num_sharing=2, recomputes=False)
    check_memory(FORECAST, None, num_sharing=2, recomputes=False)
    with pytest.raises(ValueError, match=r"a rank is forecast to need 3\.0 MB at the peak of a step") as refused:
        check_memory(FORECAST, Memory(5_999_999, 8_000_000), num_sharing=2, recomputes=False)
    message = str(refused.value)
    assert "(head), and 6.0 MB are free for 2 ranks: weights 2.0 MB, exchange 1.0 MB; " in message
    for way in ("--images-per-rank", "--recompute trunk", "--head-group-size", "--ignore-memory"):
        assert way in message
    with pytest.raises(ValueError, match="for 1 rank:") as refused:
        check_memory(FORECAST, Memory(1, 8_000_000), num_sharing=1, recomputes=True)
    assert "--recompute" not in str(refused.value), "it is given already"


def test_the_line_for_people_says_what_is_free():
    line = describe_memory(FORECAST, Memory(9_000_000, 9_000_000), 3)
    assert line == "3.0 MB a rank forecast for the peak (head); 9.0 MB free for 3 ranks"
    assert describe_memory(FORECAST, None, 1) == "3.0 MB a rank forecast for the peak (head)"


def test_all_ranks_refuse_a_run_that_does_not_fit(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "host_memory", lambda: Memory(100_000, 1_000_000))
    messages = run(config(tmp_path / "run"))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{USAGE_ERROR}: error: a rank is forecast to need ")
    assert "0.1 MB are free for 2 ranks: weights " in messages[0]
    assert not (tmp_path / "run").exists()


def test_ranks_that_share_a_node_share_what_is_free(monkeypatch, tmp_path):
    wanted = config(tmp_path / "first")
    monkeypatch.setattr(host, "host_memory", lambda: Memory(1, 1))
    message = run(wanted)[0]
    needed = float(message.split("forecast to need ")[1].split(" MB")[0].replace(",", "")) * 1e6
    monkeypatch.setattr(host, "host_memory", lambda: Memory(int(1.5 * needed), 1))
    assert "are free for 2 ranks" in run(wanted)[0]
    monkeypatch.setattr(host, "host_memory", lambda: Memory(int(2.1 * needed), 1))
    assert run(wanted) == ["", ""]


def test_the_user_may_start_all_the_same(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(host, "host_memory", lambda: Memory(100_000, 1_000_000))
    wanted = config(tmp_path / "run")
    assert run(replace(wanted, run=replace(wanted.run, ignore_memory=True))) == ["", ""]
    said = capsys.readouterr().out
    assert "0.1 MB free for 2 ranks" in said
    assert "MB of the host resident at the peak on rank 0" in said
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert "a rank forecast for the peak" in facts["memory"]


def test_linux_tells_what_is_free(tmp_path):
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:       24682496 kB\nMemFree:  12 kB\nMemAvailable:   15699612 kB\nHugePages_Total:  0\n")
    assert host_memory(file) == Memory(15699612 * 1024, 24682496 * 1024)
    file.write_text("MemTotal:       24682496 kB\n")
    assert host_memory(file) is None
    assert host_memory(tmp_path / "absent") is None


def test_a_backend_around_another_has_its_memory(monkeypatch):
    monkeypatch.setattr(host, "host_memory", lambda: Memory(3, 4))
    assert BackendWrapper(ReferenceBackend()).memory() == Memory(3, 4)


def test_the_resident_peak_holds_what_was_once_there():
    before = peak_resident_bytes()
    block = bytearray(before)
    block[::4096] = b"x" * len(block[::4096])
    assert peak_resident_bytes() >= before * 1.5
