"""How fast photographs become shards, beside bare decoding and resizing: `python -m benchmarks.prepare PHOTOS`.

Bare: processes that have the files in memory decode them with Pillow, resize the short side, cut out the centre, and
drop the pixels. Ours: `data_prep.build_shards`, which resizes nothing that is cut off, one decoding process a rank,
with all that a build does besides: reading, sums, hashes, writing, synchronising; its time is the one that it prints,
without its start. Either has as many cores as processes. Both take turns. A shard is finished while the next is made,
but for a rank's last: as one of hundreds it does not count, so a short build has small shards. All shards stay until
the end, 0.2 MB an image and turn: a disk that is told of free blocks is slow for a while after files are removed.
"""

import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from benchmarks.machine import machine, under_mpirun
from data_prep.sources import open_source
from owt_mpi.tables import Table, render
from tests.mpi_run import ONE_THREAD


@dataclass(frozen=True)
class Options:
    """What is prepared."""

    photos: Annotated[Path, tyro.conf.Positional]
    """Photographs, in any layout that build_shards takes."""
    copies: int = 12
    """How often each is taken: a build of some seconds."""
    size: int = 256
    """Side of the stored images."""
    images_per_shard: int = 250
    """Images of a shard."""
    ranks: tuple[int, ...] = (1, 2)
    """Numbers of ranks, and of bare processes beside them."""
    repeats: int = 5
    """Turns; medians are given."""
    json: Path | None = None
    """Also write the rows to this file."""


@dataclass(frozen=True)
class Row:
    """Images a second of bare Pillow and of a build, with as many processes each."""

    ranks: int
    bare: float
    ours: float
    lowest_ours: float
    highest_ours: float

    @property
    def ratio(self) -> float:
        """Ours over bare."""
        return self.ours / self.bare


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.prepare", description=__doc__)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    table = Table(
        f"Preparing {options.size}x{options.size} images on {machine()}; load before: {load:.1f}",
        ("ranks", "bare images/s", "ours images/s", "(from - to)", "ours / bare", "ours / 1 rank"),
        [
            [
                str(row.ranks), f"{row.bare:.0f}", f"{row.ours:.0f}",
                f"({row.lowest_ours:.0f} - {row.highest_ours:.0f})",
                f"{row.ratio:.2f}", f"{row.ours / rows[0].ours:.2f}",
            ]
            for row in rows
        ],
    )  # fmt: skip
    print(render(table, markdown=False), end="")
    if options.json is not None:
        kept = [{**asdict(row), "ratio": row.ratio} for row in rows]
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def measure(options: Options, folder: Path) -> list[Row]:
    """Return a row for each number of ranks; `folder` is for the archive and the shards."""
    contents = _contents(options.photos)
    archive = folder / "photos.tar"
    _write_archive(archive, contents, options.copies)
    rows = []
    cores = sorted(os.sched_getaffinity(0))
    for num_ranks in options.ranks:
        bare, ours = [], []
        os.sched_setaffinity(0, cores[:num_ranks])  # for all that is started from here
        share = len(contents) * options.copies // num_ranks
        with ProcessPoolExecutor(
            num_ranks, multiprocessing.get_context("spawn"), initializer=_take, initargs=(contents,)
        ) as processes:
            for turn in range(options.repeats + 1):
                slowest = max(processes.map(_bare_seconds, [share] * num_ranks, [options.size] * num_ranks))
                images_per_second = _build(archive, folder / f"shards-{num_ranks}-{turn}", num_ranks, options)
                if turn > 0:  # the first one warms caches
                    bare.append(share * num_ranks / slowest)
                    ours.append(images_per_second)
        rows.append(Row(num_ranks, statistics.median(bare), statistics.median(ours), min(ours), max(ours)))
        os.sched_setaffinity(0, cores)
    return rows


def _contents(photos: Path) -> list[bytes]:
    with open_source(photos) as listing:
        return [listing.reader.read(image) for images in listing.splits.values() for image in images]


def _write_archive(path: Path, contents: Sequence[bytes], copies: int) -> None:
    """Write a tar of class folders with each image `copies` times, each time a file of its own content."""
    with tarfile.open(path, "w") as archive:
        for copy in range(copies):
            for number, content in enumerate(contents):
                member = tarfile.TarInfo(f"class{number % 10}/{number}-{copy}.jpg")
                end = copy.to_bytes(2, "big")  # behind the image's, where decoders do not look
                member.size = len(content) + len(end)
                archive.addfile(member, io.BytesIO(content + end))


def _build(archive: Path, out: Path, num_ranks: int, options: Options) -> float:
    """Return the images a second of a build with one process a rank."""
    summary = out.with_name("summary.json")
    command = [
        sys.executable, "-m", "data_prep.build_shards", str(archive), str(out), "--size", str(options.size),
        "--workers", "1", "--images-per-shard", str(options.images_per_shard), "--json", str(summary),
    ]  # fmt: skip
    env: dict[str, str] = dict(ONE_THREAD)
    if num_ranks > 1:
        started, more = under_mpirun(command, env, num_ranks)
        command, env = list(started), dict(more)
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the build failed:\n{done.stdout}{done.stderr}")
    return float(json.loads(summary.read_text(encoding="utf-8"))["images_per_second"])


_own_contents: list[bytes] = []


def _take(contents: list[bytes]) -> None:
    _own_contents.extend(contents)


def _bare_seconds(num_images: int, size: int) -> float:
    """Return how long Pillow takes to make `num_images` of this process's files into pixels."""
    start = time.perf_counter()
    for number in range(num_images):
        with Image.open(io.BytesIO(_own_contents[number % len(_own_contents)])) as file:
            image = file.convert("RGB")
        short = min(image.size)
        width, height = (size if side == short else int(size * side / short) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        np.asarray(image.crop((left, top, left + size, top + size)))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
