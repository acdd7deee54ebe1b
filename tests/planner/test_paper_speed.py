"""The planner on the paper's machine: Table 1's speedups, with one fitted number."""

import json
import sys
from dataclasses import replace

import pytest

from benchmarks import paper_hours, paper_speed
from owt_mpi.parallel.layout import Plan
from owt_mpi.planner.choice import step_timing


@pytest.fixture(scope="module")
def rows() -> list[paper_speed.SpeedRow]:
    return paper_speed.speed_rows()


def test_all_six_speedups_are_within_ten_percent_of_the_papers(rows):
    assert [row.reported for row in rows] == [1.95, 1.93, 3.74, 3.66, 6.25, 6.16]
    for scheme in ("b", "c"):
        for row in rows:
            assert row.speedups[scheme] == pytest.approx(row.reported, rel=0.10), (scheme, row)


def test_an_update_after_every_pass_costs_time_as_in_the_paper(rows):
    for whole, variable in zip(rows[::2], rows[1::2], strict=True):
        assert variable.speedups["b"] < whole.speedups["b"]


def test_without_what_was_fitted_eight_gpus_would_be_too_fast(rows):
    case = paper_speed.case(paper_speed.HeadUpdate())
    near, far = case.cluster.levels
    free = replace(case.cluster, levels=(near, replace(far, bytes_per_second=near.bytes_per_second)))
    speedup = 8 * paper_speed.seconds(Plan(1)) / step_timing(replace(case, cluster=free), Plan(8, "b")).seconds
    assert speedup > 1.1 * 6.25


def test_the_command_prints_what_it_worked_out(rows, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["paper_speed", "--markdown"])
    paper_speed.main()
    printed = capsys.readouterr().out
    for row in rows:
        assert f"| {row.gpus} | {row.gpus * 128}, {row.head_images} | {row.reported:.2f} |" in printed
        assert f" | {row.speedups['b']:.2f} | {row.speedups['c']:.2f} | " in printed


@pytest.mark.parametrize("ranks", [1, 8])
def test_the_hours_of_the_presets_are_those_of_the_plan(ranks):
    """90 epochs of 1,281,167 images, 128 a rank and step, in scheme (b) with an update after every pass."""
    update = paper_speed.HeadUpdate(1 if ranks > 1 else 0)
    steps = 90 * 1_281_167 / (128 * ranks)
    expected = steps * paper_speed.seconds(Plan(ranks, "b" if ranks > 1 else "dp"), update) / 3600
    assert paper_hours.hours("paper-8xk20", ranks) == pytest.approx(expected, rel=1e-9)


def test_the_hours_are_written_as_they_are_printed(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(paper_hours, "cluster_names", lambda: ["paper-8xk20"])
    monkeypatch.setattr(sys, "argv", ["paper_hours", "--markdown", "--json", str(tmp_path / "hours.json")])
    paper_hours.main()
    written = json.loads((tmp_path / "hours.json").read_text())
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| paper-8xk20"))
    cells = [f"{written['paper-8xk20'][ranks]:.2f}" for ranks in ("1", "2", "4", "8")]
    assert printed.split(" | ")[1:5] == cells
