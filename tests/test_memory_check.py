"""A run that cannot fit is refused by all ranks, before it starts, with the parts and the ways out; others are not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from owt_mpi.backends import host
from owt_mpi.backends.base import Memory
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.guard import USAGE_ERROR, CollectiveExit
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import BatchOptions, Config, DataOptions, ModelOptions, RunOptions
from owt_mpi.memory_check import MemoryReport, Room, peak_resident_bytes, report_memory
from owt_mpi.memory_forecast import MemoryForecast
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.training.run import run_training
from tests.tiny import tiny_model

PARTS = {"weights": 2_000_000}, {"head": {"exchange": 1_000_000, "update": 0}}
FORECAST = MemoryForecast(*PARTS, lost_share=0.0, least_bytes=2_500_000)


def node(free: int, swap: int = 0) -> Memory:
    return Memory("the node", "node", free, 10_000_000, swap)


def report(memory: Memory, num_ranks: int = 2) -> MemoryReport:
    return MemoryReport(FORECAST, (Room(memory, num_ranks, 3_000_000, 2_500_000),), ("lower the batch", "wait"))


def config(run_dir: Path, **parallel: object) -> Config:
    return Config(
        model=ModelOptions("small", crop=16),
        data=DataOptions("synthetic", synthetic_images=16, synthetic_classes=4),
        batch=BatchOptions(images_per_rank=4, epochs=1, max_steps=2),
        parallel=ParallelOptions(virtual_ranks=2, backend="reference", **parallel),
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


def test_what_is_needed_at_least_decides_to_the_byte_and_swap_counts_as_memory():
    assert report(node(5_000_000)).refusal() is None
    assert report(node(4_000_000, swap=1_000_000)).refusal() is None
    message = str(report(node(4_000_000, swap=999_999)).refusal())
    assert message == (
        "a rank needs at least 2.5 MB of memory, and there are 4.0 MB and 1.0 MB of swap free of the node for 2 ranks; "
        "forecast are 3.0 MB at the peak of a step (head): weights 2.0 MB, exchange 1.0 MB; lower the batch, wait, or "
        "--ignore-memory to start all the same"
    )


def test_what_may_not_be_enough_is_said_and_not_refused():
    assert str(report(node(6_000_000))) == (
        "3.0 MB a rank forecast for the peak (head), 2.5 MB at least; 6.0 MB free of the node for 2 ranks"
    )
    close = report(node(5_999_999))
    assert close.refusal() is None
    assert str(close).endswith("6.0 MB free of the node for 2 ranks, which may not be enough")
    assert str(MemoryReport(FORECAST, ())) == "3.0 MB a rank forecast for the peak (head), 2.5 MB at least"


def test_the_limit_that_comes_nearest_is_the_one_that_is_named():
    wide, narrow = Room(node(9_000_000), 1, 3, 2), Room(Memory("control group /job", "7", 100, 100), 4, 3, 2)
    said = str(MemoryReport(FORECAST, (wide, narrow)))
    assert said.endswith("; 0.0 MB free of control group /job for 4 ranks")


def test_a_limit_counts_for_the_ranks_that_are_under_it(monkeypatch):
    """Two jobs' steps on a node, the second with one rank: a step's limit is its own, the node's is for all."""

    class Place(ReferenceBackend):
        def __init__(self, step):
            self.step = step

        def memory(self):
            return [Memory(f"step {self.step}", f"step {self.step}", 100, 100), node(1000)]

    def fn(comm):
        layout = make_layout(comm, Plan(4, "a"), "a host")
        return report_memory(Config(), tiny_model(), layout, 2, Place(comm.rank // 3)).rooms

    rooms = run_ranks(4, fn)
    assert [[(room.memory.name, room.num_ranks) for room in each] for each in rooms] == [
        *([[("step 0", 3), ("the node", 4)]] * 3),
        [("step 1", 1), ("the node", 4)],
    ]
    monkeypatch.setattr("owt_mpi.memory_check.socket.gethostname", iter(["one", "two", "two", "two"]).__next__)
    assert sorted(each[1].num_ranks for each in run_ranks(4, fn)) == [1, 3, 3, 3], "of nodes that are named alike"


def test_all_ranks_refuse_a_run_that_does_not_fit(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "host_memory", lambda: [node(100_000)])
    messages = run(config(tmp_path / "run"))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{USAGE_ERROR}: error: a rank needs at least ")
    assert "there are 0.1 MB free of the node for 2 ranks; forecast are " in messages[0]
    for words in (": weights ", "lower --images-per-rank", "give --recompute trunk", "over more ranks"):
        assert words in messages[0]
    assert "bf16" not in messages[0], "the host computes it in float32"
    assert not (tmp_path / "run").exists()


def test_the_ways_out_are_those_that_are_not_taken_yet(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "host_memory", lambda: [node(1)])
    message = run(config(tmp_path, recompute="trunk", scheme="dp"))[0]
    assert "--recompute" not in message
    assert "split the head over the ranks (--scheme c)" in message


@pytest.mark.parametrize("recompute", ["none", "trunk"])
def test_a_run_with_what_it_needs_at_least_starts(monkeypatch, tmp_path, recompute):
    wanted = config(tmp_path, recompute=recompute)
    monkeypatch.setattr(host, "host_memory", lambda: [node(1)])
    least = float(run(wanted)[0].split("at least ")[1].split(" MB")[0].replace(",", "")) * 1e6
    monkeypatch.setattr(host, "host_memory", lambda: [node(int(1.8 * least))])
    assert "for 2 ranks" in run(wanted)[0]
    monkeypatch.setattr(host, "host_memory", lambda: [node(int(2.2 * least))])
    assert run(wanted) == ["", ""]


def test_the_user_may_start_all_the_same(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(host, "host_memory", lambda: [node(100_000)])
    wanted = config(tmp_path / "run")
    assert run(replace(wanted, run=replace(wanted.run, ignore_memory=True))) == ["", ""]
    said = capsys.readouterr().out
    assert "0.1 MB free of the node for 2 ranks, which may not be enough" in said
    assert "MB of the host resident at the peak on rank 0" in said
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert "a rank forecast for the peak" in facts["memory"]


def test_a_single_step_is_not_refused_as_the_least_is_that_of_the_second(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "host_memory", lambda: [node(100_000)])
    wanted = config(tmp_path / "run")
    assert run(replace(wanted, batch=replace(wanted.batch, max_steps=1))) == ["", ""]


def test_a_dry_run_says_what_is_there_and_refuses_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(host, "host_memory", lambda: [node(100_000)])
    wanted = config(tmp_path)
    assert run(replace(wanted, run=replace(wanted.run, dry_run=True))) == ["", ""]
    assert "0.1 MB free of the node for 2 ranks, which may not be enough" in capsys.readouterr().out


def test_the_resident_peak_holds_what_was_once_there():
    before = peak_resident_bytes()
    block = bytearray(before)
    block[::4096] = b"x" * len(block[::4096])
    assert peak_resident_bytes() >= before * 1.5
