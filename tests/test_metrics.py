"""What a run prints and records."""

import contextlib
import json
import os

import pytest

from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.metrics import Reporter, duration


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (185, "3m05s"), (7625, "2h07m")])
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_lines_go_out_plain_and_records_as_json(capsys, tmp_path):
    file = tmp_path / "metrics.jsonl"
    with Reporter(active=True, metrics_file=file, num_steps=10, progress="lines") as reporter:
        reporter.say("[step] loss 1.5 " + "x" * 200)
        reporter.advance(1)
        reporter.record("train", step=1, loss=1.5)
    assert capsys.readouterr().out == "[step] loss 1.5 " + "x" * 200 + "\n"
    (record,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert record.pop("seconds") >= 0
    assert record == {"kind": "train", "step": 1, "loss": 1.5}


def test_other_ranks_say_and_write_nothing(capsys, tmp_path):
    with Reporter(active=False, metrics_file=tmp_path / "metrics.jsonl", num_steps=10, progress="bar") as reporter:
        reporter.say("hello")
        reporter.record("train", step=1)
        reporter.advance(1)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_bar_moves_where_one_is_asked_for(capsys, tmp_path):
    with Reporter(active=True, metrics_file=None, num_steps=10, progress="bar") as reporter:
        reporter.advance(4)
    assert "4/10" in capsys.readouterr().out


def test_the_time_left_follows_the_speed_so_far(monkeypatch):
    clock = iter([100.0, 130.0])
    monkeypatch.setattr("owt_mpi.metrics.time.perf_counter", lambda: next(clock))
    reporter = Reporter(active=False, metrics_file=None, num_steps=40)
    assert reporter.time_left(steps_done=10) == "1m30s"


def records_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("error", "how"),
    [(None, "trained"), (CollectiveExit(85, "stopped after step 3"), "stopped"), (KeyboardInterrupt(), "interrupted"),
     (CollectiveExit(1, "the loss is nan"), "failed"), (ValueError("no such thing"), "failed")],
)  # fmt: skip
def test_how_a_run_ended_is_its_last_record(tmp_path, error, how):
    file = tmp_path / "metrics.jsonl"
    with (
        contextlib.suppress(type(error) if error else ()),
        Reporter(active=True, metrics_file=file, num_steps=10) as reporter,
    ):
        reporter.begin_at(0, ranks=2)
        reporter.advance(3)
        if error:
            raise error
    begin, end = records_of(file)
    assert (begin["kind"], begin["step"], begin["num_steps"], begin["ranks"]) == ("begin", 0, 10, 2)
    assert (end["kind"], end["step"], end["how"], end["why"]) == ("end", 3, how, str(error or ""))


def test_a_run_that_could_not_begin_leaves_the_record_of_an_earlier_one_alone(tmp_path):
    file = tmp_path / "metrics.jsonl"
    with pytest.raises(ValueError), Reporter(active=True, metrics_file=file, num_steps=10):
        raise ValueError("the checkpoint does not fit")
    assert file.read_text() == ""


def test_a_line_that_was_cut_off_does_not_swallow_the_first_of_the_run_that_goes_on(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for step in (0, 20):
        with Reporter(active=True, metrics_file=file, num_steps=40) as reporter:
            reporter.begin_at(step)
        if step == 0:
            whole = file.read_text()
            file.write_text(whole + '{"kind": "tra')
    lines = file.read_text().splitlines()
    assert lines[2] == '{"kind": "tra'
    assert [json.loads(line)["kind"] for line in lines[:2] + lines[3:]] == ["begin", "end", "resume", "end"]


def test_a_pipe_in_place_of_the_file_is_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match=r"metrics.jsonl is no regular file; remove it"):
        Reporter(active=True, metrics_file=tmp_path / "metrics.jsonl", num_steps=40)
