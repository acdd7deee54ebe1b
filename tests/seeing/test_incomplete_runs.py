"""Runs of which something is missing or damaged, that go on, or were killed: what is there is shown, the rest said."""

import pytest

from owt_mpi.metrics import Reporter
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
