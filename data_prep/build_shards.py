"""Build the shards of a data set from folders or archives of images: `python -m data_prep.build_shards --help`.

Alone or as `mpirun -n K`. The same source, options and seed give the same bytes, whatever the number of ranks and
workers, and whether the build was interrupted. The manifest is written last: a folder with one is complete. Exit
status: 0 built or built already, 2 wrong options, 3 unusable data or a full disk.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console

from data_prep.builder import build_share
from data_prep.convert import Converter
from data_prep.finish import finish
from data_prep.folder import built_already, finished_shards, remove_remains
from data_prep.options import Options
from data_prep.parts import check_classes, choose_parts, describe
from data_prep.plan import BuildPlan, keeping, make_plan
from data_prep.progress import Reporter
from data_prep.sources import Listing, open_source
from data_prep.work import Stopped, WorkQueue
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import DATA_ERROR, USAGE_ERROR, CollectiveExit, agree, run_command
from owt_mpi.comm.launcher import launcher_rank
from owt_mpi.comm.mailbox import open_mailbox
from owt_mpi.comm.placement import ranks_sharing_cores
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.command_line import usage_errors
from owt_mpi.data.manifest import DataError, Manifest, ShardEntry
from owt_mpi.input_file import one_line

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
T = TypeVar("T")


@dataclass(frozen=True)
class _Job:
    """What rank 0 has found out: a data set that is there already, or what is to be built."""

    built: Manifest | None
    plan: BuildPlan | None = None
    class_titles: dict[str, str] = field(default_factory=dict)
    source_notes: tuple[str, ...] = ()


def build(options: Options, reporter: Reporter | None = None, comm: Communicator | None = None) -> Manifest:
    """Build the data set, or find that it has been built with these options, and return its manifest.

    All ranks of `comm` call. ValueError for wrong options, DataError for unusable data or a full disk, on one rank;
    of many, CollectiveExit on all. Then OUT holds no manifest and no part of a shard, but perhaps finished shards.
    """
    reporter = reporter or Reporter(Console(quiet=True))
    comm = comm or SerialCommunicator()
    options.check()
    with contextlib.ExitStack() as opened:
        job = _from_rank_0(comm, options.out, lambda: _prepare(options, reporter, opened))
        if job.plan is None:
            assert job.built is not None
            return job.built
        plan = job.plan
        num_workers = options.workers or max(len(os.sched_getaffinity(0)) // ranks_sharing_cores(comm), 1)
        entries = _build_shards(options.out, plan, num_workers, reporter, comm)
        return _from_rank_0(comm, options.out, lambda: _finish(options, job, plan, entries, reporter))


def _prepare(options: Options, reporter: Reporter, opened: contextlib.ExitStack) -> _Job:
    """Return what is to be built; `opened` closes the sources."""
    built = built_already(options)
    if options.out.exists():
        remove_remains(options.out)
    if built is not None:
        reporter.say(f"{options.out} is already built")
        return _Job(built)
    listings = [opened.enter_context(open_source(options.source, options.layout, options.out))]
    if options.val is not None:
        listings.append(opened.enter_context(open_source(options.val, None, options.out)))
    for listing in listings:
        describe(listing, reporter)
    parts = choose_parts(listings, options.val_fraction, options.seed)
    class_names = check_classes(parts, listings[0], reporter)
    plan = make_plan(options, parts, class_names, tuple(listing.reader for listing in listings))
    options.out.mkdir(parents=True, exist_ok=True)
    kept = finished_shards(options, plan, reporter)
    if kept:
        reporter.say(f"{options.out}: {len(kept)} of {plan.num_shards} shards are finished already")
    _check_space(options.out, plan, kept)
    notes = [f"{listing.path.name}: {note}" for listing in listings for note in _notes(listing)]
    return _Job(None, keeping(plan, kept), listings[0].class_titles, tuple(notes))


def _build_shards(
    out: Path, plan: BuildPlan, num_workers: int, reporter: Reporter, comm: Communicator
) -> dict[int, ShardEntry]:
    """Return the entries of all shards, by number; all ranks build some."""
    num_images = sum(plan.shard(number).num_rows for number in range(plan.num_shards) if number not in plan.kept)
    error: Exception | None = None
    share: dict[int, ShardEntry] = {}
    with reporter.track("images", num_images) as advance:
        queue = WorkQueue(open_mailbox(comm), plan.num_shards, advance)
        try:
            share = build_share(out, plan, Converter(plan.readers, plan.recipe), queue, num_workers)
        except Stopped:
            pass
        except (DataError, OSError) as failure:
            error = _explained(failure, out)
        queue.close(failed=error is not None)
    _agree(comm, error)
    return {number: entry for entries in comm.all_gather_object(share) for number, entry in entries.items()}


def _finish(
    options: Options, job: _Job, plan: BuildPlan, entries: dict[int, ShardEntry], reporter: Reporter
) -> Manifest:
    manifest = finish(
        options.out, plan, entries, class_titles=job.class_titles, source_notes=job.source_notes, seed=options.seed,
        options=options.identity(),
    )  # fmt: skip
    for split in manifest.splits.values():
        for fate in ("skipped", "kept"):
            odd = [f"{file.name}: {file.reason}" for file in split.odd_files if file.fate == fate]
            reporter.warn_of_many(f"{{}} odd files {fate}", odd)
    reporter.warn_of_many(
        "{} groups of files have the same content", [" = ".join(names) for names in manifest.duplicates]
    )
    return manifest


def _notes(listing: Listing) -> list[str]:
    """Return all that is not as it should be in a source, for the manifest."""
    return [*listing.ignored, *(f"class {name} is empty" for name in listing.empty_classes), *listing.miscounts()]


def _check_space(out: Path, plan: BuildPlan, kept: frozenset[int]) -> None:
    """Raise DataError if raw images will not fit on the disk, before hours are spent on them."""
    height, width, channels = plan.recipe.image_shape
    if plan.recipe.storage != "raw" or height is None or width is None:
        return
    num_images = sum(plan.shard(number).num_rows for number in range(plan.num_shards) if number not in kept)
    needed, free = num_images * height * width * channels, shutil.disk_usage(out).free
    if needed > free:
        raise DataError(
            f"{out} needs {needed / 1e9:.1f} GB more for its images, but its disk has {free / 1e9:.1f} GB free; "
            "make room, choose another folder, or --storage jpeg for about a tenth"
        )


def _explained(error: Exception, out: Path) -> Exception:
    """Return `error`, with the way out if the disk is full."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return DataError(
            f"{out} is full ({error.strerror}); make room and give the same command again: finished shards are kept"
        )
    return error


