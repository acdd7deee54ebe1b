"""The page on scaling shows the tables that its commands print."""

import shlex
import sys

import pytest

from benchmarks import paper_hours, paper_speed
from owt_mpi import plan
from owt_mpi.planner.cluster_files import cluster_names
from tests.mpi_run import REPO_ROOT

LINES = (REPO_ROOT / "docs/scaling.md").read_text(encoding="utf-8").splitlines()
COMMANDS = [line for line in LINES if line.startswith("python -m ") and line.endswith("--markdown")]
COMMANDS_OF = {
    "owt_mpi.plan": plan.main,
    "benchmarks.paper_speed": paper_speed.main,
    "benchmarks.paper_hours": paper_hours.main,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_shows_what_its_commands_print(command, monkeypatch, capsys, tmp_path):
    _, _, module, *arguments = shlex.split(command)
    if "--plot" in arguments:
        arguments[arguments.index("--plot") + 1] = str(tmp_path / "plot.svg")
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    COMMANDS_OF[module]()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    shown = [line for line in LINES[LINES.index(command) :] if line]
    assert shown[2 : 2 + len(printed)] == printed


def test_there_are_tables_for_the_paper_and_up_to_1024_ranks():
    assert len(COMMANDS) == 7
    assert sum("1024 --cluster" in command for command in COMMANDS) == 3


def test_every_shipped_cluster_is_in_the_table():
    rows = {line.split("`")[1] for line in LINES if line.startswith("| `")}
    assert rows == set(cluster_names())
