"""Train a network: `mpirun -n K python -m owt_mpi.train --preset demo --data DIR`."""

import sys
from dataclasses import replace

from owt_mpi.comm.guard import run_command
from owt_mpi.comm.start import on_ranks
from owt_mpi.command_line import parse_options, usage_errors
from owt_mpi.config import Config
from owt_mpi.preset_files import load_preset, preset_names, with_one_batch
from owt_mpi.training.run import run_training
from owt_mpi.training.stopping import heeding_signals

DESCRIPTION = """Train a convolutional network on many ranks: data parallelism in its convolutional trunk, model
parallelism in its fully connected head.

Examples:
  python -m data_prep.build_shards IMAGES shards
  mpirun -n 2 python -m owt_mpi.train --preset demo --data shards
  mpirun -n 8 python -m owt_mpi.train --preset alexnet-owt --data shards --dry-run

Presets: {presets}."""


def main() -> int:
    """Parse the command line, train, and return the exit code."""
    config = parse(sys.argv[1:])
    with heeding_signals(config.run.max_minutes):
        on_ranks(config.parallel.virtual_ranks, lambda world, sharing: run_training(config, world, sharing))
    return 0


def parse(arguments: list[str]) -> Config:
    """Return the configuration that the arguments give. CollectiveExit, with a message on rank 0, if they are wrong."""
    with usage_errors():
        preset = _preset_of(arguments)
        default = load_preset(preset) if preset else Config()
        given = {argument.split("=")[0].removeprefix("--").replace("-", "_") for argument in arguments}
        default = replace(default, batch=with_one_batch(default.batch, given))
        description = DESCRIPTION.format(presets=", ".join(preset_names()))
        config = parse_options(default, arguments, "python -m owt_mpi.train", description)
        config.check()
    return config


def _preset_of(arguments: list[str]) -> str:
    """Return the value of --preset, "" without one: it gives the defaults, so it is read before the other options."""
    for position, argument in enumerate(arguments):
        if argument == "--preset" and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith("--preset="):
            return argument.removeprefix("--preset=")
    return ""


if __name__ == "__main__":
    run_command(main)
