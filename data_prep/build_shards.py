"""Build the shards of a data set from folders or archives of images: `python -m data_prep.build_shards --help`.

The same source, options and seed give the same bytes, whatever the number of workers. The manifest is written last: a
folder with one is complete. Exit status: 0 built or built already, 2 wrong options, 3 unusable data or a full disk.
"""

import contextlib
import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from data_prep.convert import convert
from data_prep.layouts import stream
from data_prep.parts import Part, check_classes, choose_parts
from data_prep.progress import Reporter
from owt_mpi import rng
from owt_mpi.data.manifest import MANIFEST_NAME, STATISTICS_NAME, DataError, Manifest, OddFile, SplitEntry
from owt_mpi.data.pixel_sums import PixelSums
from owt_mpi.data.shard_format import ShardReader, shard_counts, shard_files
from owt_mpi.data.shard_writer import SampleRecord, ShardPlan, ShardWriter, write_mean_image

SPLITS = ("train", "val")
DEFAULT_SHARD_BYTES = 1 << 30


@dataclass(frozen=True)
class Options:
    """Build the shards of a data set from folders or archives of images."""

    source: Annotated[Path, tyro.conf.arg(metavar="SOURCE")]
    """Class folders (perhaps in train/ and val/ or test/), a tar of them, or a tar of class tars; also compressed."""
    out: Annotated[Path, tyro.conf.arg(metavar="OUT")]
    """The folder to write."""
    size: int = 256
    """Height and width of the stored images."""
    val: Path | None = None
    """The validation images, in any of those layouts."""
    val_fraction: float | None = None
    """Take this part of each class of the training images for validation instead."""
    shards: int | None = None
    """Number of files of each split; by default files of about 1 GiB."""
    images_per_shard: int | None = None
    """Number of images of a file instead."""
    seed: int = 0
    """Decides the order of the images and which of them --val-fraction takes."""
    channels: Literal[1, 3] = 3
    """Store gray (1) or RGB (3) images."""
    workers: int | None = None
    """Number of decoding processes; by default one for each CPU."""
    on_error: Literal["fail", "skip"] = "fail"
    """What to do with images that cannot be decoded; skipped ones are listed in the manifest."""
    overwrite: bool = False
    """Replace the data set in OUT."""
    json: Path | None = None
    """Write a summary to this file."""


def build(options: Options, reporter: Reporter | None = None) -> Manifest:
    """Build the data set, or find that it has been built with these options, and return its manifest.

    ValueError for wrong options, DataError for unusable data: then OUT holds no manifest and no part of a shard.
    """
    reporter = reporter or Reporter(Console(quiet=True))
    check(options)
    built = _built_already(options)
    if built is not None:
        reporter.say(f"{options.out} is already built")
        return built
    parts = choose_parts(options.source, options.val, options.val_fraction, options.seed, reporter)
    class_names = check_classes(parts, reporter)
    _clear(options.out)
    splits, sums = {}, {}
    for split, part in parts.items():
        splits[split], sums[split] = _write_split(options, split, part, class_names, reporter)
    mean_image = sums["train"].mean_image(splits["train"].count)
    assert mean_image is not None
    manifest = Manifest(
        class_names=class_names,
        mean_image=write_mean_image(options.out, mean_image),
        image_shape=(options.size, options.size, options.channels),
        splits=splits,
        statistics=sums["train"].statistics(),
        seed=options.seed,
        options=_identity(options),
    )
    manifest.write(options.out)
    return manifest


