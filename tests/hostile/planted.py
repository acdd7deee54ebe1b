"""Inputs that do what must not be, for the test of the fuzzer itself."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np

from owt_mpi.data.manifest import DataError
from tests.hostile.kinds import Kind, Use


def _sound(folder: Path) -> None:
    (folder / "does").write_text("nothing")


def _does(what: str) -> Kind:
    def mutate(rng: Random, copy: Path, canary: Path) -> str:
        (copy / "does").write_text(what)
        return what

    return Kind(what, _sound, mutate, _uses)


def _uses(copy: Path, sound: Path) -> Iterator[Use]:
    yield Use("does", lambda: _do((copy / "does").read_text()))


def _do(what: str) -> None:
    if what == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "hangs":
        threading.Event().wait()
    elif what == "exits":
        os._exit(3)
    elif what == "takes memory":
        np.ones(1 << 29, np.uint8)
    elif what == "raises":
        {}["key"]
    elif what == "refuses in two lines":
        raise DataError("a\nb")
    elif what == "refuses":
        raise DataError("a")


FAILING = ("crashes", "hangs", "exits", "takes memory", "raises", "refuses in two lines")
KINDS = tuple(_does(what) for what in (*FAILING, "refuses", "nothing"))
