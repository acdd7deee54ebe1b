"""The accuracy part of the paper's Table 1, the effect of the batch sizes, at a scale that fits a few cores.

Trains a small network for K = 1, 2, 4, 8 virtual ranks, with the head updated once an iteration and after every pass,
by the learning-rate rules k and sqrt(k), and says which of the paper's claims show. A rerun trains what is missing.
"""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import tyro

from benchmarks.table1_cases import Setup, all_cases
from benchmarks.table1_claims import Row, Spread, claims_of, mean_and_spread, rows_of, rule_name, scheme_sentence
from benchmarks.table1_plot import draw
from benchmarks.table1_runs import Result, Runner, describe_time, newest_data, read_results, seconds_left
from owt_mpi.seeing.plotting import check_installed
from owt_mpi.tables import Table, render

ROOT = Path(__file__).resolve().parents[1]
OWN_DATA = ROOT / "data_prep" / "fashion_mnist"
PAPER_IMAGES = 128
REPORTED = {(1, 128): (2.611, 42.33), (2, 256): (2.624, 42.63), (2, 128): (2.614, 42.27), (4, 512): (2.637, 42.59),
            (4, 128): (2.625, 42.44), (8, 1024): (2.678, 43.28), (8, 128): (2.651, 42.86)}  # fmt: skip
# (GPUs, images of an update of the head): cross-entropy, top-1 error in percent


