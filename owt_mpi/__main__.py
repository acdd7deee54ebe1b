"""List the commands: `python -m owt_mpi`."""

from owt_mpi import __version__

COMMANDS = {
    "python -m data_prep.build_shards SOURCE OUT": "turn images (class folders, tars of class tars) into HDF5 shards",
    "mpirun -n K python -m owt_mpi.train --preset NAME --data DIR": "train a network on K ranks",
    "python -m owt_mpi.plan --ranks K --cluster NAME": "say how to train on K ranks, how long, how much memory",
    "mpirun -n K python -m owt_mpi.prove --model NAME": "show that K ranks train the network that one rank trains",
}


def main() -> None:
    """Print each command and what it does."""
    print(f"owt_mpi {__version__}. The commands, each with --help:\n")
    for command, purpose in COMMANDS.items():
        print(f"  {command}\n      {purpose}")


if __name__ == "__main__":
    main()
