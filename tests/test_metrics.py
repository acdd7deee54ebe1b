"""What a run prints and records."""

import json

import pytest

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
