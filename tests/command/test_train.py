"""`python -m owt_mpi.train` as a user runs it: what it prints, what it keeps, and that K ranks equal one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from owt_mpi.checkpoint.weights import read_weights
from owt_mpi.config import Config, ModelOptions, RunOptions
from owt_mpi.preset_files import load_preset
from owt_mpi.training.folder import _new_run_dir
from tests.mpi_run import REPO_ROOT, Result

Run = Callable[..., Result]
TRAIN = ["-m", "owt_mpi.train"]


def train_alone(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command without mpirun, with `variables` in its environment."""
    launchers = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
    env = {name: value for name, value in os.environ.items() if name not in launchers} | variables
    return subprocess.run(
        [sys.executable, *TRAIN, *arguments],
        cwd=REPO_ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def records_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def options(shards: Path, preset: Path, run_dir: Path) -> list[str]:
    return ["--preset", str(preset), "--data", str(shards), "--run-dir", str(run_dir)]


def test_two_mpi_ranks_learn_and_keep_their_run(mpirun: Run, shards: Path, preset: Path, tmp_path: Path):
    run_dir = tmp_path / "run"
    given = [*options(shards, preset, run_dir), "--epochs", "6", "--layer-stats-every", "10", "--tensorboard"]
    result = mpirun(2, [*TRAIN, *given]).check()
    lines = result.rank_stdout[0].splitlines()
    assert result.rank_stdout[1] == "", "rank 0 speaks alone"
    assert lines[0].startswith("backend: ")
    assert "ranks: 2 ranks, trunk data parallel, head split over 2 ranks, scheme (c)" in lines
    assert any(line.startswith("epoch 1/6 step 3/36: loss ") and "images/s" in line for line in lines)
    kept = "config.toml, environment.json, metrics.jsonl, weights.h5, wire.json, samples.json, tensorboard, checkpoints"
    assert lines[-1] == f"run kept in {run_dir}: {kept}"
    last = [r for r in records_of(run_dir) if r["kind"] == "validation"][-1]
    assert last["images"] == 21
    assert last["top1"] > 0.9, "four brightnesses are easily told apart"
    assert load_preset(str(run_dir / "config.toml")).batch.epochs == 6
    wire = json.loads((run_dir / "wire.json").read_text())
    assert (wire["steps"], len(wire["ranks"])) == (36, 2)
    for flow in wire["ranks"][0]:
        windows = [each for r in records_of(run_dir) if r["kind"] == "wire" for each in r["flows"]]
        same = [each for each in windows if all(each[k] == flow[k] for k in ("label", "collective", "payload"))]
        assert sum(each["received_bytes"] for each in same) == flow["received_bytes"]
        assert flow["calls"] % 36 == 0, "validation and looks at the layers are left out"
        assert 0 <= flow["exposed_seconds"] <= flow["seconds"]
    assert any(line.startswith("  boundary all_gather_rows") for line in lines)
    assert "ranks, ms a step:" in lines
    times = [each for r in records_of(run_dir) if r["kind"] == "ranks" for each in r["ranks"]]
    assert len(times) == 2 * 12
    assert all(each["exchange_wait"] + each["data_wait"] < each["steps"] for each in times)
    assert json.loads((run_dir / "environment.json").read_text())["ranks"].startswith("2 ranks")
    assert len(list((run_dir / "tensorboard").iterdir())) == 1, "of rank 0"
    assert len(json.loads((run_dir / "samples.json").read_text())["images"]) == 12
    layers = [r for r in records_of(run_dir) if r["kind"] == "layers"]
    assert [r["step"] for r in layers] == [10, 20, 30]
    assert list(layers[0]["outputs"]) == ["trunk.conv1", "trunk.block2.conv", "trunk.block2.relu", "trunk.pool2",
                                          "head.fc3", "head.relu3", "head.fc4"]  # fmt: skip
    assert 0 < layers[0]["updates"]["head.fc4.weight"] < 1


@pytest.mark.parametrize("scheme", ["dp", "a", "b", "c", "d"])
def test_virtual_and_mpi_ranks_train_the_network_that_one_rank_does(
    mpirun: Run, shards: Path, preset: Path, tmp_path: Path, scheme: str
):
    same = ["--backend", "reference", "--dtype", "float64", "--scheme", scheme]
    assert train_alone(*options(shards, preset, tmp_path / "one"), *same).returncode == 0
    assert train_alone(*options(shards, preset, tmp_path / "virtual"), *same, "--virtual-ranks", "4").returncode == 0
    mpirun(2, [*TRAIN, *options(shards, preset, tmp_path / "mpi"), *same]).check()
    expected = read_weights(tmp_path / "one" / "weights.h5")
    assert len(expected) == 8
    for other in ("virtual", "mpi"):
        weights = read_weights(tmp_path / other / "weights.h5")
        assert weights.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(weights[name], values, rtol=1e-9, atol=1e-12, err_msg=f"{other}: {name}")
        for ours, serial in zip(records_of(tmp_path / other), records_of(tmp_path / "one"), strict=True):
            assert (ours["kind"], ours["step"]) == (serial["kind"], serial["step"])
            if ours["kind"] not in ("train", "validation"):
                continue
            assert ours["loss"] == pytest.approx(serial["loss"], rel=1e-9)
            assert ours["top1"] == serial["top1"]


@pytest.mark.parametrize(
    "sync", [("sharded", "auto"), ("sharded", "bfloat16"), ("all-reduce", "float16")], ids="-".join
)
def test_mpi_ranks_share_the_update_or_send_16_bits_and_train_the_network_that_one_rank_does(
    mpirun: Run, shards: Path, preset: Path, tmp_path: Path, sync: tuple[str, str]
):
    trunk_sync, wire_dtype = sync
    same = ["--backend", "reference", "--dtype", "float64", "--max-steps", "4"]
    assert train_alone(*options(shards, preset, tmp_path / "one"), *same).returncode == 0
    shared = [*same, "--scheme", "dp", "--trunk-sync", trunk_sync, "--wire-dtype", wire_dtype]
    mpirun(2, [*TRAIN, *options(shards, preset, tmp_path / "mpi"), *shared]).check()
    expected, weights = (read_weights(tmp_path / run / "weights.h5") for run in ("one", "mpi"))
    tolerance = 1e-12 if wire_dtype == "auto" else 1e-3
    for name, values in expected.items():
        np.testing.assert_allclose(weights[name], values, rtol=0, atol=tolerance, err_msg=name)


def test_the_head_may_learn_after_every_pass_and_later_once_a_step(shards: Path, preset: Path, tmp_path: Path):
    weights = {}
    for update in ("per-iteration", "per-pass", "per-pass,2:per-iteration"):
        run_dir = tmp_path / update
        arguments = [*options(shards, preset, run_dir), "--virtual-ranks", "2", "--head-update", update]
        done = train_alone(*arguments, "--backend", "reference")
        assert done.returncode == 0, done.stderr
        weights[update] = read_weights(run_dir / "weights.h5")["head.fc4.weight"]
    assert len({values.tobytes() for values in weights.values()}) == 3


def test_groups_of_ranks_train(shards: Path, preset: Path, tmp_path: Path):
    grouped = ["--virtual-ranks", "4", "--head-group-size", "2"]
    done = train_alone(*options(shards, preset, tmp_path / "run"), *grouped, "--max-steps", "2")
    assert done.returncode == 0, done.stderr
    assert "head split over each group of 2, scheme (c)" in done.stdout


def test_a_restricted_network_trains_with_the_scheme_that_moves_least(shards: Path, preset: Path, tmp_path: Path):
    arguments = ["--fc-crosstalk", "0.5", "--fc-blocks", "4"]
    expected = None
    for num_ranks in (1, 4):
        run_dir = tmp_path / str(num_ranks)
        same = [*options(shards, preset, run_dir), "--backend", "reference", "--dtype", "float64", "--max-steps", "4"]
        done = train_alone(*same, *arguments, "--virtual-ranks", str(num_ranks))
        assert done.returncode == 0, done.stderr
        assert "with FC layers in 4 blocks, cross-talk 0.5, softmax loss" in done.stdout
        weights = read_weights(run_dir / "weights.h5")
        assert weights["head.fc4.weight"].shape == (4, 4 + 3 * 2)
        expected = expected or weights
        for name, values in expected.items():
            np.testing.assert_allclose(weights[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    assert "head split over 4 ranks, scheme (d)" in done.stdout


def test_max_steps_ends_the_run_in_mid_epoch_with_validation_and_weights(shards: Path, preset: Path, tmp_path: Path):
    done = train_alone(*options(shards, preset, tmp_path / "run"), "--max-steps", "4")
    assert done.returncode == 0, done.stderr
    kinds = [(r["kind"], r["step"]) for r in records_of(tmp_path / "run")]
    assert kinds == [
        ("begin", 0),
        *((kind, step) for step in (3, 4) for kind in ("train", "wire", "ranks")),
        ("validation", 4),
        ("end", 4),
    ]
    train = next(r for r in records_of(tmp_path / "run") if r["kind"] == "train")
    assert train["trunk_lr"] == train["head_lr"] == pytest.approx(0.01 * 0.15874**2), "two milestones of three are over"
    assert 0 <= train["top1"] <= train["top5"] <= 1
    assert (tmp_path / "run" / "weights.h5").exists()


def test_a_dry_run_prints_and_writes_the_costs_and_trains_nothing(shards: Path, preset: Path, tmp_path: Path):
    table = tmp_path / "costs.json"
    done = train_alone(
        *options(shards, preset, tmp_path / "run"), "--dry-run", "--virtual-ranks", "2", "--json", str(table)
    )
    assert done.returncode == 0, done.stderr
    assert "trunk.block2.conv" in done.stdout
    assert "received by a rank a step" in done.stdout
    costs = json.loads(table.read_text())
    assert costs["ranks"] == 2
    assert costs["parameters"] == sum(layer["parameters"] for layer in costs["layers"])
    assert not (tmp_path / "run").exists()


def test_help_lists_every_option_with_its_meaning():
    done = train_alone("--help")
    assert done.returncode == 0
    for text in (
        "--preset",
        "--scheme {auto,dp,a,b,c,d}",
        "--images-per-rank INT",
        "--dry-run",
        "Presets: alexnet-owt",
    ):
        assert text in done.stdout


def test_help_under_mpirun_is_printed_once(mpirun: Run):
    result = mpirun(2, [*TRAIN, "--help"]).check()
    assert "usage: python -m owt_mpi.train" in result.rank_stdout[0]
    assert result.rank_stdout[1] == ""


def test_the_package_lists_its_commands():
    done = subprocess.run(
        [sys.executable, "-m", "owt_mpi"], cwd=REPO_ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert "owt_mpi.train" in done.stdout
    assert "data_prep.build_shards" in done.stdout


def test_runs_that_start_in_the_same_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("owt_mpi.training.folder.time.strftime", lambda _: "20260101-000000")
    names = [_new_run_dir(Config(run=RunOptions(preset="demo"))).name for _ in range(3)]
    assert names == ["demo-20260101-000000", "demo-20260101-000000-2", "demo-20260101-000000-3"]
    own = Config(model=ModelOptions(model="/some/where/nets.py:wide"), run=RunOptions(preset="/old/config.toml"))
    assert _new_run_dir(own).name == "nets.py_wide-20260101-000000"


def test_a_channel_that_never_changes_trains(shards: Path, preset: Path, tmp_path: Path):
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["statistics"]["std"][1] = 0.0
    (shards / "manifest.json").write_text(json.dumps(manifest))
    done = train_alone(*options(shards, preset, tmp_path / "run"), "--max-steps", "2")
    assert done.returncode == 0, done.stderr


def test_half_precision_keeps_master_weights_and_tells_of_the_loss_scale(shards, preset, tmp_path):
    run = tmp_path / "run"
    done = train_alone(*options(shards, preset, run), "--precision", "fp16", "--backend", "reference")
    assert done.returncode == 0, done.stderr
    assert "float16" in done.stdout
    for record in records_of(run):
        if record["kind"] == "train":
            assert record["loss_scale"] <= 2.0**15
            assert record["skipped_updates"] >= 0
    assert all(values.dtype == np.float32 for values in read_weights(run / "weights.h5").values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--precision", "bf16", "--dtype", "float64"], "--precision bf16 and --dtype float64 contradict each other"),
        (["--precision", "tf32", "--backend", "reference"], "'reference' has no TF32"),
        (["--precision", "fp16", "--backend", "onednn"], "not float16; use float32, or backend 'cuda' or 'ref"),
    ],
)
def test_a_precision_that_cannot_be_had_is_refused(shards, preset, tmp_path, wrong, message):
    done = train_alone(*options(shards, preset, tmp_path / "run"), *wrong)
    assert done.returncode == 2
    assert message in done.stderr + done.stdout
