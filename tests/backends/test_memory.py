"""Freed arrays stay with the process, in one of its own: the setting is for good."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
import numpy as np
from owt_mpi.backends.memory import keep_freed_memory
from owt_mpi.backends.select import select_backend

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "selected":
    select_backend("reference", "float32")
elif sys.argv[1] == "kept":
    keep_freed_memory()
array = np.ones(2**26, np.uint8)
full = resident()
del array
print(full - resident())
"""


@pytest.mark.parametrize(("setting", "returned"), [("default", 2**26), ("kept", 0), ("selected", 0)])
def test_freed_memory_is_returned_unless_it_is_kept(setting: str, returned: int):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, setting], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == pytest.approx(returned, abs=2**24)
