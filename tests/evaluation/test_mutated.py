"""Thousands of mutated files: each is read or refused in one line, in little memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.mpi_run import ONE_THREAD, REPO_ROOT

NUM_MUTATED = 2500


def test_mutated_files_are_read_or_refused_in_little_memory(tmp_path: Path):
    command = [sys.executable, "-m", "tests.evaluation.run_mutated", str(tmp_path), str(NUM_MUTATED)]
    env = {**os.environ, **ONE_THREAD}
    done = subprocess.run(command, cwd=REPO_ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    told = re.fullmatch(r"(\d+) read, (\d+) refused\n", done.stdout)
    assert told is not None
    assert min(int(told[1]), int(told[2])) > 100, "there is one outcome only"
