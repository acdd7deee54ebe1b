"""One process that hands mutated inputs to the program, under limits: what kills it is known by the input under way.

Says what happens as lines of JSON on its standard output, which the program tested cannot reach.
"""

import argparse
import faulthandler
import json
import os
import resource
import shutil
import sys
import time
import traceback
from pathlib import Path
from random import Random
from typing import Any

from tests.hostile.hdf5_mutations import write_canary
from tests.hostile.kinds import COPY, ELSEWHERE, MODULES, SOUND, Kind, kinds_in
from tests.hostile.verdicts import Failure, refusal_of

_MIB = 1 << 20
_LARGEST_FILE = 1 << 33


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", help="one, or with --build several")
    parser.add_argument("--modules", nargs="+", default=MODULES, help="that define the kinds")
    parser.add_argument("--folder", type=Path, required=True, help="gets a folder for each kind")
    parser.add_argument("--build", action="store_true", help="write the sound inputs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", default="", help="numbers of the first and of the one behind the last, as 0:100")
    parser.add_argument("--memory-mib", type=int, default=1024)
    arguments = parser.parse_args()
    kinds = [kinds_in(arguments.modules)[name] for name in arguments.kinds]
    if arguments.build:
        build(kinds, arguments.folder.absolute())
    else:
        first, stop = map(int, arguments.inputs.split(":"))
        for kind in kinds:
            _work(kind, folder_of(arguments.folder.absolute(), kind.name), range(first, stop), arguments)


def build(kinds: list[Kind], folder: Path) -> None:
    """Write the sound inputs of all kinds; kinds that are made from the same have it once."""
    built: dict[Any, Path] = {}
    for kind in kinds:
        sound = folder_of(folder, kind.name) / SOUND
        sound.parent.mkdir(parents=True)
        if kind.build in built:
            sound.symlink_to(built[kind.build])
        else:
            sound.mkdir()
            kind.build(sound)
            built[kind.build] = sound


def folder_of(folder: Path, kind: str) -> Path:
    """Return the folder of a kind."""
    return folder / "".join(letter if letter.isalnum() else "-" for letter in kind)


def _work(kind: Kind, folder: Path, numbers: range, arguments: argparse.Namespace) -> None:
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.enable()
    os.fsync = lambda descriptor: None  # nothing here is to survive a power cut
    _limit(kind, folder, arguments.memory_mib)
    for number in numbers:
        print(json.dumps({"begins": number}), file=told)
        said = _try(kind, folder, arguments.seed, number)
        if said["verdict"] == "failure":
            (folder / COPY).rename(kept_at(folder, number))
        print(json.dumps(said), file=told)


def kept_at(folder: Path, number: int) -> Path:
    """Return where input `number` is kept if it fails."""
    return folder / f"failed-{number}"


def _limit(kind: Kind, folder: Path, memory_mib: int) -> None:
    """Use the sound input once, which loads what there is to load, and then limit memory to so much more."""
    copy = _copy(folder)
    for use in kind.uses(copy, folder / SOUND):
        message = refusal_of(use.entry, use.codes)
        assert message is None, f"the sound input is refused by {use.name}: {message}"
    for limit, value in (
        (resource.RLIMIT_DATA, _status("VmData") + memory_mib * _MIB),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _try(kind: Kind, folder: Path, seed: int, number: int) -> dict[str, Any]:
    """Return what becomes of input `number`."""
    copy = _copy(folder)
    said: dict[str, Any] = {"number": number, "verdict": "harmless", "mutation": "", "refusals": {}}
    said["mutation"] = kind.mutate(Random(f"{seed}/{kind.name}/{number}"), copy, folder / ELSEWHERE / "canary.h5")
    before, start = _reset_peak(), time.perf_counter()
    try:
        for use in kind.uses(copy, folder / SOUND):
            said["use"] = use.name
            message = refusal_of(use.entry, use.codes)
            if message is not None:
                said["verdict"] = "refused"
                said["refusals"][use.name] = message.replace(str(copy), "")
    except Failure as failure:
        said.update(verdict="failure", why=str(failure)[:1000], traceback=_traceback(failure.__cause__))
    except BaseException as error:
        said.update(verdict="failure", why=f"{type(error).__name__}: {error}"[:1000], traceback=_traceback(error))
    said.update(seconds=time.perf_counter() - start, mib=max(_status("VmHWM") - before, 0) / _MIB)
    return said


def _copy(folder: Path) -> Path:
    """Return a new copy of the sound input, with nothing of the one before beside it."""
    for name in (COPY, ELSEWHERE):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(folder / SOUND, folder / COPY, symlinks=True)
    (folder / ELSEWHERE).mkdir()
    write_canary(folder / ELSEWHERE / "canary.h5")
    os.chdir(folder / ELSEWHERE)
    return folder / COPY


def _traceback(error: BaseException | None) -> str:
    if error is None:
        return ""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))[-3000:]


def _reset_peak() -> int:
    """Begin to measure the peak of this process's memory anew; return what it is now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM")


def _status(name: str) -> int:
    """Return a figure of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main()
