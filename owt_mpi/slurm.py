"""Write a batch script for SLURM: `python -m owt_mpi.slurm train --nodes 4 --time 24:00:00 -- runs/first ...`."""

import shlex
import sys
from pathlib import Path

from owt_mpi.batch.check import check_training
from owt_mpi.batch.options import BatchOptions
from owt_mpi.batch.script import number_of_ranks, write_script
from owt_mpi.comm.guard import run_command
from owt_mpi.command_line import parse_options, usage_errors
from owt_mpi.evaluation.options import EvaluateOptions
from owt_mpi.train import parse as parse_training

COMMAND = "python -m owt_mpi.slurm"
DESCRIPTION = """Write a batch script for SLURM, from that of launch/ for the same purpose, and print it.

What comes after -- are the arguments of the job: of train its run's folder and options of owt_mpi.train, of prep the
source, the folder to write and options of data_prep.build_shards, of eval a checkpoint and options of
owt_mpi.evaluate. They are looked at here, so that a job does not wait in the queue to be refused.

Examples:
  python -m owt_mpi.slurm train --nodes 4 --gpus-per-node 4 --time 24:00:00 --account abc123 --out train.sh \\
      -- runs/first --preset alexnet-owt --head-group-size 8 --data /scratch/me/imagenet
  python -m owt_mpi.slurm prep --launcher mpirun --modules openmpi/5.0 -- /data/ILSVRC2012 /scratch/me/imagenet
  python -m owt_mpi.slurm eval --gpus-per-node 0 --ranks-per-node 2 -- runs/first --views 10 --json scores.json"""
NEEDED = {
    "train": "the run's folder, then options of owt_mpi.train",
    "prep": "the source and the folder to write, then options of data_prep.build_shards",
    "eval": "a checkpoint or a run's folder, then options of owt_mpi.evaluate",
}


def main() -> int:
    """Parse the command line, write the script, and return the exit code."""
    own, arguments = _divided(sys.argv[1:])
    with usage_errors():
        _check_plain(sys.argv[1:])
        options = parse_options(BatchOptions(), own, COMMAND, DESCRIPTION)
        options.check()
        num_ranks = number_of_ranks(options)
        _check_arguments(options.kind, arguments, num_ranks)
        script = write_script(options, arguments, shlex.join(["python", "-m", "owt_mpi.slurm", *sys.argv[1:]]))
        if options.out:
            _write(Path(options.out), script)
    if not options.out:
        print(script, end="")
    return 0


def _divided(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before the first "--", and those after it."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def _check_plain(words: list[str]) -> None:
    """Raise ValueError if a word would not stay in its line of the script."""
    for word in words:
        if not word.isprintable():
            raise ValueError(f"{word!r} has characters in it that cannot be printed, such as the end of a line")


def _check_arguments(kind: str, arguments: list[str], num_ranks: int) -> None:
    """Raise ValueError, or CollectiveExit as the job's command does, if a job of so many ranks would not start."""
    needed = 2 if kind == "prep" else 1
    if len(arguments) < needed or any(word.startswith("-") for word in arguments[:needed]):
        raise ValueError(f"{kind} needs after -- {NEEDED[kind]}")
    if kind == "train":
        config = parse_training(["--run-dir", arguments[0], *arguments[1:], "--resume", "auto"])
        if left_out := check_training(config, num_ranks):
            print(f"note: {left_out}", file=sys.stderr)
    if kind == "eval":
        parse_options(EvaluateOptions(), arguments, "python -m owt_mpi.evaluate", "").check()


def _write(path: Path, script: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(script)
    except FileExistsError:
        raise ValueError(f"--out {path} is there already; remove it, or choose another name") from None
    except OSError as error:
        raise ValueError(f"--out {path} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    run_command(main)