@dataclass(frozen=True)
class Options:
    """What is trained, and what is written. Defaults are the table's; benchmarks/README.md says why."""

    data: Path = OWN_DATA
    """CIFAR-10 as it is handed out, or images like them, in any layout of build_shards; default: the repository's
    own."""
    cache: Path = Path("shards/table1")
    """Folder for the shards, which are built once for each source."""
    shards: Path | None = None
    """Take these shards instead."""
    results: Path = Path("table1.jsonl")
    """File of results (JSON lines): each is appended as a training ends, and what is in it is not trained again."""
    ranks: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of virtual ranks (K), 8 at the most."""
    seeds: int = 3
    """Trainings of each row."""
    images: int = 64
    """Images a rank and step (n)."""
    epochs: int = 6
    """Passes over the training images."""
    lr: float = 0.01
    """Learning rate at a batch of n."""
    jobs: int = 1
    """Trainings at once, of one thread a virtual rank."""
    limit: int = 0
    """Train no more than so many of the missing ones; 0: all."""
    quick: bool = False
    """A look whether all runs, in seconds: two seeds of two steps on 1 and 2 ranks, which say nothing of accuracy."""
    only_report: bool = False
    """Train nothing: print what the file of results holds. The images need not be there, but --data or --shards says
    their name; of several data of that name the newest result's are taken."""
    markdown: bool = False
    """Print tables as Markdown."""
    json: Path | None = None
    """Also write rows, dial and claims to this file."""
    plot: Path | None = None
    """Also draw the error over K into this file (.svg, .png or .pdf; needs the extra `plot`)."""

    def check(self) -> None:
        """Raise ValueError, naming the option and the way out, if a value can be seen to be wrong by itself."""
        for name in ("seeds", "images", "epochs", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, but must be at least 1")
        if not self.ranks or set(self.ranks) - {1, 2, 4, 8}:
            raise ValueError(f"--ranks are {self.ranks}; choose of 1, 2, 4 and 8")
        if self.images % max(self.ranks):
            raise ValueError(
                f"--images {self.images} cannot be split over {max(self.ranks)} ranks; take a multiple of them"
            )
        if self.plot is not None:
            check_installed()


def shards_of(options: Options) -> Path:
    """Return the folder of shards, built if they are not there. RuntimeError if that fails."""
    if options.shards is not None:
        return options.shards
    is_own = options.data.resolve() == OWN_DATA
    folder = folder_of(options)
    source = [options.data / "train.tar.gz", folder, "--val", options.data / "test.tar.gz", "--size", 28]
    source = [*source, "--channels", 1] if is_own else [options.data, folder, "--size", 32]
    command = [sys.executable, "-m", "data_prep.build_shards", *map(str, source), "--progress", "lines"]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise RuntimeError(f"the shards of {options.data} could not be built")
    return folder


def folder_of(options: Options) -> Path:
    """Return the folder that the shards are in, or will be built in."""
    return options.shards or options.cache / options.data.name.partition(".")[0]


def data_of(shards: Path) -> str:
    """Return what the data are known by: their name, and a digest of their shards' manifest."""
    digest = hashlib.sha256((shards / "manifest.json").read_bytes()).hexdigest()[:16]
    return f"{shards.name} {digest}"


def setup_of(options: Options, data: str) -> Setup:
    """Return what all trainings have in common."""
    steps = (2, 2) if options.quick else (0, 10)
    return Setup(data, options.images, options.epochs, *steps, 28, options.lr)


def tables(rows: Sequence[Row], data: str) -> list[Table]:
    """Return the table, and the dial between fixed and variable batch."""
    lines, most = [], max((row.ranks for row in rows), default=0)
    for row in rows:
        if row.passes not in (1, row.ranks):
            continue
        n = row.batch // row.ranks
        entropy, error = REPORTED[row.ranks, PAPER_IMAGES * row.head_batch // n]
        has_rule = row.rule == "linear"  # the paper's rows are by the rule k
        lines.append(
            [str(row.ranks), f"{row.batch}, {row.head_batch}", rule_name(row),
             mean_and_spread(row.cross_entropy, 1, 3), mean_and_spread(row.top1_error, 100, 2),
             str(len(row.top1_error)), f"{row.ranks * PAPER_IMAGES}, {PAPER_IMAGES * row.head_batch // n}",
             *((f"{entropy:.3f}", f"{error:.2f}") if has_rule else ("", ""))]
        )  # fmt: skip
    notes = ["Mean and standard deviation over seeds. paper: as reported in the paper, of ImageNet on GPUs."]
    spread = Spread.of(row.top1_error for row in rows)
    if spread is not None:
        notes.append(f"Standard deviation of the top-1 error over seeds, pooled: {100 * spread.deviation:.2f} points.")
    headings = ("GPUs", "batch (conv, FC)", "rule", "cross-entropy", "top-1 error %", "seeds", "paper: batch",
                "paper: cross-entropy", "paper: top-1 error %")  # fmt: skip
    dial = [
        [str(row.passes), f"{row.batch}, {row.head_batch}", mean_and_spread(row.cross_entropy, 1, 3),
         mean_and_spread(row.top1_error, 100, 2)]
        for row in reversed(rows) if row.ranks == most and row.rule == "linear"
    ]  # fmt: skip
    return [
        Table(f"Table 1's accuracy at small scale: {data}", headings, lines, notes),
        Table(
            f"Passes between updates of the head, K = {most}, rule k",
            ("passes", "batch (conv, FC)", "cross-entropy", "top-1 error %"),
            dial,
        ),
    ]


def report(results: Sequence[Result], options: Options, data: str) -> None:
    """Print tables and sentences; write what else is asked for."""
    rows = rows_of(results)
    claims, scheme = claims_of(rows), scheme_sentence(results)
    print("\n".join(render(table, options.markdown) for table in tables(rows, data)))
    bullet = "- " if options.markdown else ""
    for sentence in [*(claim.sentence for claim in claims), *([scheme[1]] if scheme else [])]:
        print(f"{bullet}{sentence}")
    if claims:
        print(f"\nOf {2 * len(claims)} comparisons one in 20 would be told apart by chance alone.")
    else:
        print("Nothing can be said of the claims yet: that needs two rows with two seeds or more.")
    if options.json is not None:
        content = {
            "data": data,
            "rows": [asdict(row) | {"passes": row.passes} for row in rows],
            "claims": [asdict(claim) for claim in claims],
            "scheme": None if scheme is None else {"verdict": scheme[0], "sentence": scheme[1]},
            "seconds": fmean(result.seconds for result in results),
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        draw(rows, options.plot)


def main() -> int:
    options = tyro.cli(Options, prog="python -m benchmarks.table1", description=__doc__)
    if options.quick:
        options = replace(options, ranks=(1, 2), seeds=2, images=8, epochs=1)
    try:
        options.check()
        shards = (folder_of(options) if options.only_report else shards_of(options)).resolve()
        data = newest_data(options.results, shards.name) if options.only_report else data_of(shards)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
    setup = setup_of(options, data)
    cases = all_cases(tuple(sorted(set(options.ranks))), options.images, options.seeds)
    results = read_results(options.results, setup)
    missing = [case for case in cases if case not in results]
    errors: list[str] = []
    if missing and not options.only_report:
        missing = missing[: options.limit or None]
        left = describe_time(seconds_left(missing, results, options.jobs))
        print(f"{len(cases)} trainings, {len(missing)} to do now, {left}", file=sys.stderr, flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        errors = Runner(setup, shards, options.results, options.jobs).run(missing, results)
    asked = [results[case] for case in cases if case in results]
    if asked:
        report(asked, options, setup.data.rpartition(" ")[0])
    for failed in errors:
        print(f"error: {failed}", file=sys.stderr)
    if len(asked) < len(cases):
        print(f"{len(cases) - len(asked)} of {len(cases)} trainings are missing; run it again", file=sys.stderr)
    return 1 if errors or not asked else 0


if __name__ == "__main__":
    sys.exit(main())
