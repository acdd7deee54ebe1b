"""The page on SLURM shows what its commands print, and names the options and variables that there are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from owt_mpi.batch.options import BatchOptions
from tests.mpi_run import REPO_ROOT

PAGES = {name: (REPO_ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("slurm", "hosts")}
SHOWN = [block for block in re.findall(r"```\n(.*?)```", PAGES["slurm"], re.DOTALL) if "owt_mpi.slurm" in block]


@pytest.mark.parametrize("shown", SHOWN, ids=["a script", "a refusal"])
def test_the_page_shows_what_its_commands_print(shown: str, tmp_path: Path):
    (tmp_path / "launch").symlink_to(REPO_ROOT / "launch")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPO_ROOT)}
    printed = []
    for command in re.findall(r"^\$ (.*)$", shown, re.MULTILINE):
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, timeout=90,
        )  # fmt: skip
        printed.append(f"$ {command}\n{done.stdout}")
    assert "".join(printed) == shown


def test_the_page_names_every_option():
    options = [f"--{name.replace('_', '-')}" for name in BatchOptions.__dataclass_fields__ if name != "kind"]
    table = PAGES["slurm"].partition("## A script of your own")[2].partition("## Scoring")[0]
    assert [option for option in options if f"`{option}" not in table] == []


@pytest.mark.parametrize(("page", "scripts"), [("slurm", "*.sbatch"), ("hosts", "hosts.sh")])
def test_a_page_has_the_variables_that_its_scripts_ask_for(page: str, scripts: str):
    texts = [path.read_text(encoding="utf-8") for path in (REPO_ROOT / "launch").glob(scripts)]
    asked = {name for text in texts for name in re.findall(r"\$\{(OWT_MPI_\w+):-", text)}
    assert set(re.findall(r"^\| `(OWT_MPI_\w+)`", PAGES[page], re.MULTILINE)) == asked
