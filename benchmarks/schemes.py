"""Bytes and time of a training step by every scheme, on the same ranks: `python -m benchmarks.schemes --help`."""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, under_mpirun
from benchmarks.worker_schemes import SCHEMES, build_model
from owt_mpi.backends.threads import usable_cores
from owt_mpi.parallel.layout import Plan
from tests.mpi_run import ONE_THREAD, REPO_ROOT


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str = "alexnet-owt"
    """The network, with 1000 classes."""
    crop: int = 224
    """Side of the images."""
    ranks: tuple[int, ...] = (2, 4)
    """Numbers of ranks (K), each in a job of its own, one thread a rank."""
    images: tuple[int, ...] = (16, 64)
    """Images a rank and step (n)."""
    fc_crosstalk: float = 1.0
    """Below 1: the network with FC layers in 8 blocks and this share of cross-talk."""
    repeats: int = 5
    """Steps measured of each scheme, in turns, after one that is not."""
    json: Path | None = None
    """Also write the rows to this file."""


@dataclass(frozen=True)
class Row:
    """One scheme at one size. A range is the fastest and the slowest step; ratios are to dp, below 1 is better."""

    model: str
    ranks: int
    oversubscribed: bool
    images_per_rank: int
    scheme: str
    received_bytes: dict[str, int]
    bytes_ratio: float
    seconds: float
    seconds_range: tuple[float, float]
    seconds_ratio: float
    repeats: int
    backend: str
    machine: str
    python: str

    @property
    def received(self) -> int:
        """Bytes that a rank receives a step."""
        return sum(self.received_bytes.values())


def main() -> None:
    options = tyro.cli(Options, prog="python -m benchmarks.schemes", description=__doc__)
    try:
        name = check(options)
    except ValueError as error:
        sys.exit(f"error: {error}")
    rows = [row for k in options.ranks for n in options.images for row in measure(options, name, k, n)]
    print_table(rows)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def check(options: Options) -> str:
    """Return the network's name. ValueError if it cannot be spread by every scheme at every size."""
    for option, values in (("ranks", options.ranks), ("images", options.images), ("repeats", (options.repeats,))):
        if min(values, default=0) < 1:
            raise ValueError(f"--{option} is {values}, but needs numbers that are at least 1")
    model = build_model(options.model, options.crop, options.fc_crosstalk)
    for num_ranks in options.ranks:
        for scheme in SCHEMES:
            for images in options.images:
                Plan(num_ranks, scheme).check(model, images)
    return model.name


def measure(options: Options, model: str, num_ranks: int, images: int) -> list[Row]:
    """Return the rows of all schemes on `num_ranks` ranks with `images` each, from one job."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command, env = under_mpirun(
            [
                sys.executable, "-m", "benchmarks.worker_schemes", "--model", options.model, "--crop",
                str(options.crop), "--crosstalk", str(options.fc_crosstalk), "--images", str(images), "--repeats",
                str(options.repeats), str(result),
            ],
            ONE_THREAD, num_ranks,
        )  # fmt: skip
        path = os.pathsep.join([str(REPO_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        job_env = {**os.environ, **env, "PYTHONPATH": path}
        job = subprocess.run(command, cwd=REPO_ROOT, env=job_env, stdin=subprocess.DEVNULL, check=False)
        if job.returncode or not result.exists():
            sys.exit(f"error: {num_ranks} ranks with {images} images each ended with code {job.returncode}, see above")
        results = json.loads(result.read_text(encoding="utf-8"))
    dp = results[SCHEMES.index("dp")]
    return [
        Row(
            model=f"{model}, {options.crop} x {options.crop}",
            ranks=num_ranks,
            oversubscribed=num_ranks > usable_cores(),
            images_per_rank=images,
            scheme=each["scheme"],
            received_bytes=each["received_bytes"],
            bytes_ratio=_ratio(sum(each["received_bytes"].values()), sum(dp["received_bytes"].values())),
            seconds=each["seconds"],
            seconds_range=tuple(each["range"]),
            seconds_ratio=_ratio(each["seconds"], dp["seconds"]),
            repeats=options.repeats,
            backend=each["backend"],
            machine=machine(),
            python=platform.python_version(),
        )
        for each in results
    ]


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows, and below what they were measured with."""
    table = Table(title=f"A training step of {rows[0].model}, median of {rows[0].repeats} (fastest-slowest)")
    for column in ("K", "n", "scheme", "MB received", "/ dp's", "s a step", "/ dp's"):
        table.add_column(column, justify="left" if column == "scheme" else "right", no_wrap=True)
    for before, row in zip((None, *rows), rows, strict=False):
        if before is not None and (before.ranks, before.images_per_rank) != (row.ranks, row.images_per_rank):
            table.add_section()
        table.add_row(
            f"{row.ranks}{'*' * row.oversubscribed}",
            str(row.images_per_rank),
            row.scheme,
            f"{row.received / 1e6:.1f}",
            f"{row.bytes_ratio:.2f}",
            f"{row.seconds:.3f} ({row.seconds_range[0]:.3f}-{row.seconds_range[1]:.3f})",
            f"{row.seconds_ratio:.2f}",
        )
    console = Console(width=max(120, Console().width))  # a table cut to fit is no table
    console.print(table)
    if any(row.oversubscribed for row in rows):
        console.print(
            "* more ranks than cores: times tell of work and bytes, not of ranks side by side", highlight=False
        )
    for name in ("machine", "backend", "python"):
        console.print(f"{name}: {getattr(rows[0], name)}", highlight=False, soft_wrap=True)


def _ratio(value: float, dp: float) -> float:
    return value / dp if dp else 1.0  # one rank receives nothing


if __name__ == "__main__":
    main()
