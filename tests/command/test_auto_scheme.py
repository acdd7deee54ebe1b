"""`--scheme auto --cluster`: the planner's choice is trained with, written down, and compared with what is measured."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from owt_mpi.nn.model import InputSpec
from owt_mpi.nn.models import find_builder
from owt_mpi.parallel.head_update import HeadUpdate
from owt_mpi.planner.choice import PlanCase, PlanRow, choose, plan_rows, reason
from owt_mpi.planner.cluster_files import load_cluster
from owt_mpi.planner.traced_step import SyncOptions
from owt_mpi.preset_files import load_preset
from tests.command.test_train import TRAIN, options, records_of, train_alone
from tests.mpi_run import Result

Run = Callable[..., Result]
SLOW = """name = "slow links"
[device]
name = "CPU"
gpu = false
memory_bytes = 1e9
memory_bytes_per_second = 1e9
memory_share = 0.8
convolution_share = 0.5
linear_share = 0.5
kernel_seconds = 1e-6
[device.flop_per_second]
fp32 = 1e9
[[levels]]
name = "board"
ranks = 2
latency_seconds = 1e-6
bytes_per_second = 1e6
link = "a rank"
[[levels]]
name = "wire"
ranks = 4
latency_seconds = 1e-6
bytes_per_second = 1e5
link = "a rank"
[collectives]
call_seconds = 1e-6
uses_all_links = false
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    file = tmp_path / "slow.toml"
    file.write_text(SLOW)
    return file


def rows(
    preset: Path, cluster: Path, ranks: int, *given, passes: int = 0, kept: SyncOptions | None = None
) -> list[PlanRow]:
    builder, machine = find_builder(load_preset(str(preset)).model.model), load_cluster(str(cluster))
    update, sync = HeadUpdate(passes), kept or SyncOptions()
    case = PlanCase(builder, InputSpec(8, 3, 4), 16 // ranks, machine, update=update, sync=sync)
    return plan_rows(case, ranks, *given)


def auto(shards: Path, preset: Path, run_dir: Path, cluster: Path, *more: str) -> list[str]:
    return [*options(shards, preset, run_dir), "--scheme", "auto", "--cluster", str(cluster), *more]


def test_the_planners_choice_is_trained_with_and_compared_with_the_run(
    mpirun: Run, shards: Path, preset: Path, cluster: Path, tmp_path: Path
):
    run_dir, planned = tmp_path / "run", rows(preset, cluster, 4)
    best = choose(planned)
    assert (best.scheme, best.group_size) == ("d", 2), "what is chosen is no default"
    result = mpirun(4, [*TRAIN, *auto(shards, preset, run_dir, cluster)]).check()
    said = f"auto, simulated on --cluster {cluster}. {reason(planned, best)}"
    assert f"scheme: {said}" in result.stdout
    assert json.loads((run_dir / "environment.json").read_text())["scheme"] == said
    assert "head split over each group of 2, scheme (d)" in result.stdout
    (record,) = [each for each in records_of(run_dir) if each["kind"] == "prediction"]
    assert record["predicted_step_seconds"] == best.seconds
    assert record["steps"] == 10, "the first 2 of 12 are left out"
    windows = [each for each in records_of(run_dir) if each["kind"] == "ranks"]
    assert 0 < record["measured_step_seconds"] * 10 < sum(each["ranks"][0]["steps"] for each in windows)
    assert f"a step: {best.seconds * 1e3:.3f} ms predicted, {record['measured_step_seconds'] * 1e3:.3f} ms" in (
        result.stdout
    )
    kept = load_preset(str(run_dir / "config.toml")).parallel
    assert (kept.scheme, kept.head_group_size, kept.cluster) == ("d", 2, str(cluster))


def test_a_resume_chooses_for_its_own_ranks_and_the_kept_options_do_not_choose(
    shards: Path, preset: Path, cluster: Path, tmp_path: Path
):
    run_dir, chosen = tmp_path / "run", {ranks: choose(rows(preset, cluster, ranks)) for ranks in (2, 4)}
    assert (chosen[4].scheme, chosen[4].group_size) != (chosen[2].scheme, chosen[2].group_size)
    for ranks in (2, 2, 4):
        more = ("--virtual-ranks", str(ranks), "--resume", "auto")
        result = train_alone(*auto(shards, preset, run_dir, cluster, *more))
        assert result.returncode == 0, result.stderr
        assert f"Choose {chosen[ranks].options}: " in result.stdout
        kept = load_preset(str(run_dir / "config.toml")).parallel
        assert kept.scheme == chosen[ranks].scheme
        assert kept.head_group_size == (chosen[ranks].group_size if 1 < chosen[ranks].group_size < ranks else 0)
        config = tmp_path / f"config-{ranks}.toml"
        config.write_bytes((run_dir / "config.toml").read_bytes())
    again = train_alone("--preset", str(tmp_path / "config-2.toml"), "--virtual-ranks", "4", "--dry-run")
    assert again.returncode == 0, again.stderr
    assert f"scheme: {chosen[2].scheme}, as told; " in again.stdout
    assert "Choose" not in again.stdout


def test_a_dry_run_shows_the_choice_and_plans_the_group_size_that_is_given(
    shards: Path, preset: Path, cluster: Path, tmp_path: Path
):
    more = ("--virtual-ranks", "4", "--dry-run", "--head-group-size")
    for size in (2, 4):
        result = train_alone(*auto(shards, preset, tmp_path / "run", cluster, *more, str(size)))
        assert result.returncode == 0, result.stderr
        best = choose(rows(preset, cluster, 4, (size,), ("a", "b", "c", "d")))
        assert f"Choose {best.options}: {best.seconds * 1e3:.1f} ms a step" in result.stdout
    assert not (tmp_path / "run").exists()


def test_how_weights_are_kept_in_step_is_planned_as_it_is_trained(
    shards: Path, preset: Path, cluster: Path, tmp_path: Path
):
    cluster.write_text(SLOW.replace("latency_seconds = 1e-6", "latency_seconds = 1e-3"))
    kinds = [SyncOptions(), SyncOptions("sharded"), SyncOptions(wire_dtype="float16"), SyncOptions(bucket_mib=1e-4)]
    bests = [choose(rows(preset, cluster, 4, kept=kept)) for kept in kinds]
    assert len({f"{best.seconds * 1e3:.1f}" for best in bests}) == len(kinds)
    for kept, best in zip(kinds, bests, strict=True):
        options = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(kept).items()]
        more = ("--virtual-ranks", "4", "--dry-run", *options)
        result = train_alone(*auto(shards, preset, tmp_path / "run", cluster, *more))
        assert result.returncode == 0, result.stderr
        assert f"Choose {best.options}: {best.seconds * 1e3:.1f} ms a step" in result.stdout


