"""How random the orders of the training set are, and how long the reads: `python -m benchmarks.shuffle --help`."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from owt_mpi.data.block_shuffle import LEAST_BLOCKS, BlockShuffle
from owt_mpi.data.sampler import TrainPlan, rank_rows
from owt_mpi.tables import Table, render


@dataclass(frozen=True)
class Options:
    """The data set and the orders."""

    images: int = 1_281_167
    """Images of the training set, stored in order of class: the worst case, since shards are written shuffled."""
    classes: int = 1000
    """Classes of as many images each, as near as can be."""
    global_batch: int = 1024
    """Images of a batch."""
    ranks: int = 8
    """Ranks that share a batch, each reading its own images."""
    block: tuple[int, ...] = (16, 64, 256)
    """--shuffle-block of the orders besides the full shuffle."""
    buffer: tuple[int, ...] = (4096, 16384)
    """--shuffle-buffer of these orders."""
    markdown: bool = False
    """Print the table as Markdown."""
    json: Path | None = None
    """Also write the rows to this file."""


@dataclass(frozen=True)
class Row:
    """What an order is like. Independent random draws give 1, as a rank correlation 0."""

    order: str
    distance: float  # of neighbours in the order, in storage
    rank_correlation: float  # of place in the order and place in storage
    label_runs: float  # in the order
    batch_spread: float  # of the number of images of a class in a batch: its variance
    storage_neighbours: float  # that are in one batch
    samples_a_read: float  # consecutive ones, that one rank needs in the steps that are mixed
    seconds: float


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.shuffle", description=__doc__)
    rows = measure(options)
    print(render(table(rows, options), options.markdown), end="")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def measure(options: Options) -> list[Row]:
    """Return the row of the full shuffle and of every block shuffle."""
    pairs = ((block, buffer) for buffer in options.buffer for block in options.block)
    shuffles = [BlockShuffle(block, buffer) for block, buffer in pairs if buffer >= LEAST_BLOCKS * block]
    return [measure_order(options, shuffle) for shuffle in (None, *shuffles)]


def measure_order(options: Options, blocks: BlockShuffle | None) -> Row:
    """Return the row of the full shuffle (None) or of a block shuffle, in the first epoch of seed 1."""
    plan = TrainPlan(options.images, options.global_batch, seed=1, blocks=blocks)
    start = time.perf_counter()
    order = plan.order(0)
    seconds = time.perf_counter() - start
    labels = order * options.classes // options.images
    return Row(
        order="full" if blocks is None else f"blocks of {blocks.block}, {blocks.buffer} mixed",
        distance=float(np.abs(np.diff(order)).mean() / (options.images / 3)),
        rank_correlation=float(np.corrcoef(order, np.arange(len(order)))[0, 1]),
        label_runs=float(np.mean(np.diff(labels) != 0) / (1 - 1 / options.classes)),
        batch_spread=_batch_spread(labels.reshape(-1, options.global_batch), options.classes),
        storage_neighbours=_storage_neighbours(order, options),
        samples_a_read=_samples_a_read(order.reshape(-1, options.global_batch), options, blocks),
        seconds=seconds,
    )


def _batch_spread(labels: np.ndarray, classes: int) -> float:
    """Return the variance of a class's images in a batch (a row of labels), in units of the binomial one."""
    batch = labels.shape[1]
    counts = np.bincount((np.arange(len(labels))[:, None] * classes + labels).ravel(), minlength=len(labels) * classes)
    return float(counts.var() / (batch / classes * (1 - 1 / classes)))


def _storage_neighbours(order: np.ndarray, options: Options) -> float:
    """Return how often neighbours in storage are in one batch, in units of chance."""
    batch_of = np.full(options.images, -1)
    batch_of[order] = np.arange(len(order)) // options.global_batch
    together = np.mean((batch_of[1:] == batch_of[:-1]) & (batch_of[1:] >= 0))
    return float(together / ((options.global_batch - 1) / (options.images - 1)))


def _samples_a_read(order: np.ndarray, options: Options, blocks: BlockShuffle | None) -> float:
    """Return how many samples that follow one another in storage a rank needs in the steps that are mixed, a run."""
    num_steps = 1 if blocks is None else blocks.mixed_steps(options.global_batch)
    mine = order[:, rank_rows(options.global_batch, 0, options.ranks)]
    reads = sum(
        int((np.diff(np.sort(mine[first : first + num_steps], axis=None)) > 1).sum()) + 1
        for first in range(0, len(mine), num_steps)
    )
    return mine.size / reads


def table(rows: Sequence[Row], options: Options) -> Table:
    """Return the rows as a table."""
    lines = [
        [
            row.order, f"{row.distance:.3f}", f"{row.rank_correlation:+.4f}", f"{row.label_runs:.4f}",
            f"{row.batch_spread:.2f}", f"{row.storage_neighbours:.1f}", f"{row.samples_a_read:.1f}",
            f"{row.seconds:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    return Table(
        f"Orders of {options.images} images of {options.classes} classes, batch {options.global_batch}, "
        f"{options.ranks} ranks",
        ("order", "distance", "rank correlation", "label runs", "class spread", "neighbours", "samples a read", "s"),
        lines,
    )


if __name__ == "__main__":
    main()
