"""Reading training images: ours beside bare copies, bare decoding and PyTorch's, on the same photographs and cores.

`python -m benchmarks.loader PHOTOS`, any source that build_shards takes; --help lists the options.
"""

import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import tyro

from benchmarks.contestant import Command, Contestant, take_turns
from benchmarks.loader_data import write_class_folders, write_web_tar
from benchmarks.machine import machine
from data_prep.build_shards import build
from data_prep.options import Options as BuildOptions
from owt_mpi.backends.threads import usable_cores
from owt_mpi.tables import Table, render

QUIET_LOAD = 0.7  # below it, no other program takes a core


@dataclass(frozen=True)
class Options:
    """What to measure."""

    photos: Annotated[Path, tyro.conf.arg(metavar="PHOTOS")]
    """Folder or archive of photographs, as build_shards takes it."""
    threads: int = 0
    """Threads that decode, and PyTorch's worker processes; 0: the cores that this command may use."""
    images: int = 1000
    """Images a round, the photographs over and over."""
    batch: int = 100
    """Images of a batch."""
    size: int = 256
    """Side of the stored images, except where the original files are stored."""
    crop: int = 224
    """Side of what the network would see."""
    repeats: int = 5
    """Rounds measured, in which all take turns, after one that is not."""
    markdown: bool = False
    """Print the tables as Markdown."""
    json: Path | None = None
    """Also write the rows to this file."""


@dataclass(frozen=True)
class Row:
    """One contestant; `ratio` is its median speed in relation to that of `against`, "" where it is what others meet."""

    stored: str
    what: str
    threads: int
    images_per_second: float
    slowest: float
    fastest: float
    ratio: float | None
    against: str


@dataclass(frozen=True)
class Entry:
    """A contestant: its table, its name there, the worker that it is, and what it is compared with."""

    stored: str
    what: str
    module: str
    arguments: tuple[str, ...]
    threads: int
    against: str = ""


def main() -> None:
    options = tyro.cli(
        Options, prog="python -m benchmarks.loader", description=__doc__, config=(tyro.conf.PositionalRequiredArgs,)
    )
    for name in ("images", "batch", "repeats"):
        if getattr(options, name) < 1:
            sys.exit(f"error: --{name} is {getattr(options, name)}, but must be at least 1")
    if options.images % options.batch:
        sys.exit(f"error: --images {options.images} are no whole number of batches of {options.batch}; change one")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        entries = prepare(options, Path(folder))
        rows, about = measure(options, entries)
    about |= {"machine": machine(), "python": platform.python_version(), "load at the start": f"{load:.2f}"}
    if load > QUIET_LOAD:
        about["careful"] = "other programs were running: repeat this on a quiet machine"
    absent = [name for name in ("torchvision", "webdataset") if importlib.util.find_spec(name) is None]
    if absent:
        about["not measured"] = f"{' and '.join(absent)}: not installed here"
    for stored in dict.fromkeys(row.stored for row in rows):
        print(render(table([row for row in rows if row.stored == stored], options), options.markdown))
    for name, value in about.items():
        print(f"{name}: {value}")
    if options.json is not None:
        content = {"rows": [asdict(row) for row in rows], "repeats": options.repeats, **about}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def prepare(options: Options, folder: Path) -> list[Entry]:
    """Write the photographs into `folder` in all forms and return who reads them."""
    threads = options.threads or usable_cores()
    whole = {"raw": "raw", "jpeg": "jpeg", "original": "jpeg"}
    for name, storage in whole.items():
        size = None if name == "original" else options.size
        build(BuildOptions(options.photos, folder / name, storage=storage, size=size, keep_original=name == "original",
                           on_error="skip"))  # fmt: skip
    for name in ("jpeg", "original"):
        write_class_folders(folder / name, folder / f"{name}-files")
        write_web_tar(folder / name, folder / f"{name}.tar")
    entries = []
    pixels = f"pixels, {options.size}x{options.size}"
    for what, thread_count, against in (
        ("memcpy", 1, ""), ("ours, bytes", 1, "memcpy"), ("ours, Loader", 1, ""),
    ):  # fmt: skip
        entries.append(_ours(pixels, what, folder / "raw", thread_count, against))
    for name, stored in (("jpeg", f"JPEG, {options.size}x{options.size}"), ("original", "original files")):
        entries.append(_ours(stored, "bare decode", folder / name, threads, ""))
        entries.append(_ours(stored, "ours, bytes", folder / name, threads, "bare decode"))
        if name == "original":
            entries.append(_ours(stored, "ours, bytes, --draft", folder / name, threads, "bare decode"))
        peers = [
            Entry(stored, peer, "benchmarks.worker_loader_torch", (peer, str(path)), threads)
            for peer, path in (("torchvision", folder / f"{name}-files"), ("webdataset", folder / f"{name}.tar"))
            if importlib.util.find_spec(peer) is not None and importlib.util.find_spec("torch") is not None
        ]
        entries.append(_ours(stored, "ours, Loader", folder / name, threads, peers[0].what if peers else ""))
        entries += peers
    return entries


def _ours(stored: str, what: str, shards: Path, threads: int, against: str) -> Entry:
    return Entry(stored, what, "benchmarks.worker_loader", (what, str(shards)), threads, against)


def measure(options: Options, entries: list[Entry]) -> tuple[list[Row], dict[str, str]]:
    """Return a row for each entry, and what the workers told of their libraries."""
    with ExitStack() as stack:
        contestants = {
            (entry.stored, entry.what): stack.enter_context(Contestant(entry.what, [_command(options, entry)], 1))
            for entry in entries
        }
        take_turns(list(contestants.values()), options.repeats, warm_up=1)
        about = {name: fact for each in contestants.values() for name, fact in each.about.items()}
        speeds = {key: options.images / median(each.seconds) for key, each in contestants.items()}
        rows = []
        for entry in entries:
            speed, seconds = speeds[entry.stored, entry.what], contestants[entry.stored, entry.what].seconds
            ratio = speed / speeds[entry.stored, entry.against] if entry.against else None
            rows.append(
                Row(
                    entry.stored, entry.what, entry.threads, speed, options.images / max(seconds),
                    options.images / min(seconds), ratio, entry.against,
                )
            )  # fmt: skip
        return rows, about


def _command(options: Options, entry: Entry) -> Command:
    common = {"threads": entry.threads, "images": options.images, "batch": options.batch, "crop": options.crop}
    told = [text for name, value in common.items() for text in (f"--{name}", str(value))]
    resized = ["--resized"] if entry.stored == "original files" else []
    env: Mapping[str, str] = {"OMP_NUM_THREADS": str(entry.threads)}
    return [sys.executable, "-m", entry.module, *told, *resized, *entry.arguments], env


def table(rows: list[Row], options: Options) -> Table:
    """Return the rows of one form of the photographs as a table."""
    lines = [
        [
            row.what,
            str(row.threads),
            f"{row.images_per_second:.0f} ({row.slowest:.0f}-{row.fastest:.0f})",
            "" if row.ratio is None else f"{row.ratio:.2f} of {row.against}",
        ]
        for row in rows
    ]
    seen = "random resized crop" if rows[0].stored == "original files" else "random crop"
    title = f"Stored as {rows[0].stored}; {seen} to {options.crop}x{options.crop}; median of {options.repeats} rounds"
    return Table(title, ("what", "threads", "images/s (slowest-fastest)", "ratio"), lines)


if __name__ == "__main__":
    main()
