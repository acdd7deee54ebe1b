"""metrics.jsonl of any run is read: over, going on, killed, resumed, damaged."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from owt_mpi.accounts import Times
from owt_mpi.metrics import Reporter
from owt_mpi.seeing.metrics_file import read_metrics
from tests.seeing.runs import LAYERS, WEIGHTS, loss_at, record_steps, times_of, write_run


def reporting(file: Path) -> Reporter:
    return Reporter(active=True, metrics_file=file, num_steps=300)


def assert_times(found, expected):
    assert [asdict(each) for each in found] == [pytest.approx(asdict(each)) for each in expected]


def steps(points):
    return [point.step for point in points]


def test_a_whole_run_is_read(tmp_path):
    metrics = read_metrics(write_run(tmp_path / "run") / "metrics.jsonl")
    assert steps(metrics.train) == list(range(10, 301, 10))
    assert [p.numbers["loss"] for p in metrics.train] == [loss_at(s) for s in range(10, 301, 10)]
    assert steps(metrics.validation) == [100, 200, 300]
    assert steps(metrics.layers) == [50, 100, 150, 200, 250, 300]
    assert list(metrics.layers[0].outputs) == list(LAYERS)
    assert list(metrics.layers[0].updates) == list(WEIGHTS)
    assert_times(metrics.ranks, times_of(300, 2))
    assert (metrics.rank_steps, metrics.flow_steps) == (300, 300)
    assert metrics.times[0].numbers == pytest.approx({"compute": 89.0, "exchange": 10.0, "data": 1.0})
    received = {key.label: flow.received_bytes for key, flow in metrics.flows.items()}
    assert received == {"boundary": 300 * 1_000_000, "trunk": 300 * 3_000_000}
    assert (metrics.end, metrics.damaged_lines, metrics.last_step) == (("trained", ""), 0, 300)


def test_steps_that_were_taken_again_after_a_resume_count_once(tmp_path):
    """Killed at 170, gone on from 120, killed at 150, gone on from 130: the records in between hold no more."""
    file = tmp_path / "metrics.jsonl"
    for first, last in ((0, 170), (120, 150), (130, 200)):
        with reporting(file) as reporter:
            reporter.begin_at(first, ranks=2)
            record_steps(reporter, first, last, 2)
        whole = file.read_text().splitlines()
        assert json.loads(whole[-1])["kind"] == "end"
        file.write_text("\n".join(whole[:-1]) + '\n{"kind": "train", "st')  # as if it had been killed
    metrics = read_metrics(file)
    assert steps(metrics.train) == list(range(10, 201, 10))
    assert steps(metrics.validation) == [100, 200]
    assert [each.step for each in metrics.starts] == [0, 120, 130]
    assert (metrics.rank_steps, metrics.flow_steps, metrics.damaged_lines) == (200, 200, 3)
    assert_times(metrics.ranks, times_of(200, 2))
    assert metrics.end is None
    seconds = [point.seconds for point in metrics.train]
    assert seconds == sorted(seconds), "time of training goes on where the run does"


def test_a_run_that_began_anew_has_nothing_of_before(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for last in (170, 50):
        with reporting(file) as reporter:
            reporter.begin_at(0, ranks=2)
            record_steps(reporter, 0, last, 2)
    metrics = read_metrics(file)
    assert steps(metrics.train) == [10, 20, 30, 40, 50]
    assert metrics.flow_steps == 50


def test_times_of_ranks_are_those_since_their_number_is_what_it_is(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for first, last, num_ranks in ((0, 100, 4), (100, 150, 2)):
        with reporting(file) as reporter:
            reporter.begin_at(first)
            record_steps(reporter, first, last, num_ranks)
    metrics = read_metrics(file)
    assert_times(metrics.ranks, times_of(50, 2))
    assert metrics.rank_steps == 50
    assert steps(metrics.times) == list(range(10, 151, 10))


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\x00\xff\xfe", b"[1, 2]", b"null", b'"text"', b'{"kind": "train"}',
        b'{"kind": 3, "step": 1, "seconds": 1}',
        b'{"kind": "train", "step": "1", "seconds": 1}', b'{"kind": "train", "step": true, "seconds": 1}',
        b'{"kind": "train", "step": -1, "seconds": 1}', b'{"kind": "train", "step": 1e400, "seconds": 1}',
        b'{"kind": "train", "step": 1, "seconds": NaN}', b'{"kind": "ranks", "step": 1, "seconds": 1, "ranks": {}}',
        b'{"kind": "ranks", "step": 1, "seconds": 1, "steps": 0, "ranks": [{}]}',
        b'{"kind": "ranks", "step": 1, "seconds": 1, "steps": 1, "ranks": [{"steps": 1}]}',
        b'{"kind": "wire", "step": 1, "seconds": 1, "steps": 1, "flows": [{"label": "x"}]}',
        b'{"kind": "layers", "step": 1, "seconds": 1, "outputs": [], "updates": {}}',
        b'{"kind": "ranks", "step": 1, "seconds": 1, "steps": 1, "ranks": [{"steps": 1e308, "exchange_wait": 0, '
        b'"data_wait": -1e308}]}',
        b'{"kind": "wire", "step": 1, "seconds": 1, "steps": 1, "flows": [{"calls": NaN, "sent_bytes": 0, '
        b'"received_bytes": 0, "seconds": 0, "exposed_seconds": 0}]}',
        b'{"kind": "resume", "step": "0", "seconds": 1}', b"[" * 100_000,
    ],
    ids=range(21),
)  # fmt: skip
def test_damaged_lines_are_left_out_and_counted(tmp_path, line):
    folder = write_run(tmp_path / "run", last=50)
    whole = read_metrics(folder / "metrics.jsonl")
    content = (folder / "metrics.jsonl").read_bytes().splitlines()
    (folder / "metrics.jsonl").write_bytes(b"\n".join([*content[:5], line, *content[5:]]))
    metrics = read_metrics(folder / "metrics.jsonl")
    assert metrics.damaged_lines == (1 if line else 0)
    assert metrics.train == whole.train
    assert metrics.flows == whole.flows


def test_numbers_that_are_none_are_no_points(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"kind": "train", "step": 1, "seconds": 1, "loss": NaN, "top1": "x", "top5": Infinity, "trunk_lr": 0.5}\n'
        '{"kind": "something new", "step": 2, "seconds": 1}\n'
    )
    metrics = read_metrics(file)
    assert set(metrics.train[0].numbers) == {"step", "seconds", "trunk_lr"}
    assert metrics.damaged_lines == 0
    assert metrics.ranks == []
    assert sum(metrics.ranks, Times()) == Times()
