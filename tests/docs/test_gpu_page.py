"""The page on GPUs shows the tables that the roofline's command prints."""

import sys

import pytest

from benchmarks import roofline
from owt_mpi.planner.devices import DEVICES
from tests.mpi_run import REPO_ROOT

LINES = (REPO_ROOT / "docs/gpu.md").read_text(encoding="utf-8").splitlines()
COMMANDS = [line.split() for line in LINES if line.startswith("python -m benchmarks.roofline ")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[command.index("--model") + 1])
def test_the_page_shows_the_tables_of_its_commands(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", command[2:])
    roofline.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    shown = LINES[LINES.index(printed[0]) :]
    tables = [line for line in shown if line in set(printed)]
    assert tables[: len(printed)] == printed


def test_the_page_names_both_networks_and_the_rates_that_were_used():
    assert [command[command.index("--model") + 1] for command in COMMANDS] == ["alexnet-owt", "vgg16"]
    for name in ("a100", "h100"):
        device = DEVICES[name]
        tera = [device.memory_bytes_per_second, *(device.product_flop_per_second[p] for p in ("fp32", "tf32", "bf16"))]
        memory, *products = (f"{rate / 1e12:g} T" for rate in tera)
        links = ", ".join(f"{link.name} {link.bytes_per_second / 1e9:g} GB/s" for link in device.links)
        cells = [device.name, f"{memory}B/s", *(f"{rate}FLOP/s" for rate in products), links]
        assert f"| {' | '.join(cells)} |" in LINES
