"""Check a data set from end to end: `python -m data_prep.verify --help`.

Every byte is read: checksums, counts, labels, the exact sums that the statistics come from, and, of encoded images,
that each can be decoded. Exit status: 0 sound, 2 wrong options, 3 not sound.
"""

import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from data_prep.check_shard import ShardCheck, add_up, check_shard
from data_prep.progress import Reporter
from owt_mpi.data.manifest import MANIFEST_NAME, DataError, Manifest, ShardEntry, Statistics
from owt_mpi.data.shard_format import read_mean_image

_Task = tuple[Path, Manifest, ShardEntry, tuple[str, int, int]]
_ERROR = 1e-9  # of statistics that another machine's linear algebra worked out


@dataclass(frozen=True)
class Options:
    """Check a data set: every byte, against its checksums, its manifest and itself."""

    folder: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder of shards."""
    workers: int | None = None
    """Number of processes; by default one for each CPU."""
    json: Path | None = None
    """Write what was found to this file."""


@dataclass(frozen=True)
class Problem:
    """What is wrong, and with which file."""

    file: str
    what: str


@dataclass(frozen=True)
class SplitSummary:
    """A split as it was found."""

    split: str
    shards: int
    sound_shards: int
    images: int
    classes: int
    num_bytes: int


@dataclass(frozen=True)
class Report:
    """Everything found. `notes` are things to know that do no harm, such as files that a killed build left behind."""

    folder: str
    splits: tuple[SplitSummary, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether the data set can be trained on."""
        return not self.problems


def verify(folder: Path, num_workers: int, reporter: Reporter) -> Report:
    """Return what is found in `folder`."""
    try:
        manifest = Manifest.read(folder)
    except DataError as error:
        return Report(str(folder), (), (Problem(MANIFEST_NAME, str(error)),), ())
    checks = _check_shards(folder, manifest, num_workers, reporter)
    problems = [Problem(check.file, what) for each in checks.values() for check in each for what in check.problems]
    splits = []
    for split, each in checks.items():
        sound = sum(not check.problems for check in each)
        classes = int(np.count_nonzero(manifest.splits[split].class_histogram))
        num_bytes = sum(check.num_bytes for check in each)
        splits.append(SplitSummary(split, len(each), sound, manifest.splits[split].count, classes, num_bytes))
    problems += [Problem(MANIFEST_NAME, what) for what in _check_statistics(folder, manifest, checks.get("train", []))]
    return Report(str(folder), tuple(splits), tuple(problems), tuple(_notes(folder, manifest, checks)))


def _check_shards(
    folder: Path, manifest: Manifest, num_workers: int, reporter: Reporter
) -> dict[str, list[ShardCheck]]:
    """Return what was found in each shard of each split, in order."""
    splits = manifest.splits.items()
    alone = replace(manifest, splits={}, duplicates=(), source_notes=())  # what a process needs of it is little
    tasks = [
        (folder, alone, shard, (split, index, len(entry.shards)))
        for split, entry in splits
        for index, shard in enumerate(entry.shards)
    ]
    found: dict[str, ShardCheck] = {}
    with reporter.track("images", sum(entry.count for _, entry in splits)) as advance:
        for shard, check in _run(tasks, num_workers):
            found[shard.file] = check
            advance(shard.count, 0)
    return {split: [found[shard.file] for shard in entry.shards] for split, entry in splits}


def _run(tasks: list[_Task], num_workers: int) -> Iterator[tuple[ShardEntry, ShardCheck]]:
    if num_workers == 1:
        for task in tasks:
            yield task[2], check_shard(*task)
        return
    with ProcessPoolExecutor(min(num_workers, len(tasks)), multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(check_shard, *task): task[2] for task in tasks}
        for future in as_completed(running):
            yield running[future], future.result()


def _check_statistics(folder: Path, manifest: Manifest, checks: list[ShardCheck]) -> Iterator[str]:
    """Say where the manifest's statistics and mean image are not those of the training shards' sums."""
    sums = [check.sums for check in checks if check.sums is not None]
    if not sums or len(sums) < len(checks):
        return  # shards that cannot be read are named already
    whole = add_up(sums)
    there, right = manifest.statistics, whole.statistics()
    for name, value, expected in (
        ("mean", there.mean, right.mean),
        ("std", there.std, right.std),
        ("PCA", _covariance(there), _covariance(right)),
    ):
        if np.shape(value) != np.shape(expected) or not np.allclose(value, expected, rtol=_ERROR, atol=_ERROR):
            yield f"its {name} is not what the sums in the shards give, {np.round(expected, 4).tolist()}"
    try:
        mean = read_mean_image(folder, manifest)
    except DataError as error:
        yield str(error)
        return
    right_mean = whole.mean_image(manifest.splits["train"].count)
    if mean is not None and (right_mean is None or not np.allclose(mean, right_mean, rtol=_ERROR, atol=_ERROR)):
        yield f"{manifest.mean_image} does not hold the mean of the images in the shards"


def _covariance(statistics: Statistics) -> np.ndarray:
    """Return the covariance of the channels that the principal components stand for: they may differ in sign."""
    vectors = np.array(statistics.pca_eigenvectors)
    return np.asarray(vectors.T * statistics.pca_eigenvalues @ vectors)


def _notes(folder: Path, manifest: Manifest, checks: dict[str, list[ShardCheck]]) -> Iterator[str]:
    """Say what there is besides that does no harm."""
    known = {shard.file for split in manifest.splits.values() for shard in split.shards}
    known.update(filter(None, [MANIFEST_NAME, manifest.mean_image]))
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            left = " (left behind by a build that was ended)" if path.suffix == ".tmp" else ""
            yield f"{path.name} is no part of the data set{left}"
    for split, each in checks.items():
        twice = [name for name, count in Counter(name for check in each for name in check.names).items() if count > 1]
        if twice:
            yield f"{split}: {len(twice)} sample names occur more than once, such as {twice[0]}"
        histogram = manifest.splits[split].class_histogram
        without = [name for name, count in zip(manifest.class_names, histogram, strict=True) if not count]
        if without:
            yield f"{split}: {len(without)} classes have no images, such as {without[0]}"


def print_report(report: Report, reporter: Reporter, console: Console) -> None:
    """Print a table of the splits, then notes and problems, one a line."""
    table = Table(title=report.folder)
    for column in ("split", "shards", "sound", "images", "classes", "GB"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split in report.splits:
        cells = (split.shards, split.sound_shards, split.images, split.classes, f"{split.num_bytes / 1e9:.3f}")
        table.add_row(split.split, *map(str, cells))
    if report.splits:
        console.print(table)
    for note in report.notes:
        reporter.say(f"note: {note}")
    for problem in report.problems:
        reporter.say(f"NOT SOUND: {problem.file}: {problem.what}")
    reporter.say(f"{report.folder}: {'sound' if report.is_sound else f'{len(report.problems)} problems'}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; wrong syntax exits with 2."""
    options = tyro.cli(
        Options,
        prog="python -m data_prep.verify",
        args=arguments,
        config=(tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff),
    )
    if options.workers is not None and options.workers < 1:
        print(f"verify: --workers is {options.workers}; choose 1 or more", file=sys.stderr)
        return 2
    console = Console()
    reporter = Reporter(console)
    report = verify(options.folder, options.workers or len(os.sched_getaffinity(0)), reporter)
    print_report(report, reporter, console)
    if options.json is not None:
        content = {"sound": report.is_sound, **asdict(report)}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if report.is_sound else 3


if __name__ == "__main__":
    sys.exit(main())
