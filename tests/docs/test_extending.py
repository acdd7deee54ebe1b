"""The pages' examples run as they stand, and their links lead somewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from owt_mpi.comm.threads import run_ranks
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import alexnet_owt
from owt_mpi.parallel.layout import Plan, SchemeName, make_layout
from owt_mpi.summary import summarise
from tests.mpi_run import ONE_THREAD, REPO_ROOT

PAGES = [
    "README.md", "docs/extending.md", "docs/interchange.md", "docs/proof.md", "docs/restricted.md", "docs/seeing.md",
    "docs/hosts.md", "docs/reliability.md", "docs/scaling.md", "docs/slurm.md",
    "tests/README.md",
    "data_prep/README.md",
]  # fmt: skip
EXTENDING = (REPO_ROOT / "docs/extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of docs/extending.md."""
    path = tmp_path_factory.mktemp("extending")
    for code in blocks("python"):
        named = re.match(r"# (\w+\.py)\n", code)
        assert named is not None, f"the block does not start with its file's name:\n{code}"
        (path / named[1]).write_text(code, encoding="utf-8")
    return path


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of docs/extending.md in `language`, in order."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", EXTENDING, re.DOTALL | re.MULTILINE)
    assert found
    return found


@pytest.mark.parametrize("commands", blocks("bash"))
def test_the_commands_of_the_guide_succeed(folder: Path, commands: str) -> None:
    run = subprocess.run(
        ["bash", "-euc", f'python() {{ "{sys.executable}" "$@"; }}\n{commands}'],
        cwd=folder,
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(REPO_ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout
    if "--run-dir wide-run" in commands:
        check_run(folder / "wide-run")


def test_the_guides_network_can_be_planned(folder: Path) -> None:
    command = [sys.executable, "-m", "owt_mpi.plan", "--model", "my_nets.py:wide", "--crop", "32", "--ranks", "2"]
    env = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(REPO_ROOT)}
    run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert "Choose --scheme " in run.stdout, run.stderr


def check_run(run_dir: Path) -> None:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "train"] == [2, 4, 6]
    assert {path.name for path in run_dir.iterdir()} == {
        "config.toml", "environment.json", "metrics.jsonl", "weights.h5", "wire.json",
        "checkpoints",
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    path = REPO_ROOT / page
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_text_exist(page: str) -> None:
    path = REPO_ROOT / page
    named = re.findall(r"`((?:owt_mpi|tests|data_prep|docs)/[\w/.]+)`", path.read_text(encoding="utf-8"))
    missing = [name for name in named if not (REPO_ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_the_readme_tells_the_bytes_that_a_dry_run_prints(num_ranks: int) -> None:
    def received_mb(scheme: SchemeName) -> float:
        model = alexnet_owt(InputSpec(224, 3, 1000))
        layouts = run_ranks(num_ranks, lambda comm: make_layout(comm, Plan(num_ranks, scheme)))
        return sum(summarise(model, layouts[0], 128, np.dtype(np.float32)).received_bytes.values()) / 1e6

    dp, hybrid = received_mb("dp"), received_mb("c")
    row = f"| {num_ranks} | {dp:.1f} MB | {hybrid:.1f} MB | {dp / hybrid:.1f} |"
    assert row in (REPO_ROOT / "README.md").read_text(encoding="utf-8").splitlines()
