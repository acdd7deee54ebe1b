"""The moments at which a build may be killed: whenever it is about to change a file, or amid writing one."""

import os
import sys
from collections.abc import Callable
from typing import Any

from owt_mpi.data import shard_writer


def watch_writes(tick: Callable[[], object]) -> None:
    """Call `tick` before whatever changes a file is done, and amid every write of a shard; for good in this process."""
    audited = {"os.rename", "os.remove", "os.mkdir"}

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in audited or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE):
            tick()

    sys.addaudithook(audit)
    write_all, fsync = shard_writer._write_all, os.fsync

    def half_then_all(file: Any, content: memoryview) -> None:
        write_all(file, content[: len(content) // 2])
        tick()
        write_all(file, content[len(content) // 2 :])

    def ticking_fsync(descriptor: int) -> None:
        tick()
        fsync(descriptor)

    shard_writer._write_all = half_then_all  # type: ignore[assignment]
    os.fsync = ticking_fsync  # type: ignore[assignment]
