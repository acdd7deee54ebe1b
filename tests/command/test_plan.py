"""`python -m owt_mpi.plan`: its table, its choice, its files, and what it refuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from owt_mpi import plan
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.memory_forecast import MemoryOptions, forecast_memory
from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.layout import Plan
from owt_mpi.planner.choice import PlanRow, choose, reason
from owt_mpi.planner.exchange import layout_of
from owt_mpi.summary import summarise
from tests.mpi_run import mpi_run


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["plan", *map(str, arguments)])
    assert plan.main() == 0


def rows_of(file: Path) -> list[dict]:
    return json.loads(file.read_text())["rows"]


def test_all_schemes_and_group_sizes_are_told_with_the_choice(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "--ranks", "64", "--cluster", "v100-25gbe", "--json", tmp_path / "plan.json")
    printed, rows = capsys.readouterr().out, rows_of(tmp_path / "plan.json")
    pairs = [(row["scheme"], row["group_size"]) for row in rows]
    assert pairs == [("dp", 1), *((scheme, size) for size in (2, 4, 8) for scheme in "abcd")]
    best = min(rows, key=lambda row: row["seconds"])
    assert f"Choose --scheme {best['scheme']} --head-group-size {best['group_size']}: " in printed
    assert f"{best['images_per_second']:,.0f} images/s" in printed
    assert "Data parallelism takes" in printed
    assert "Left out as impossible: a with G = 16, 32, 64; b with G = 16, 32, 64" in printed
    for row in rows:
        assert row["images_per_second"] == pytest.approx(64 * 128 / row["seconds"])
        assert row["seconds"] == pytest.approx(row["compute_seconds"] + row["exposed_seconds"])


@pytest.mark.parametrize(("sync", "wire"), [("all-reduce", "auto"), ("sharded", "auto"), ("all-reduce", "float32")])
def test_bytes_and_memory_are_those_of_a_dry_run(monkeypatch, tmp_path, sync, wire):
    kept = ("--trunk-sync", sync, "--wire-dtype", wire)
    run(monkeypatch, "--ranks", "8", "--precision", "bf16", *kept, "--json", tmp_path / "plan.json")
    model, dtype = find_builder("alexnet-owt")(InputSpec(224, 3, 1000)), np.dtype(np.float16)
    for row in rows_of(tmp_path / "plan.json"):
        layout = layout_of(Plan(8, row["scheme"], row["group_size"]))
        options = MemoryOptions("cuda", sync, wire, device_bytes=80_000_000_000)
        assert row["received_bytes"] == summarise(model, layout, 128, dtype, options).received_bytes
        assert row["memory_bytes"] == forecast_memory(model, layout, 128, dtype, options).num_bytes


def test_efficiency_is_that_beside_one_rank(monkeypatch, tmp_path):
    alone, many = tmp_path / "alone.json", tmp_path / "many.json"
    run(monkeypatch, "--ranks", "1", "--json", alone)
    run(monkeypatch, "--ranks", "8", "--groups", "8", "--json", many)
    one = rows_of(alone)[0]
    assert one["efficiency"] == 1.0
    for row in rows_of(many):
        assert row["efficiency"] == pytest.approx(one["seconds"] / row["seconds"])


def test_several_numbers_of_ranks_are_a_table_of_the_best_of_each_family(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "--ranks", "1", "2", "16", "--cluster", "v100-25gbe", "--json", tmp_path / "plan.json")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = rows_of(tmp_path / "plan.json")
    groups = [row for row in rows if row["ranks"] == 16 and 1 < row["group_size"] < 16]
    best = min(groups, key=lambda row: row["seconds"])
    (line,) = (line for line in lines if line[:1] == ["16"])
    assert f"{best['seconds'] * 1e3:.3f}" in line
    assert line[2] == "-"  # 16 ranks cannot share 1000 classes


@pytest.mark.parametrize("ranks", [("8",), ("1", "2", "4")])
def test_a_plot_has_every_scheme_or_family(monkeypatch, tmp_path, ranks):
    run(monkeypatch, "--ranks", *ranks, "--plot", tmp_path / "plan.svg")
    drawn = (tmp_path / "plan.svg").read_text()
    wanted = ["dp", "one group", "ranks (K)"] if len(ranks) > 1 else ["dp", "c, G = 8", "ms a step", "exposed"]
    assert all(f">{words}</text>" in drawn for words in wanted)


def test_the_hours_of_a_training_are_those_of_its_images(monkeypatch, capsys, tmp_path):
    file, given = tmp_path / "plan.json", ("--epochs", "3", "--dataset-images", "5000000", "--json")
    for ranks in (["8"], ["2", "8"]):
        run(monkeypatch, "--ranks", *ranks, *given, file)
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert lines[1][-4:] == ["hours", "of", "3", "epochs"]
        rows = rows_of(file)
        if len(ranks) > 1:
            rows = [choose([row for row in map(planned, rows) if row.ranks == int(size)]) for size in ranks]
        speeds = [row["images_per_second"] if isinstance(row, dict) else row.images_per_second for row in rows]
        assert [line[-1] for line in lines[2 : 2 + len(rows)]] == [f"{15e6 / 3600 / speed:.2f}" for speed in speeds]


def planned(row: dict) -> PlanRow:
    return PlanRow(**{name: value for name, value in row.items() if name != "received"})


def test_stragglers_and_sums_by_node_change_the_times(monkeypatch, tmp_path):
    times = []
    for options in ((), ("--stragglers", "1", "--straggling", "1.5"), ("--node-sums", "sharded")):
        file = tmp_path / "plan.json"
        run(monkeypatch, "--ranks", "16", "--groups", "8", "--cluster", "v100-25gbe", "--json", file, *options)
        times.append(rows_of(file)[0]["seconds"])
    assert times[1] > times[0] > times[2]


def test_how_weights_are_kept_in_step_is_planned_and_said(monkeypatch, capsys, tmp_path):
    """Halves go to the rank that adds them: data parallelism sends more of them through a node's port than a ring."""
    titles, seconds = [], []
    for options in ((), ("--wire-dtype", "float16"), ("--trunk-sync", "sharded"), ("--bucket-mib", "64")):
        file = tmp_path / "plan.json"
        run(monkeypatch, "--ranks", "16", "--groups", "8", "--cluster", "v100-25gbe", "--json", file, *options)
        titles.append(capsys.readouterr().out.splitlines()[0])
        seconds.append({row["scheme"]: row["seconds"] for row in rows_of(file)})
    assert ["images a rank, fp32, V100" in title for title in titles] == [True, False, False, False]
    assert "images a rank, fp32, wire dtype float16, V100" in titles[1]
    assert "images a rank, fp32, trunk sync sharded, V100" in titles[2]
    assert "images a rank, fp32, bucket mib 64.0, V100" in titles[3]
    assert seconds[3] != seconds[0]
    assert seconds[1]["a"] < seconds[0]["a"] < seconds[0]["dp"] < seconds[1]["dp"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--ranks 16 --cluster paper-8xk20", "--ranks 16: 8 K20 on PCIe 2 has 8; give that or fewer"),
        ("--ranks 0", "--ranks are [0]; give one number from 1 to 1024"),
        ("--ranks 64 --groups 16", "1000 units of head.fc8 over 16 ranks, which is no whole number each; use"),
        ("--ranks 7 --groups 2", "does not divide the 7 ranks into whole groups; use 1 or 7"),
        ("--ranks 8 --epochs -1", "--epochs is -1, but must be a number from 0 to "),
        ("--ranks 8 --groups 1", "--groups are [1], but ranks share a head in groups of 2 or more"),
        ("--ranks 8 --precision tf32 --cluster v100-25gbe", "has no units for tf32; choose one of fp32, fp16"),
        ("--ranks 8 --head-update every-3-passes", "does not divide the 8 head passes of an iteration; use 1 or 2"),
        ("--ranks 4 --model vgg16 --images-per-rank 256 --cluster paper-8xk20", "5.0 GB; give --images-per-rank 64 or"),
        ("--model vgg16 --crop 2048 --cluster paper-8xk20 --images-per-rank 1", "no batch fits: give a --cluster with"),
        ("--cluster nowhere", "there is no cluster 'nowhere'; choose one of dgx-a100"),
        ("--model nothing", "there is no model 'nothing'"),
        ("--images-per-rank 0", "--images-per-rank is 0, but must be a number from 1"),
        ("--stragglers 9", "--stragglers is 9, but must be from 0 to the 8 ranks"),
        ("--bucket-mib 0", "--bucket-mib is 0.0, but must be a number above 0"),
        ("--jitter inf", "--jitter is inf, but must lie between 0 and 1000"),
        ("--plot x.gif", "--plot x.gif does not say a format"),
        ("--json nowhere/x.json", "--json nowhere/x.json: there is no folder"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line_with_the_way_out(monkeypatch, arguments, words):
    monkeypatch.setattr(sys, "argv", ["plan", *arguments.split()])
    with pytest.raises(CollectiveExit) as end:
        plan.main()
    assert end.value.code == 2
    assert words in str(end.value)
    assert "\n" not in str(end.value)


def row(scheme: str, seconds: float, compute: float = 1.0, fits: bool = True) -> PlanRow:
    size = 1 if scheme == "dp" else 4
    return PlanRow(
        8, scheme, size, seconds, 8 / seconds, 1 / seconds, compute, seconds - compute, 10**9, fits, {"x": 5}
    )


def test_the_fastest_that_fits_is_chosen_and_data_parallelism_where_little_is_gained():
    dp, c = row("dp", 1.005), row("c", 1.0)
    assert choose([dp, c]) is dp
    assert choose([row("dp", 1.02), c]) is c
    assert choose([row("dp", 0.9, fits=False), c]) is c


def test_the_reason_names_what_makes_the_other_slower():
    dp, c = row("dp", 1.5, 1.1), row("c", 1.2, 1.0)
    assert "Data parallelism takes 25% longer: 400.0 ms of its exchange" in reason([dp, c], c)
    dp = row("dp", 1.5, 1.4)
    assert "takes 25% longer: it computes 1400.0 ms, against 1000.0 ms" in reason([dp, c], c)
    assert "(c) in groups of 4 does not fit" in reason([dp, row("c", 1, fits=False)], dp)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_ranks_at_hand_are_measured_and_planned_for(num_ranks, monkeypatch, tmp_path, capsys):
    file = tmp_path / "here.toml"
    network = ("--model", "small", "--crop", "16", "--classes", "8", "--images-per-rank", "8")
    done = mpi_run(num_ranks, ["-m", "owt_mpi.plan", "--measure", str(file), *network])
    assert f"{num_ranks} ranks, measured: written to {file}" in done.check().stdout
    assert file.read_text().startswith("# Measured 2")
    run(monkeypatch, "--ranks", num_ranks, "--cluster", file, *network)
    assert f"{num_ranks} ranks, measured, K = {num_ranks}" in capsys.readouterr().out
