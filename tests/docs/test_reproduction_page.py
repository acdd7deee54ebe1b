"""The page on the paper's Table 1 shows what its commands make of the results that are kept beside it."""

import json
import shlex
import sys

import pytest

from benchmarks import table1
from tests.mpi_run import REPO_ROOT

PAGE = REPO_ROOT / "docs/reproduction.md"
LINES = PAGE.read_text(encoding="utf-8").splitlines()
COMMANDS = [line for line in LINES if line.startswith("python -m benchmarks.table1") and line.endswith("--markdown")]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_shows_what_its_commands_print(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", shlex.split(command)[2:])
    monkeypatch.chdir(REPO_ROOT)
    assert table1.main() == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    shown = [line for line in LINES[LINES.index(command) :] if line]
    assert shown[2 : 2 + len(printed)] == printed


@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist"])
def test_results_are_those_of_whole_runs(name):
    results = [json.loads(line) for line in (PAGE.parent / f"table1-{name}.jsonl").read_text().splitlines()]
    assert len(results) == 49
    assert {result["case"]["seed"] for result in results} == {1, 2, 3}
    assert len({json.dumps(result["setup"]) for result in results}) == 1


def test_there_is_a_report_of_either_data_set():
    assert len(COMMANDS) == 2
