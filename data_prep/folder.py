"""The folder that is built into: what of it is kept, and what is removed."""

from pathlib import Path

from data_prep.options import Options
from data_prep.plan import BuildPlan
from data_prep.progress import Reporter
from data_prep.sources import SPOOL_SUFFIX
from owt_mpi.data.manifest import MANIFEST_NAME, STATISTICS_NAME, DataError, Manifest
from owt_mpi.data.shard_format import ShardReader, shard_files
from owt_mpi.data.shard_record import ShardRecord, read_record

SPLITS = ("train", "val")


def built_already(options: Options) -> Manifest | None:
    """Return the manifest in OUT if it is of these very options and its shards are sound, None if there is none."""
    if options.overwrite or not (options.out / MANIFEST_NAME).exists():
        return None
    manifest = Manifest.read(options.out)
    identity = options.identity()
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


def remove_remains(out: Path) -> None:
    """Remove the temporary files of builds that were killed, and nothing else."""
    for name in (f"{MANIFEST_NAME}.tmp", f"{STATISTICS_NAME}.tmp"):
        (out / name).unlink(missing_ok=True)
    for path in [*out.glob(f"*{SPOOL_SUFFIX}"), *(path for split in SPLITS for path in shard_files(out, split, False))]:
        path.unlink(missing_ok=True)


def finished_shards(options: Options, plan: BuildPlan, reporter: Reporter) -> frozenset[int]:
    """Return the numbers of the shards that an interrupted build of this plan has finished.

    Damaged ones are removed; with --overwrite those of other builds too, and all if they are a complete data set.
    Without it, ValueError for those of others.
    """
    out = options.out
    if (out / MANIFEST_NAME).exists():
        assert options.overwrite
        (out / MANIFEST_NAME).unlink()  # first: from here on the folder is not complete
        for path in [out / STATISTICS_NAME, *_shards(out)]:
            path.unlink(missing_ok=True)
    numbers = {plan.shard(number).file: number for number in range(plan.num_shards)}
    kept, others = set(), []
    for path in _shards(out):
        try:
            record = read_record(path)
        except DataError as error:
            reporter.warn(f"a shard is removed and made again: {error}")
            path.unlink()
            continue
        number = numbers.get(path.name)
        if number is not None and _is_of(plan, number, record):
            kept.add(number)
        else:
            others.append(path)
    if others and not options.overwrite:
        raise ValueError(
            f"{out} holds {len(others)} shards of another source or other options, such as {others[0].name}; choose "
            "another folder or give --overwrite"
        )
    for path in others:
        path.unlink()
    return frozenset(kept)


def _shards(out: Path) -> list[Path]:
    return [path for split in SPLITS for path in shard_files(out, split)]


def _is_of(plan: BuildPlan, number: int, record: ShardRecord) -> bool:
    shard = plan.shard(number)
    return (shard.source, shard.split, shard.shard, shard.num_shards) == (
        record.source, record.split, record.shard, record.num_shards
    )  # fmt: skip
