"""Running Python with kernels compiled under AddressSanitizer and UndefinedBehaviorSanitizer."""

import functools
import os
import subprocess
import sys
from pathlib import Path

from tests.cuda_cpu.build import SANITIZE_VARIABLE, why_unavailable


@functools.cache
def why_no_sanitizers() -> str | None:
    """Return why kernels cannot be run under the sanitizers here, or None."""
    return why_unavailable() or (None if _runtime().exists() else "g++ comes without libasan.so here")


def run_sanitized(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python arguments` in a process of its own, where a kernel's first bad access or undefined step is its end.

    Python itself is not compiled for AddressSanitizer, so its runtime must be loaded before everything else.
    """
    environment = {
        **os.environ,
        SANITIZE_VARIABLE: "1",
        "LD_PRELOAD": str(_runtime()),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own, at exit
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    return subprocess.run(
        [sys.executable, *arguments], env=environment, text=True, capture_output=True, check=False, timeout=280
    )


def _runtime() -> Path:
    command = ["g++", "-print-file-name=libasan.so"]
    return Path(subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()).resolve()
