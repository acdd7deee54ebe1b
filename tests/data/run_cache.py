"""Fill a cache on every rank and print what each sees of it; rank 0 also what is left of its name."""

import json
import os
import sys

import numpy as np

from owt_mpi.comm.guard import run_command
from owt_mpi.comm.mpi import world
from owt_mpi.data.cache import NAME, SHARED_MEMORY, keep_in_memory

PARTS = [np.arange(7 * 5, dtype=np.uint8).reshape(7, 5), np.full(9000, 77, np.uint8), np.full((3, 2), 5, np.uint8)]


def main() -> int:
    comm = world()
    cached = keep_in_memory(PARTS, int(sys.argv[1]), comm.split_by_node("node"))
    equal = all(np.array_equal(part, kept) for part, kept in zip(PARTS, cached.parts, strict=False))
    with open("/proc/self/maps", encoding="ascii") as maps:
        inodes = sorted({line.split()[4] for line in maps if NAME in line and "(deleted)" in line})
    left = [path.name for path in SHARED_MEMORY.glob(f"{NAME}{os.getpid()}-*")]
    print(json.dumps({"count": len(cached.parts), "equal": equal, "inodes": inodes, "left": left,
                      "said": cached.description}))  # fmt: skip
    return 0


if __name__ == "__main__":
    run_command(main)