def test_updates_within_an_iteration_leave_the_schemes_that_make_them(
    shards: Path, preset: Path, cluster: Path, tmp_path: Path
):
    more = ("--virtual-ranks", "4", "--dry-run", "--head-update", "per-pass")
    result = train_alone(*auto(shards, preset, tmp_path / "run", cluster, *more))
    best = choose(rows(preset, cluster, 4, (4,), ("b", "c", "d"), passes=1))
    assert f"Choose {best.options}: {best.seconds * 1e3:.1f} ms a step" in result.stdout


def test_without_a_cluster_it_is_said_how_to_make_one(shards: Path, preset: Path, tmp_path: Path):
    result = train_alone(*options(shards, preset, tmp_path / "run"), "--virtual-ranks", "2", "--dry-run")
    assert "scheme: c, whatever the machine; to have the planner choose, give --cluster" in result.stdout
    assert "(mpirun -n 2 python -m owt_mpi.plan --measure here.toml makes one)" in result.stdout


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--cluster", "nowhere"), "there is no cluster 'nowhere'; choose one of dgx-a100, "),
        (("--head-group-size", "3"), "--head-group-size 3 does not divide the 2 ranks into whole groups; use 1 or 2"),
        (("--senders", "2"), "--senders 2 and --scheme auto with --cluster "),
        (("--precision", "bf16"), "bf16"),
        (("--dtype", "float64", "--backend", "reference"), " goes with --dtype float32"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_line_by_all_ranks(
    mpirun: Run, shards: Path, preset: Path, cluster: Path, tmp_path: Path, more: tuple[str, ...], words: str
):
    result = mpirun(2, [*TRAIN, *auto(shards, preset, tmp_path / "run", cluster, *more)])
    assert result.returncode == 2
    (line,) = [line for line in result.rank_stderr[0].splitlines() if line]
    assert line.startswith("error: ")
    assert words in line
    assert not (tmp_path / "run").exists()


def test_more_ranks_than_the_cluster_has_are_refused(shards: Path, preset: Path, cluster: Path, tmp_path: Path):
    for scheme in ("auto", "c"):
        more = ("--virtual-ranks", "8", "--scheme", scheme)
        result = train_alone(*auto(shards, preset, tmp_path / "run", cluster), *more)
        assert result.returncode == 2
        assert f"--cluster {cluster} has 4 ranks, and 8 were started" in result.stderr
