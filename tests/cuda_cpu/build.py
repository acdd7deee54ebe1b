"""Compiling kernels with g++, once per text and options, into a folder outside the source tree."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

HEADER = Path(__file__).with_name("cuda_cpu.h")
SANITIZE_VARIABLE = "OWT_MPI_CUDA_CPU_SANITIZE"  # set by sanitized.py for the process that it starts

FLAGS = (
    *("-x", "c++", "-std=c++17", "-shared", "-fPIC", "-O1", "-g1", "-ffp-contract=off", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"),
)
SANITIZERS = (
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "-fno-omit-frame-pointer",
)


SHARED = re.compile(r"(__shared__[^;]*?(\w+)\s*(?:\[[^;]*\])?\s*;)")
SPOILT = r"\1 static cuda_cpu::SharedMemory \2_spoilt; \2_spoilt.declare(&\2, sizeof \2);"


class BuildError(RuntimeError):
    """g++ does not accept a kernel."""


@functools.cache
def why_unavailable() -> str | None:
    """Return why kernels cannot be compiled here, or None."""
    return None if shutil.which("g++") else "kernels run on the CPU by way of g++, which is not installed"


def build(code: str, options: tuple[str, ...], kernels: list[str]) -> Path:
    """Return the shared library of `code`, compiled unless some process has compiled it before.

    Built under a name of its own and then renamed, so that processes that build the same at once do not meet.
    """
    sanitize = SANITIZERS if os.environ.get(SANITIZE_VARIABLE) else ()
    fibres = int("__syncthreads" in code)
    command = ["g++", *FLAGS, *sanitize, f"-DCUDA_CPU_FIBRES={fibres}", *options]
    exports = "".join(f"CUDA_CPU_EXPORT({kernel})\n" for kernel in kernels)
    text = f'#include "{HEADER}"\n#line 1 "kernels.cu"\n{SHARED.sub(SPOILT, code)}\n{exports}'
    digest = hashlib.sha256("\0".join([*command, HEADER.read_text(), text]).encode()).hexdigest()
    library = _folder() / f"{digest[:24]}.so"
    if library.exists():
        return library
    handle, unfinished = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    result = subprocess.run([*command, "-o", unfinished, "-"], input=text, text=True, capture_output=True, check=False)
    if result.returncode:
        os.unlink(unfinished)
        raise BuildError(f"{' '.join(command)} fails:\n{result.stderr}")
    os.replace(unfinished, library)
    return library


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"owt_mpi-cuda_cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise BuildError(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
    return folder
