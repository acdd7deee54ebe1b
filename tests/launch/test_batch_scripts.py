"""The batch scripts do what their lines say; `srun` is a stand-in that runs what it is given as one rank."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from owt_mpi.data.manifest import Manifest
from tests.data_prep.conftest import class_folders, png
from tests.mpi_run import REPO_ROOT

SCRIPTS = sorted((REPO_ROOT / "launch").glob("*.sbatch"))
FAKE_SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do echo "srun option $1"; shift; done
exec "$@"
"""
# what SLURM does to the script of a job that is requeued
FAKE_SCONTROL = """#!/bin/sh
echo "scontrol $*"
kill $PPID
"""


def run(
    script: str, *arguments: str, path: Path, srun: str = FAKE_SRUN, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a batch script as SLURM would, from another folder."""
    programs = path / "bin"
    programs.mkdir()
    for name, text in (("srun", srun), ("mpirun", srun), ("scontrol", FAKE_SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    activate = path / "environment" / "bin" / "activate"
    activate.parent.mkdir(parents=True)  # which would put its own mpirun first
    activate.write_text(f"source {sys.prefix}/bin/activate\nPATH={programs}:$PATH\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "OMPI", "SLURM"))}
    env |= {
        "SLURM_SUBMIT_DIR": str(REPO_ROOT), "SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "3",
        "OWT_MPI_VENV": str(path / "environment"),
    }  # fmt: skip
    return subprocess.run(
        ["bash", str(REPO_ROOT / "launch" / script), *arguments],
        cwd=path, env=env | variables, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_line_of_a_batch_script_is_explained(script: Path):
    lines = script.read_text(encoding="utf-8").splitlines()
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    for before, line in pairwise(lines):
        if line.startswith("#SBATCH"):
            assert before.startswith(("# ", "#SBATCH")), f"{line!r} comes without a word"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of four images, which are not at the same place as the script."""
    images = {f"{number}.png": png(number) for number in range(4)}
    return class_folders({"ant": images, "bee": images}, tmp_path / "photographs")


needs_environment = pytest.mark.skipif(
    not Path(sys.prefix, "bin", "activate").exists(), reason="the tests do not run in a virtual environment"
)


@needs_environment
def test_the_preparation_builds_shards_and_verifies_them(photographs: Path, tmp_path: Path):
    out = tmp_path / "shards"
    done = run("prep.sbatch", str(photographs), str(out), "--size", "16", "--val-fraction", "0.25", path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "srun option --mpi=pmix" in done.stdout
    assert "srun option --kill-on-bad-exit=1" in done.stdout
    assert "srun option --cpus-per-task=3" in done.stdout, "srun does not take it from the job"
    assert Manifest.read(out).splits["train"].count == 6
    assert done.stdout.splitlines()[-1].endswith("shards: sound")


@needs_environment
def test_the_other_way_for_ranks_to_meet_is_a_variable(photographs: Path, tmp_path: Path):
    arguments = (str(photographs), str(tmp_path / "shards"), "--size", "16")
    done = run("prep.sbatch", *arguments, path=tmp_path, OWT_MPI_SRUN_MPI="pmi2")
    assert done.returncode == 0, done.stderr
    assert "srun option --mpi=pmi2" in done.stdout


@needs_environment
def test_a_preparation_without_its_folders_says_how_it_is_called(tmp_path: Path):
    done = run("prep.sbatch", "somewhere", path=tmp_path)
    assert (done.returncode, done.stderr) == (
        2, "usage: sbatch launch/prep.sbatch SOURCE OUT [options of data_prep.build_shards]\n",
    )  # fmt: skip


PYTHON = f"{sys.prefix}/bin/python"
SRUN = "--mpi=pmix --cpus-per-task=3 --cpu-bind=cores --distribution=block:block --kill-on-bad-exit=1"


def train(path: Path, srun: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the batch script of training, with its run in `path`."""
    return run("train.sbatch", str(path / "run"), "--preset", "demo", *options, path=path, srun=srun, **variables)


def command(path: Path) -> str:
    return f"{PYTHON} -m owt_mpi.train --run-dir {path}/run --preset demo --resume auto"


def ending(command: str) -> str:
    """Return a launcher that prints what it is given, then does `command`."""
    return f'#!/bin/sh\necho "launched $*"\n{command}\n'


def trains(path: Path) -> str:
    """Return a launcher that prints what it is given and where OpenMP may bind threads, and leaves weights."""
    return ending(f'echo "places ${{OMP_PLACES-unset}}"; mkdir -p {path}/run; touch {path}/run/weights.h5')


@needs_environment
def test_the_training_is_started_with_its_folder_and_goes_on_from_there(tmp_path: Path):
    done = train(tmp_path, trains(tmp_path), OMP_PLACES="cores")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"launched {SRUN} --wait=60 {command(tmp_path)}\nplaces unset\n"


@needs_environment
def test_mpirun_is_the_other_launcher(tmp_path: Path):
    variables = {"OWT_MPI_LAUNCHER": "mpirun", "OWT_MPI_MPIRUN_OPTIONS": "--bind-to core"}
    done = train(tmp_path, trains(tmp_path), **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"launched -n 8 --bind-to core {command(tmp_path)}\n")


@needs_environment
@pytest.mark.parametrize(
    ("variables", "card"),
    [
        ({"SLURM_LOCALID": "0"}, "mlx5_0:1"),
        ({"SLURM_LOCALID": "3"}, "mlx5_1:1"),
        ({"MPI_LOCALRANKID": "1", "SLURM_LOCALID": "0"}, "mlx5_1:1"),  # mpirun inside sbatch
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, "mlx5_1:1"),
    ],
)
def test_ranks_are_given_network_cards_by_their_numbers_on_the_node(
    tmp_path: Path, variables: dict[str, str], card: str
):
    given = " ".join(f"{name}={value}" for name, value in variables.items())
    srun = f"""#!/bin/sh
while [ "${{1#--}}" != "$1" ]; do shift; done
shell=$1 option=$2 text=$3 name=$4; shift 4
exec env {given} "$shell" "$option" "$text" "$name" sh -c 'echo "card $UCX_NET_DEVICES for $*"' sh "$@"
"""
    done = train(tmp_path, srun, OWT_MPI_NICS="mlx5_0:1 mlx5_1:1")
    assert done.stdout == f"card {card} for {command(tmp_path)}\n"


@needs_environment
def test_a_launcher_that_ends_well_without_having_trained_has_failed(tmp_path: Path):
    """As srun does with "task launch failed"."""
    done = train(tmp_path, ending("exit 0"))
    assert done.returncode == 1
    assert "error: the launcher ended with code 0, but nothing was trained; see above" in done.stderr


@needs_environment
def test_weights_of_an_earlier_training_do_not_do(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights.h5").touch()
    assert train(tmp_path, ending("exit 0")).returncode == 1


@needs_environment
def test_a_dry_run_needs_no_weights(tmp_path: Path):
    assert train(tmp_path, ending("exit 0"), "--dry-run").returncode == 0


@needs_environment
@pytest.mark.parametrize(
    ("command", "again"),
    [
        ("exit 85", True),
        ("exit 1", False),
        ("kill -KILL $$", False),
        ("kill -USR1 $PPID; exec sleep 60", True),  # which the signal ends, as it does ranks that cannot listen yet
        ("trap 'exit 85' USR1; kill -USR1 $PPID; while :; do :; done", True),
        ("trap 'exit 1' USR1; kill -USR1 $PPID; while :; do :; done", False),
        ("trap 'trap \"exit 9\" USR1; kill -USR1 $PPID; sleep 1; exit 85' USR1; kill -USR1 $PPID; while :; do :; done",
         True),
    ],
    ids=["stopped", "failed", "killed", "signalled too early", "signalled", "failed when signalled", "signalled twice"],
)  # fmt: skip
def test_a_training_that_was_stopped_is_submitted_again_and_no_other(tmp_path: Path, command: str, again: bool):
    done = train(tmp_path, ending(command))
    assert done.returncode != 0
    assert ("scontrol requeue 7" in done.stdout) == again, done.stderr


RECORD = '{"kind": "end", "seconds": 2.5, "step": 5, "how": "%s", "why": ""}'


@needs_environment
@pytest.mark.parametrize(
    ("how", "code", "again"),
    [("stopped", 143, True), ("failed", 143, False), ("stopped", 1, False), (None, 143, False)],
    ids=["stopped", "failed", "stopped, but failed after", "stopped before"],
)
def test_ranks_that_srun_ends_when_the_first_has_stopped_are_known_by_the_record(
    tmp_path: Path, how: str | None, code: int, again: bool
):
    """As after a signal to the ranks alone, of which the script hears nothing."""
    (tmp_path / "run").mkdir()
    records = tmp_path / "run" / "metrics.jsonl"
    records.write_text(RECORD % "stopped" + "\n")
    record = f"echo '{RECORD.replace('2.5', '3.5') % how}' >>{records}; " if how else ""
    done = train(tmp_path, ending(f"{record}exit {code}"))
    assert done.returncode != 0
    assert ("scontrol requeue 7" in done.stdout) == again, done.stderr


@needs_environment
@pytest.mark.parametrize("arguments", [(), ("--preset", "demo")], ids=["nothing", "options"])
def test_a_training_without_its_folder_says_how_it_is_called(tmp_path: Path, arguments: tuple[str, ...]):
    done = run("train.sbatch", *arguments, path=tmp_path)
    usage = "usage: sbatch launch/train.sbatch RUN_DIR [options of owt_mpi.train]\n"
    assert (done.returncode, done.stderr) == (2, usage)


@needs_environment
def test_an_unknown_launcher_is_refused(tmp_path: Path):
    """By all three scripts."""
    refused = (2, "error: OWT_MPI_LAUNCHER=jsrun is neither srun nor mpirun\n")
    for number, call in enumerate((("train.sbatch", "run"), ("eval.sbatch", "run"), ("prep.sbatch", "images", "out"))):
        path = tmp_path / str(number)
        path.mkdir()
        done = run(*call, path=path, OWT_MPI_LAUNCHER="jsrun")
        assert (done.returncode, done.stderr) == refused


@needs_environment
@pytest.mark.parametrize(
    ("variables", "launch"), [({}, SRUN), ({"OWT_MPI_LAUNCHER": "mpirun"}, "-n 8")], ids=["srun", "mpirun"]
)
def test_the_evaluation_is_given_its_arguments(tmp_path: Path, variables: dict[str, str], launch: str):
    done = run("eval.sbatch", "runs/one", "--views", "10", path=tmp_path, srun=ending("exit 3"), **variables)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == f"launched {launch} {PYTHON} -m owt_mpi.evaluate runs/one --views 10\n"


@needs_environment
@pytest.mark.parametrize("arguments", [(), ("--views", "10")], ids=["nothing", "options"])
def test_an_evaluation_of_nothing_says_how_it_is_called(tmp_path: Path, arguments: tuple[str, ...]):
    done = run("eval.sbatch", *arguments, path=tmp_path)
    usage = "usage: sbatch launch/eval.sbatch CHECKPOINT [options of owt_mpi.evaluate]\n"
    assert (done.returncode, done.stderr) == (2, usage)
