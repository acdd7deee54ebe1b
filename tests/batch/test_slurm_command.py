"""`python -m owt_mpi.slurm`: the scripts of launch/ with what it is told in them, and none of it taken for commands."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from owt_mpi.batch.options import seconds_of
from owt_mpi.batch.script import template, value
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.slurm import main
from tests.launch.test_batch_scripts import SRUN, ending, needs_environment, run
from tests.mpi_run import REPO_ROOT

TRAIN = ("runs/first", "--preset", "demo", "--data", "synthetic")
PREP = ("images", "shards")
EVAL = ("runs/first", "--views", "10")
ARGUMENTS = {"train": TRAIN, "prep": PREP, "eval": EVAL}
COMMANDS = {"train": "owt_mpi.train", "prep": "data_prep.build_shards", "eval": "owt_mpi.evaluate"}


@dataclass(frozen=True)
class Result:
    """How the command ended."""

    returncode: int
    stdout: str
    stderr: str


Slurm = Callable[..., Result]


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Slurm:
    """The command, in this process."""

    def call(kind: str, *options: str, arguments: tuple[str, ...] | None = None) -> Result:
        given = ARGUMENTS[kind] if arguments is None else arguments
        monkeypatch.setattr(sys, "argv", ["slurm", kind, *options, "--", *given])
        capsys.readouterr()
        code, message = 0, ""
        try:
            main()
        except CollectiveExit as end:
            code, message = int(end.code or 0), end.message
        said = capsys.readouterr()
        return Result(code, said.out, said.err + message)

    return call


@pytest.fixture
def written(slurm: Slurm) -> Callable[..., str]:
    """The command, which must end well, and what it prints."""

    def call(kind: str, *options: str, arguments: tuple[str, ...] | None = None) -> str:
        done = slurm(kind, *options, arguments=arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


Written = Callable[..., str]


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_there_is_one_text_for_people_and_for_the_command(kind: str):
    assert template(kind) == (REPO_ROOT / "launch" / f"{kind}.sbatch").read_text(encoding="utf-8")
    file = REPO_ROOT / "owt_mpi" / "batch" / f"{kind}.sbatch"
    assert file.resolve() == REPO_ROOT / "launch" / f"{kind}.sbatch"


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_what_is_not_told_is_as_in_launch(written: Written, kind: str):
    script, launch = written(kind).splitlines(), template(kind).splitlines()
    assert [line for line in launch if line not in script] == []
    assert [line for line in script if line.startswith("#SBATCH")] == [x for x in launch if x.startswith("#SBATCH")]


def test_what_is_told_is_asked_of_sbatch(written: Written):
    script = written(
        "train", "--nodes", "3", "--gpus-per-node", "8", "--cores-per-rank", "12", "--mem-per-core", "3G",
        "--time", "2-12:00:00", "--signal-seconds", "300", "--account", "abc123", "--partition", "long,short",
        "--qos", "high", "--constraint", "[a100|h100]", "--job-name", "net",
        arguments=(*TRAIN, "--scheme", "dp", "--images-per-rank", "24"),
    )  # fmt: skip
    asked = {
        "job-name": "net", "nodes": "3", "ntasks-per-node": "8", "gpus-per-node": "8", "cpus-per-task": "12",
        "mem-per-cpu": "3G", "time": "2-12:00:00", "signal": "B:USR1@300", "account": "abc123",
        "partition": "long,short", "qos": "high", "constraint": "[a100|h100]",
    }  # fmt: skip
    assert {name: value(script, name) for name in asked} == asked
    assert "#SBATCH" not in script[script.index("set -euo pipefail") :], "sbatch reads no line behind the first command"


def test_a_job_without_gpus_asks_for_none(written: Written):
    script = written("train", "--gpus-per-node", "0", "--ranks-per-node", "2")
    assert value(script, "gpus-per-node") == ""
    assert "As many GPUs as ranks" not in script
    assert value(script, "ntasks-per-node") == "2"


def run_written(script: str, path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    file = path / "job.sh"
    file.write_text(script)
    return run(str(file), path=path, srun=ending("exit 3"), **variables)


HOSTILE = ("it's", 'a "b"', "$(touch broken)", "`touch broken`", "a;b", "*", "\\", "--x=$HOME", "# no", "ä")


@needs_environment
@pytest.mark.parametrize("kind", ["prep", "eval"])
def test_arguments_reach_the_command_as_they_were_given(written: Written, kind: str, tmp_path: Path):
    # through the parser as one value that could be any text
    arguments = (*ARGUMENTS[kind], *(("--json", f"{''.join(HOSTILE)}.json") if kind == "eval" else HOSTILE))
    script = written(kind, "--venv", str(tmp_path / "environment"), arguments=arguments)
    launcher = '#!/bin/sh\nfor each; do echo "<$each>"; done\nexit 3\n'
    file = tmp_path / "job.sh"
    file.write_text(script)
    done = run(str(file), path=tmp_path, srun=launcher)
    given = [line[1:-1] for line in done.stdout.splitlines()]
    start = given.index(COMMANDS[kind]) + 1
    assert tuple(given[start : start + len(arguments)]) == arguments
    assert not list(tmp_path.rglob("broken"))
    assert not (REPO_ROOT / "broken").exists()


@needs_environment
def test_the_script_is_told_what_differs_between_clusters(written: Written, tmp_path: Path):
    options = ("--venv", str(tmp_path / "environment"), "--launcher", "pmi2", "--cpu-bind", "map_ldom:3,1")
    done = run_written(written("train", *options), tmp_path, OWT_MPI_LAUNCHER="mpirun", OWT_MPI_NICS="of another job")
    launch = SRUN.replace("pmix", "pmi2").replace("cpu-bind=cores", "cpu-bind=map_ldom:3,1")
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith(f"launched {launch} ")
    assert done.stdout.endswith("-m owt_mpi.train --run-dir runs/first --preset demo --data synthetic --resume auto\n")


@needs_environment
def test_mpirun_has_its_options_and_modules_are_loaded_before_the_environment(written: Written, tmp_path: Path):
    script = written(
        "train", "--venv", str(tmp_path / "environment"), "--launcher", "mpirun", "--mpirun-options=--bind-to core",
        "--modules", "gcc/13", "open mpi;5", "--nics", "a:1", "b:1",
    )  # fmt: skip
    done = run_written(f'module() {{ echo "module <$1> <$2> $unset"; }}\n{script}', tmp_path)
    first, second, launched, *_ = done.stdout.splitlines()  # the command of the cards has two lines
    assert (first, second) == ("module <load> <gcc/13> ", "module <load> <open mpi;5> ")
    assert launched.startswith("launched -n 8 --bind-to core bash -c ")


@pytest.mark.parametrize(
    ("kind", "options", "arguments", "message"),
    [
        ("train", ("--time", "1:2:3:4"), TRAIN, "--time 1:2:3:4 is no time of SLURM's: MINUTES, HOURS:MINUTES:SECONDS"),
        ("train", ("--time", "24:90:00"), TRAIN, "--time 24:90:00 has more than 59 minutes or seconds behind a colon"),
        ("train", ("--time", "0"), TRAIN, "--time 0 is none, which SLURM takes for no limit"),
        ("train", ("--time", "3"), TRAIN, "--time 3 is too short for a training that is told to stop 90 s before"),
        ("train", ("--nodes", "-1"), TRAIN, "--nodes is -1, but must be at least 0"),
        ("train", ("--account", "a b"), TRAIN, "--account 'a b' is none: SLURM's have no spaces"),
        ("train", ("--account", "a\n#SBATCH --uid=0"), TRAIN, "has characters in it that cannot be printed"),
        ("train", (), ("runs/a\nreboot",), "has characters in it that cannot be printed"),
        ("train", ("--mem-per-core", "4 GB"), TRAIN, "--mem-per-core 4 GB is no size of memory; write 4G or 4000M"),
        ("train", ("--mpirun-options=-v",), TRAIN, "--mpirun-options are for --launcher mpirun, not for pmix"),
        ("train", ("--gpus-per-node", "0"), TRAIN, "--ranks-per-node says how many ranks a node runs"),
        ("train", ("--ranks-per-node", "8"), TRAIN, "8 ranks on a node that has 4 GPUs: two ranks on one GPU"),
        ("prep", ("--gpus-per-node", "4"), PREP, "prep needs no GPU"),
        ("eval", ("--nics", "a:1"), EVAL, "--nics is for train, not for eval"),
        ("train", (), (), "train needs after -- the run's folder"),
        ("train", (), ("--preset", "demo"), "train needs after -- the run's folder"),
        ("prep", (), ("images",), "prep needs after -- the source and the folder to write"),
        ("eval", (), (), "eval needs after -- a checkpoint or a run's folder"),
        ("train", ("--nodes", "4"), (*TRAIN, "--images-per-rank", "10"), "needs images-per-rank divisible by the 16"),
        ("train", ("--nodes", "4"), (*TRAIN, "--global-batch", "100"), "100"),
        ("train", (), (*TRAIN, "--synthetic-classes", "10"), "splits the 10 units of head.fc4 over 8 ranks"),
        ("eval", (), (*EVAL, "--worst", "-1"), "--worst is -1, but must be at least 0"),
    ],
)  # fmt: skip
def test_what_would_not_start_is_not_written(
    slurm: Slurm, kind: str, options: tuple[str, ...], arguments: tuple[str, ...], message: str
):
    done = slurm(kind, *options, arguments=arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_option_of_the_training_is_not_written(slurm: Slurm):
    done = slurm("train", arguments=(*TRAIN, "--no-such-option"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "no-such-option" in done.stderr


def test_data_that_only_the_job_sees_are_no_error_but_said(slurm: Slurm):
    done = slurm("train", arguments=("runs/first", "--preset", "demo", "--data", "/scratch/of/the/cluster"))
    assert done.returncode == 0
    assert done.stderr == (
        "note: /scratch/of/the/cluster is not to be seen from here: the number of its classes was not looked at\n"
    )


def test_a_file_that_is_there_is_kept(slurm: Slurm, written: Written, tmp_path: Path):
    file = tmp_path / "job.sh"
    assert slurm("eval", "--out", str(file)).stdout == ""
    text = file.read_text()
    assert text == written("eval").replace("slurm eval --", f"slurm eval --out {file} --", 1)
    done = slurm("train", "--out", str(file))
    assert (done.returncode, file.read_text()) == (2, text)
    assert f"--out {file} is there already" in done.stderr


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("90:30", 5430), ("2:00:30", 7230), ("1-12", 129600), ("1-12:30", 131400), ("1-0:0:5", 86405)],
)
def test_times_are_read_as_slurm_reads_them(time: str, seconds: int):
    assert seconds_of(time) == seconds