def check(options: Options) -> None:
    """Raise ValueError for options that are wrong, or wrong together."""
    for name in ("size", "shards", "images_per_shard", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; choose 1 or more")
    if options.val_fraction is not None and not 0 < options.val_fraction < 1:
        raise ValueError(f"--val-fraction is {options.val_fraction}; choose a number between 0 and 1")
    for first, second in (("val", "val_fraction"), ("shards", "images_per_shard")):
        if getattr(options, first) is not None and getattr(options, second) is not None:
            raise ValueError(f"--{first} and --{second.replace('_', '-')} exclude each other; leave one out")


def _built_already(options: Options) -> Manifest | None:
    """Return the manifest in OUT if it is of these very options and its shards are sound, None if there is none."""
    if options.overwrite or not (options.out / MANIFEST_NAME).exists():
        return None
    manifest = Manifest.read(options.out)
    identity = _identity(options)
    different = [name for name in identity if manifest.options.get(name) != identity[name]]
    if different:
        name = different[0]
        raise ValueError(
            f"{options.out} holds a data set built with {name} = {manifest.options.get(name)!r} instead of "
            f"{identity[name]!r}; choose another folder or give --overwrite"
        )
    for split in manifest.splits:
        ShardReader(options.out, split).close()
    return manifest


def _identity(options: Options) -> dict[str, Any]:
    """Return what decides the data set's content, as it is kept in the manifest."""
    apart = ("out", "workers", "overwrite", "json")
    identity = {name: value for name, value in asdict(options).items() if name not in apart}
    return {
        **identity,
        "source": _source_identity(options.source),
        "val": options.val and _source_identity(options.val),
    }


def _source_identity(path: Path) -> str:
    return f"{path.name}, {path.stat().st_size} bytes" if path.is_file() else str(path.resolve())


def _clear(out: Path) -> None:
    """Remove a former data set and remains of unfinished builds, and nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST_NAME).unlink(missing_ok=True)  # first: from here on the folder is not complete
    (out / STATISTICS_NAME).unlink(missing_ok=True)
    for split in SPLITS:
        for path in shard_files(out, split):
            path.unlink()


def _write_split(
    options: Options, split: str, part: Part, class_names: tuple[str, ...], reporter: Reporter
) -> tuple[SplitEntry, PixelSums]:
    """Write the shards of one split, without the images that had to be skipped."""
    counts = shard_counts(len(part.samples), _num_shards(options, len(part.samples)))
    image_shape = (options.size, options.size, options.channels)
    source = _source_hash(options, part)
    sums = [PixelSums.zero(options.channels, image_shape[:2]) for _ in counts]
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                ShardWriter(
                    options.out,
                    ShardPlan(split, index, len(counts), count, "raw", image_shape, class_names, source),
                )
            )
            for index, count in enumerate(counts)
        ]
        odd_files = _write_images(options, writers, sums, counts, split, part, class_names, reporter)
        if len(odd_files) == len(part.samples):
            raise DataError(f"{part.source} has no image for {split!r} that can be decoded; check its files")
        entries = [writer.commit(sum_, odd) for writer, sum_, odd in zip(writers, sums, odd_files, strict=True)]
    total = PixelSums.zero(options.channels, image_shape[:2])
    for each in sums:
        total.add(each)
    return SplitEntry.of_shards(entries, sorted(chain.from_iterable(odd_files), key=lambda odd: odd.name)), total


def _write_images(
    options: Options,
    writers: list[ShardWriter],
    sums: list[PixelSums],
    counts: list[int],
    split: str,
    part: Part,
    class_names: tuple[str, ...],
    reporter: Reporter,
) -> list[list[OddFile]]:
    """Write what can be decoded of a part to its shards and add up its pixels; return what was skipped."""
    samples = part.samples
    labels = {name: label for label, name in enumerate(class_names)}
    numbers = {sample: number for number, sample in enumerate(samples)}
    positions = rng.permutation(rng.stream_key(options.seed, "shuffle", split), len(samples))
    ends = np.cumsum(counts)
    shards = np.searchsorted(ends, positions, side="right")
    rows = (positions - (ends - counts)[shards]).tolist()
    files = ((numbers[sample], content) for sample, content in stream(part.source, part.role, numbers))
    num_workers = options.workers or len(os.sched_getaffinity(0))
    odd_files: list[list[OddFile]] = [[] for _ in writers]
    with reporter.track(split, len(samples)) as advance:
        for converted in convert(files, options.size, options.channels, num_workers):
            for number, reason in converted.failures:
                if options.on_error == "fail":
                    raise DataError(f"{part.source}: {samples[number]}: {reason}; repair it or use --on-error skip")
                odd_files[shards[number]].append(OddFile(str(samples[number]), reason, "skipped"))
            for number, image, digest in converted.images:
                record = SampleRecord(
                    str(samples[number]), labels[samples[number].class_name], digest, (options.size, options.size)
                )
                writers[shards[number]].write(rows[number], record, image)
                sums[shards[number]].add_images([image])
            advance(len(converted.images) + len(converted.failures))
    return odd_files


def _source_hash(options: Options, part: Part) -> str:
    """Return the hash of what decides the content of a split's shards."""
    how = {name: value for name, value in _identity(options).items() if name not in ("source", "val")}
    content = [how, [str(sample) for sample in part.samples]]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def _num_shards(options: Options, num_images: int) -> int:
    if options.shards is not None:
        return options.shards
    image_bytes = options.size**2 * options.channels
    return -(-num_images // (options.images_per_shard or max(DEFAULT_SHARD_BYTES // image_bytes, 1)))


def _summary(options: Options, manifest: Manifest, warnings: list[str]) -> dict[str, Any]:
    splits = {
        name: {"images": split.count, "shards": len(split.shards), "skipped": len(split.skipped)}
        for name, split in manifest.splits.items()
    }
    return {"out": str(options.out), "classes": len(manifest.class_names), "splits": splits, "warnings": warnings}


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; wrong syntax exits with 2."""
    options = tyro.cli(
        Options,
        prog="python -m data_prep.build_shards",
        args=arguments,
        config=(tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff),
    )
    reporter = Reporter(Console())
    try:
        manifest = build(options, reporter)
        summary = _summary(options, manifest, reporter.warnings)
        if options.json is not None:
            options.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"build_shards: {error}", file=sys.stderr)
        return 3 if isinstance(error, DataError | OSError) else 2
    found = ", ".join(f"{name} {split.count} images" for name, split in manifest.splits.items())
    reporter.say(f"{options.out}: {found}, {len(manifest.class_names)} classes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
