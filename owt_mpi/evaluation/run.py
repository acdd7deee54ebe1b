"""An evaluation from options to tables."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import prod
from pathlib import Path

import numpy as np

from owt_mpi.backends.precision import compute_dtype
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import DATA_ERROR, USAGE_ERROR, CollectiveExit
from owt_mpi.comm.transport import open_transport
from owt_mpi.config import Config
from owt_mpi.data.augment import CentreView, TenViews
from owt_mpi.data.facts import DataFacts, mean_and_scale
from owt_mpi.data.jpeg_reader import JpegReader
from owt_mpi.data.loader import Loader
from owt_mpi.data.sample_names import all_names, names_of
from owt_mpi.data.sampler import ValidationPlan
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.evaluation.classes import check_classes
from owt_mpi.evaluation.feature_file import PIECE_BYTES, FeatureFile
from owt_mpi.evaluation.network import config_to_look, load_network, rows_per_rank
from owt_mpi.evaluation.options import EvaluateOptions
from owt_mpi.evaluation.outcomes import Outcomes, columns_of
from owt_mpi.evaluation.report import Report, write_json, write_npz
from owt_mpi.evaluation.trained import open_trained
from owt_mpi.outputs import Layer, find_layer, outputs_of
from owt_mpi.spans import about
from owt_mpi.trainer import Trainer
from owt_mpi.training.data import open_split
from owt_mpi.training.setup import agreed, build_model, make_plan, open_backend

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Subject:
    """What is evaluated, and on what."""

    trainer: Trainer
    loader: Loader
    shards: ShardReader
    facts: DataFacts
    layer: Layer | None
    rows: int  # images of a rank at a time
    said: dict[str, str]  # for people


def run_evaluation(options: EvaluateOptions, world: Communicator, ranks_sharing_cores: int) -> None:
    """Evaluate as `options` say, and print the tables on rank 0. All ranks of `world` call.

    `ranks_sharing_cores` of them run on this rank's cores. What is wrong with options, checkpoint or data ends all
    ranks together, with a CollectiveExit.
    """

    def say(text: str) -> None:
        if world.rank == 0:
            print(text, flush=True)

    subject = _set_up(options, world, ranks_sharing_cores)
    for name, fact in subject.said.items():
        say(f"{name}: {fact}")
    start = time.perf_counter()
    outcomes = _evaluate(options, subject, say)
    seconds = time.perf_counter() - start
    with agreed(world, DATA_ERROR):
        if outcomes is not None:
            worst = np.argsort(-outcomes.losses, kind="stable")[: options.worst].tolist()
            report = Report(outcomes, subject.facts, dict(zip(worst, names_of(subject.shards, worst), strict=True)))
            for table in report.tables(options.classes, options.confused):
                say(f"\n{table}".rstrip())
            say(f"\n{report.totals()}, {len(outcomes.labels) / seconds:.0f} images/s")
            if options.json:
                write_json(Path(options.json), report, {"split": options.split, **subject.said})
            if options.npz:
                write_npz(Path(options.npz), report)


def _set_up(options: EvaluateOptions, world: Communicator, ranks_sharing_cores: int) -> _Subject:
    """Return what is evaluated. CollectiveExit if something is wrong. All ranks call."""
    with agreed(world, DATA_ERROR):
        trained = open_trained(options.checkpoint, options.network.model, options.file, world)
    with agreed(world, USAGE_ERROR):
        config = _with_data(config_to_look(trained.config, options.network, options.ranks, options.views), options)
        backend, reason, num_threads = open_backend(config, world, ranks_sharing_cores)
    with agreed(world, USAGE_ERROR):
        transport = open_transport(world, backend, config.parallel)
    world = transport.comm
    with agreed(world, DATA_ERROR):
        reader = open_split(config, options.split, num_threads)
        shards = reader.shards if isinstance(reader, JpegReader) else reader
        facts = DataFacts.of(shards.manifest)
        classes = check_classes(trained, facts, config.data.data)
    with agreed(world, USAGE_ERROR):
        model = build_model(config, reader.num_channels, reader.num_classes, backend.name)
        plan = make_plan(config, world.size)
        rows = rows_per_rank(plan, options.ranks.images_per_rank, trained.global_batch)
        plan.check(model, rows)
        layer = find_layer(model, options.features) if options.features else None
        pixels = trained.facts or facts
        mean, scale = mean_and_scale(pixels.mean, pixels.std, config.data.normalise)
        crop = (config.model.crop, config.model.crop)
        loader = Loader(
            reader,
            ValidationPlan(reader.num_samples, rows * world.size),
            backend,
            TenViews(crop) if config.data.validation_views == 10 else CentreView(crop),
            dtype=compute_dtype(config.parallel.precision, config.parallel.dtype),
            mean=mean,
            scale=scale,
            rank=world.rank,
            size=world.size,
            prefetch=config.data.prefetch,
        )
    with agreed(world, DATA_ERROR):
        trainer = load_network(trained, config, model, plan, world, backend, rows)
    said = {
        "checkpoint": f"{trained.path}: {trained.said}",
        "model": f"{model.name}, {model.loss} loss, {sum(p.size for p in model.parameters()):,} parameters",
        "data": reader.describe(),
        "classes": classes,
        "views": f"{loader.num_views} of each image, {crop[0]}x{crop[1]}",
        "backend": reason,
        "precision": config.parallel.precision if config.parallel.precision != "fp32" else config.parallel.dtype,
        "threads": f"{num_threads} a rank",
        "transport": transport.description,
        "ranks": f"{trainer.layout.describe()}, {rows} images a rank at a time",
    }
    return _Subject(trainer, loader, shards, facts, layer, rows, said)


def _with_data(config: Config, options: EvaluateOptions) -> Config:
    """Return the options with the images that are asked for. ValueError if there are none."""
    data = options.data or config.data.data
    views = config.data.validation_views
    if not data:
        raise ValueError(f"{options.checkpoint} does not say what it was trained on; give --data a folder of shards")
    if data == "synthetic":
        raise ValueError("the network was trained on random images (synthetic); give --data a folder of shards")
    if options.features and views > 1:
        raise ValueError(f"--features are those of one view of an image, and there are {views}; give --views 1")
    return replace(config, data=replace(config.data, data=data))


def _evaluate(options: EvaluateOptions, subject: _Subject, say: Say) -> Outcomes | None:
    """Return the outcomes of all images on rank 0, None on the others. All ranks call."""
    trainer, layer = subject.trainer, subject.layer
    world = trainer.layout.world
    file: AbstractContextManager[FeatureFile | None] = nullcontext()
    with agreed(world, DATA_ERROR):
        if layer is not None and world.rank == 0:
            shape = (subject.shards.num_samples, *layer.shape)
            facts = {"layer": layer.name, "split": options.split, **subject.said}
            file = FeatureFile(Path(options.features_out), shape, trainer.exact_dtype, facts)
    with file as features:
        found = list(_columns(subject, features, say))
        with agreed(world, DATA_ERROR):
            if features is not None:
                features.finish(subject.shards.labels, all_names(subject.shards))
    if layer is not None:
        say(f"features of {layer.name}, {subject.shards.num_samples} x {layer.shape}, in {options.features_out}")
    return Outcomes.of_columns(np.concatenate(found)) if world.rank == 0 else None


def _columns(subject: _Subject, features: FeatureFile | None, say: Say) -> Iterator[np.ndarray]:
    """Yield the outcomes of one batch after the other, in the order of the samples, on rank 0; else nothing.

    CollectiveExit if the network's outputs are no finite numbers. All ranks call.
    """
    trainer, loader, layer = subject.trainer, subject.loader, subject.layer
    world, num_samples = trainer.layout.world, subject.shards.num_samples
    global_batch, num_steps = loader.plan.global_batch, loader.plan.steps_per_epoch
    batches = loader.epoch(0)
    for step, batch in enumerate(batches):
        logits = []
        for view in chain([batch], islice(batches, loader.num_views - 1)):
            of_view, of_layer = outputs_of(trainer, view, layer)
            logits.append(of_view)
        own = columns_of(trainer.model.loss, logits, batch.labels)
        with about("outcomes"):
            columns = world.start_all_gather(own).wait()[: num_samples - step * global_batch]
        broken = np.flatnonzero(~np.isfinite(columns[:, 0]))
        if broken.size:
            name = names_of(subject.shards, [step * global_batch + int(broken[0])])[0]
            raise CollectiveExit(
                1,
                f"error: the network's outputs for {name} are no finite numbers, nor those for {broken.size - 1} more "
                f"images of the {len(columns)} in the batch; take an earlier checkpoint, or --precision fp32",
            )
        if of_layer is not None:
            _write_features(world, features, of_layer, step * global_batch)
        if world.rank == 0:
            yield columns
        if (step + 1) * 10 // num_steps > step * 10 // num_steps and step + 1 < num_steps:
            say(f"{(step + 1) * global_batch} of {num_samples} images")


def _write_features(world: Communicator, features: FeatureFile | None, own: np.ndarray, first: int) -> None:
    """Let rank 0 write all ranks' rows, which begin at sample `first`, a few of each at a time. All ranks call."""
    num_rows = len(own)
    step = max(1, PIECE_BYTES // (world.size * prod(own.shape[1:]) * own.itemsize))
    for start in range(0, num_rows, step):
        with about("features"):
            rows = world.start_all_gather(own[start : start + step]).wait()
        with agreed(world, DATA_ERROR):
            if features is not None:
                for rank, part in enumerate(np.split(rows, world.size)):
                    features.write(first + rank * num_rows + start, part)
