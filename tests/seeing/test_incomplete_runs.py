"""Runs of which something is missing or damaged, that go on, or were killed: what is there is shown, the rest said."""

import json
import os
import sys

import pytest

from owt_mpi import report
from owt_mpi.metrics import Reporter
from owt_mpi.seeing import metrics_file
from owt_mpi.seeing.run_folder import read_runs
from tests.seeing.making import SECTIONS, check_safe, made
from tests.seeing.runs import record_steps, write_files, write_run


@pytest.mark.parametrize(
    ("missing", "section", "part"),
    [
        ("metrics.jsonl", "overview", "metrics"),
        ("config.toml", "configuration", "config"),
        ("environment.json", "environment", "environment"),
        ("samples.json", "predictions", "samples"),
        ("weights.h5", "filters", "filters"),
    ],
)
@pytest.mark.parametrize("damaged", [False, True], ids=["missing", "damaged"])
def test_what_is_not_there_is_said_in_its_place(tmp_path, missing, section, part, damaged):
    folder = write_run(tmp_path / "run")
    (folder / missing).unlink()
    said = f"run: there is no {missing} yet"
    if missing == "weights.h5":
        said = "run: there is neither a checkpoint nor weights.h5 yet"
    if damaged:
        (folder / missing).write_bytes(b"\x89HDF{[\x00\xff")
        said = f"run: {part} cannot be read: "
        if missing == "metrics.jsonl":
            said = "run: 1 damaged line of metrics.jsonl is left out"
    parsed, content = made(folder)
    check_safe(parsed)
    assert said in parsed.in_section[section]
    assert tuple(parsed.in_section) == SECTIONS
    assert list(content["overview"][0]["problems"]) == [part]


def test_a_run_that_goes_on_or_was_killed_shows_what_there_is(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    reporter = Reporter(active=True, metrics_file=folder / "metrics.jsonl", num_steps=1000)
    with reporter:
        reporter.begin_at(0, ranks=2, global_batch=64)
        record_steps(reporter, 0, 60, 2)
        parsed, content = made(folder)
    assert "not ended: it goes on, or was killed" in parsed.text
    assert "60 of 1,000" in parsed.text
    assert "Of rank 0, over 60 steps." in parsed.text
    assert content["wire"][0]["rows"][-1]["received_bytes"] == pytest.approx(4e6)
    whole = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(whole[: len(whole) // 2])
    parsed, content = made(folder)
    assert "1 damaged line of metrics.jsonl is left out" in parsed.text
    assert 0 < content["overview"][0]["step"] < 60


def test_a_run_that_has_recorded_nothing_yet_says_so_everywhere(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_files(folder)
    (folder / "samples.json").unlink()
    with Reporter(active=True, metrics_file=folder / "metrics.jsonl", num_steps=10):
        pass
    parsed, content = made(folder)
    check_safe(parsed)
    assert parsed.text.count("nothing recorded yet") >= 9
    assert content["ranks"] == [{"run": "run", "steps": 0, "ranks": [], "verdict": ""}]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("odd", ["pipe", "/dev/zero"])
def test_pipes_and_devices_in_place_of_files_are_not_read(tmp_path, odd):
    folder = write_run(tmp_path / "run")
    names = {"metrics.jsonl": "metrics", "config.toml": "config", "environment.json": "environment"}
    names |= {"samples.json": "samples"}
    for name in names:
        (folder / name).unlink()
        os.mkfifo(folder / name) if odd == "pipe" else (folder / name).symlink_to(odd)
    (folder / "weights.h5").unlink()
    parsed, content = made(folder)
    problems = content["overview"][0]["problems"]
    assert all(problems[part] == f"{part} cannot be read: is no regular file" for part in names.values())
    assert "metrics cannot be read" in parsed.in_section["overview"]


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_the_wire_is_said(tmp_path):
    folder = write_run(tmp_path / "run")
    lines = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"wire"' not in line]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "wire.json").unlink()
    os.mkfifo(folder / "wire.json")
    _, content = made(folder)
    assert content["overview"][0]["problems"] == {"wire": "wire cannot be read: is no regular file"}


def test_a_file_without_ends_of_lines_is_no_metrics_file(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    monkeypatch.setattr(metrics_file, "_LONGEST_LINE", 5000)
    (folder / "metrics.jsonl").write_bytes(bytes(6000))
    _, content = made(folder)
    assert content["overview"][0]["problems"]["metrics"] == (
        "metrics cannot be read: it has a line of 5000 characters or more"
    )


def test_options_that_json_has_no_value_for_are_shown_as_text(tmp_path):
    folder = write_run(tmp_path / "run")
    text = "[data]\ncache = nan\nx = [inf, 1]\nday = 1979-05-27\nflip = true\nlarge = 0x" + "f" * 5000 + "\n"
    (folder / "config.toml").write_text(text)
    _, content = made(folder)
    large = "a number of very many digits"
    expected = {"cache": "nan", "x": ["inf", 1], "day": "datetime.date(1979, 5, 27)", "flip": True, "large": large}
    assert content["configuration"] == [{f"data.{name}": value for name, value in expected.items()}]


def test_a_link_to_itself_is_no_run(tmp_path):
    (tmp_path / "run").symlink_to("run")
    with pytest.raises(ValueError, match="there is no folder"):
        read_runs([str(tmp_path / "run")])


def test_what_a_run_says_of_its_end_does_not_move_the_cursor(tmp_path, monkeypatch, capsys):
    folder = write_run(tmp_path / "run")
    end = {"kind": "end", "seconds": 1.0, "step": 200, "how": "failed", "why": "a\n\x1b[2Jb\ud800"}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(end) + "\n")
    monkeypatch.setattr(sys, "argv", ["report", str(folder)])
    assert report.main() == 0
    assert "run: failed: a\\n\\x1b[2Jb\\ud800\n" in capsys.readouterr().out


def test_scores_that_are_no_numbers_are_left_out(tmp_path):
    folder = write_run(tmp_path / "run")
    samples = json.loads((folder / "samples.json").read_text())
    samples["images"][0]["classes"][0]["score"] = float("inf")
    samples["images"][0]["classes"][1]["score"] = float("nan")
    (folder / "samples.json").write_text(json.dumps(samples))
    _, content = made(folder)
    json.dumps(content, allow_nan=False)
    assert content["overview"][0]["problems"] == {}