def _from_rank_0(comm: Communicator, out: Path, function: Callable[[], T]) -> T:
    """Return on all ranks what `function`, which writes to `out`, returns on rank 0, or raise its error."""
    error: Exception | None = None
    result: T | None = None
    if comm.rank == 0:
        try:
            result = function()
        except (ValueError, OSError) as failure:
            error = _explained(failure, out)
    _agree(comm, error)
    (found, *_) = comm.all_gather_object(result)
    assert found is not None
    return found


def _agree(comm: Communicator, error: Exception | None) -> None:
    """Raise a lone rank's `error`; of many ranks, CollectiveExit on all if any has one. All ranks call."""
    if comm.size == 1:
        if error is not None:
            raise error
        return
    agree(comm, error, max(comm.all_gather_object(0 if error is None else _exit_code(error))))


def _exit_code(error: Exception) -> int:
    return DATA_ERROR if isinstance(error, DataError | OSError) else USAGE_ERROR


def _summary(options: Options, manifest: Manifest, reporter: Reporter, num_ranks: int) -> dict[str, Any]:
    splits = {
        name: {"images": split.count, "shards": len(split.shards), "skipped": len(split.skipped)}
        for name, split in manifest.splits.items()
    }
    return {
        "out": str(options.out),
        "classes": len(manifest.class_names),
        "splits": splits,
        "ranks": num_ranks,
        "seconds": round(reporter.seconds, 3),
        "images_per_second": round(
            sum(split.count for split in manifest.splits.values()) / max(reporter.seconds, 1e-3), 1
        ),
        "duplicates": len(manifest.duplicates),
        "warnings": reporter.warnings,
    }


def parse(arguments: list[str] | None) -> Options:
    """Return the options that the arguments give. CollectiveExit, with a message on rank 0, if they are wrong."""
    with usage_errors(), contextlib.ExitStack() as stack:
        if launcher_rank():  # rank 0 speaks for all
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
            stack.enter_context(contextlib.redirect_stderr(silence))
        options = tyro.cli(
            Options,
            prog="python -m data_prep.build_shards",
            args=arguments,
            config=(tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff),
        )
        options.check()
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status. CollectiveExit if it fails."""
    options = parse(arguments)
    comm: Communicator = SerialCommunicator()
    if launcher_rank() is not None:
        from owt_mpi.comm.mpi import world  # a process that is alone needs no MPI

        comm = world() if world().size > 1 else comm
    reporter = Reporter(
        Console(quiet=comm.rank > 0, force_terminal={"bar": True, "lines": False}.get(options.progress))
    )
    try:
        manifest = build(options, reporter, comm)
        if comm.rank == 0 and options.json is not None:
            summary = _summary(options, manifest, reporter, comm.size)
            options.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        raise CollectiveExit(_exit_code(error), f"error: {one_line(error)}") from error
    found = ", ".join(f"{name} {split.count} images" for name, split in manifest.splits.items())
    reporter.say(f"{options.out}: {found}, {len(manifest.class_names)} classes")
    return 0


if __name__ == "__main__":
    run_command(main)
