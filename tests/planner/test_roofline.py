"""The command that prints the roofline."""

import json
import sys

import pytest

from benchmarks import roofline
from owt_mpi.planner.kernel import step_bytes
from tests.planner.steps import step_of


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["roofline", *arguments])
    roofline.main()


def test_the_tables_and_the_file_hold_the_same_step(monkeypatch, capsys, tmp_path):
    file = tmp_path / "roofline.json"
    run(monkeypatch, "--model", "alexnet", "--batch", "8", "--precision", "fp32", "fp16", "--json", str(file))
    printed, content = capsys.readouterr().out, json.loads(file.read_text())
    assert content["images"] == 8
    steps = {(row["fused"], row["precision"], row["device"]): row for row in content["steps"]}
    assert steps["nothing", "fp16", "H100 SXM 80 GB"]["least_bytes"] == step_bytes(step_of("alexnet", 8, "fp16"))
    default = steps["bias + ReLU", "fp32", "A100 SXM 80 GB"]
    rows = [r for r in content["kernels"] if (r["precision"], r["device"]) == ("fp32", "A100 SXM 80 GB")]
    for field in ("flop", "least_bytes", "seconds"):
        assert sum(row[field] for row in rows) == pytest.approx(default[field]), field
    assert default["images_per_second"] == pytest.approx(8 / default["seconds"])
    assert f"| {default['images_per_second']:,.0f} |" in printed
    for row in rows:
        assert f"| {row['kernel']} | {row['flop'] / 1e9:.2f} | {row['least_bytes'] / 1e6:.1f} |" in printed


def test_a_star_marks_the_least_compute_and_exchange(monkeypatch, capsys, tmp_path):
    file = tmp_path / "roofline.json"
    run(monkeypatch, "--batch", "8", "--devices", "v100", "--precision", "fp32", "--json", str(file))
    rows = [row for row in json.loads(file.read_text())["exchange"] if row["ranks"] == 8]
    tables = capsys.readouterr().out.splitlines()
    for column, link in enumerate(("PCIe 3 x16", "NVLink 2", "InfiniBand EDR"), start=5):
        own = [row for row in rows if row["link"] == link]
        best = min(own, key=lambda row: row["compute_seconds"] + row["exchange_seconds"])
        starred = [
            cells[2].strip()
            for cells in (line.split("|") for line in tables if line.startswith("| 8 |"))
            if cells[column].endswith("\\* ")
        ]
        assert starred == [best["scheme"]], link


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--devices", "v100", "--precision", "bf16"), "has no units for bf16; choose one of fp32, fp16"),
        (("--batch", "0"), "--batch is 0, but a step needs 1 image or more"),
        (("--batch", "6"), "6 images; try 4 or 8"),
        (("--model", "alexnut"), "there is no model 'alexnut'"),
    ],
)
def test_what_cannot_be_counted_is_refused_with_the_way_out(monkeypatch, capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, *arguments)
    assert end.value.code == 2
    assert words in capsys.readouterr().err
