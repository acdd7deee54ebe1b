"""The page for figures says in its first line whether there are any, and its commands are understood."""

import shlex

import pytest

from owt_mpi.bench import BenchOptions
from owt_mpi.command_line import parse_options
from owt_mpi.measure.report import Report
from tests.mpi_run import REPO_ROOT

PAGE = (REPO_ROOT / "docs/gpu-results.md").read_text(encoding="utf-8")
COMMANDS = [line for line in PAGE.splitlines() if "python -m owt_mpi.bench " in line and "`" not in line]


def test_the_first_line_says_whether_there_are_figures():
    first, *_, rest = PAGE.partition("\n")
    has_sections = "### Training step" in rest
    assert first.startswith("**No figures have been taken on a GPU yet.**") != has_sections


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_are_understood(command):
    arguments = shlex.split(command.partition("owt_mpi.bench ")[2])
    options = parse_options(BenchOptions(), arguments, "bench", "")
    options.check()
    assert options.gpu


def test_every_table_is_explained():
    assert len(COMMANDS) == 2
    for title in (
        "Conformance",
        "Convolutions",
        "Training step, one rank",
        "Training step by part",
        "Training step by",
    ):
        assert f"**{title}" in PAGE
    assert Report({"device": "x"}).tables() == []
