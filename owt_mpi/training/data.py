"""The images of a training run: readers and loaders as the options say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from owt_mpi.backends.base import Backend
from owt_mpi.backends.precision import compute_dtype
from owt_mpi.comm.base import Communicator
from owt_mpi.config import Config
from owt_mpi.data.augment import Augmentation, CentreView, RandomViews, TenViews, colour_noise
from owt_mpi.data.block_shuffle import BlockShuffle
from owt_mpi.data.cache import GIB, cache_shards
from owt_mpi.data.facts import DataFacts, mean_and_scale
from owt_mpi.data.jpeg_reader import JpegReader
from owt_mpi.data.loader import Loader
from owt_mpi.data.manifest import Manifest
from owt_mpi.data.readers import Reader, SyntheticReader
from owt_mpi.data.sampler import BatchPlan, SamplePlan, TrainPlan, ValidationPlan
from owt_mpi.data.shard_format import ShardReader


@dataclass(frozen=True)
class Data:
    """The loaders of a run, and what they read; no validation, and no samples of it, where the data has none."""

    train: Loader
    validation: Loader | None
    readers: tuple[Reader, Reader | None]
    samples: Loader | None


def open_readers(config: Config, num_threads: int) -> tuple[Reader, Reader | None]:
    """Return the readers of training and validation images, the latter None where the data has none.

    `num_threads` threads decode and resize where --read-threads does not say otherwise.
    """
    if config.data.data == "synthetic":
        channels, side = 3, config.model.crop
        shape = (side, side, channels)
        return SyntheticReader(
            config.data.synthetic_images, shape, config.data.synthetic_classes, config.run.seed
        ), None
    has_validation = "val" in Manifest.read(Path(config.data.data)).splits
    train = open_split(config, "train", num_threads)
    return train, open_split(config, "val", num_threads) if has_validation else None


def open_split(config: Config, split: str, num_threads: int) -> ShardReader | JpegReader:
    """Return the reader of one split of the shards in --data; see `open_readers`."""
    options = config.data
    read_threads = options.read_threads or num_threads
    shards = ShardReader(Path(options.data), split, options.memory_maps, read_threads)
    return shards if shards.storage == "raw" else JpegReader(shards, read_threads, options.draft)


def data_facts(reader: Reader) -> DataFacts | None:
    """Return what is to be known of the data set that `reader` reads; None of random images."""
    shards = reader.shards if isinstance(reader, JpegReader) else reader
    return DataFacts.of(shards.manifest) if isinstance(shards, ShardReader) else None


def fill_cache(config: Config, readers: Sequence[Reader | None], world: Communicator) -> dict[str, str]:
    """Make `readers` read from the memory of the node what --cache asks for, and return what to say of it.

    All ranks of `world` call. DataError, on all ranks of a node, where reading the shards fails.
    """
    if config.data.cache == 0:
        return {}
    shards = [each.shards if isinstance(each, JpegReader) else each for each in readers]
    from_files = [each for each in shards if isinstance(each, ShardReader)]
    node = world.split_by_node("ranks with a cache")
    return {"cache": cache_shards(from_files, int(config.data.cache * GIB), node)}


def make_loaders(
    config: Config, reader: Reader, validation: Reader | None, per_rank: int, world: Communicator, backend: Backend
) -> Data:
    """Return the loaders of this rank's `per_rank` images a step, which bring them to the device of `backend`."""
    statistics = reader.statistics
    mean, scale = mean_and_scale(statistics.mean, statistics.std, config.data.normalise)

    def loader(source: Reader, plan: BatchPlan, augmentation: Augmentation, scale: np.ndarray) -> Loader:
        return Loader(
            source, plan, backend, augmentation, dtype=compute_dtype(config.parallel.precision, config.parallel.dtype),
            mean=mean, scale=scale, rank=world.rank, size=world.size, prefetch=config.data.prefetch,
        )  # fmt: skip

    global_batch, seed, crop = per_rank * world.size, config.run.seed, (config.model.crop, config.model.crop)
    options = config.data
    blocks = BlockShuffle(options.shuffle_block, options.shuffle_buffer) if options.shuffle == "block" else None
    plan = TrainPlan(reader.num_samples, global_batch, seed, blocks, options.last_batch)
    colours = colour_noise(statistics, options.colour_noise)
    random_views = RandomViews(seed, crop, options.flip, options.crop_mode == "resized", colours)
    fixed_views = TenViews(crop) if options.validation_views == 10 else CentreView(crop)
    return Data(
        # as in the released program, noise does not make the numbers larger than in validation
        train=loader(reader, plan, random_views, scale / (1 + options.colour_noise)),
        validation=None
        if validation is None
        else loader(validation, ValidationPlan(validation.num_samples, global_batch), fixed_views, scale),
        readers=(reader, validation),
        samples=None
        if validation is None or config.run.samples == 0
        else loader(
            validation, SamplePlan(validation.num_samples, global_batch, config.run.samples), CentreView(crop), scale
        ),
    )
