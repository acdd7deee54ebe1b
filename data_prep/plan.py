"""What every rank knows of a build: which image goes where. A pure function of the listing and the options."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.images import Recipe
from data_prep.options import Options
from data_prep.parts import Part
from data_prep.sources import ImageList, SourceImage, SourceReader
from owt_mpi import rng
from owt_mpi.data.manifest import FORMAT_VERSION
from owt_mpi.data.shard_format import shard_counts
from owt_mpi.data.shard_writer import ShardPlan

DEFAULT_SHARD_BYTES = 1 << 30


@dataclass(frozen=True)
class SplitPlan:
    """One split: image `order[i]` of `images` is its i-th, in shards of `counts`; `identity` is a hash of all that."""

    split: str
    path: Path
    source: int
    images: ImageList
    order: np.ndarray
    counts: tuple[int, ...]
    identity: str


@dataclass(frozen=True)
class ShardTask:
    """A shard to build: its images in order, and those of the source in `readers` of the plan."""

    plan: ShardPlan
    path: Path
    source: int
    images: tuple[SourceImage, ...]


@dataclass(frozen=True)
class BuildPlan:
    """The whole build. Shards are numbered through all splits; `kept` are finished already."""

    class_names: tuple[str, ...]
    splits: tuple[SplitPlan, ...]
    readers: tuple[SourceReader, ...]
    recipe: Recipe
    skip_errors: bool
    kept: frozenset[int] = frozenset()

    @property
    def num_shards(self) -> int:
        """How many shards all splits have."""
        return sum(len(split.counts) for split in self.splits)

    def shard(self, number: int) -> ShardPlan:
        """Return the plan of a shard."""
        split, index = self._place(number)
        return ShardPlan(
            split.split, index, len(split.counts), split.counts[index], self.recipe.storage, self.recipe.image_shape,
            self.class_names, split.identity,
        )  # fmt: skip

    def task(self, number: int) -> ShardTask:
        """Return the plan of a shard, and its images."""
        split, index = self._place(number)
        first = sum(split.counts[:index])
        chosen = split.order[first : first + split.counts[index]].tolist()
        images = tuple(split.images[image] for image in chosen)
        return ShardTask(self.shard(number), split.path, split.source, images)

    def _place(self, number: int) -> tuple[SplitPlan, int]:
        for split in self.splits:
            if number < len(split.counts):
                return split, number
            number -= len(split.counts)
        raise AssertionError("there are not so many shards")


def make_plan(
    options: Options, parts: dict[str, Part], class_names: tuple[str, ...], readers: tuple[SourceReader, ...]
) -> BuildPlan:
    """Return the plan of a build from nothing."""
    recipe = options.recipe()
    splits = tuple(_split(options, recipe, split, part, class_names) for split, part in parts.items())
    return BuildPlan(class_names, splits, readers, recipe, options.on_error == "skip")


def keeping(plan: BuildPlan, kept: frozenset[int]) -> BuildPlan:
    """Return the plan of a build that goes on from some finished shards."""
    return replace(plan, kept=kept)


def _split(options: Options, recipe: Recipe, split: str, part: Part, class_names: tuple[str, ...]) -> SplitPlan:
    num_images = len(part.chosen)
    positions = rng.permutation(rng.stream_key(options.seed, "shuffle", split), num_images)
    counts = tuple(shard_counts(num_images, _num_shards(options, recipe, part)))
    identity = _hash(recipe, options.seed, part, class_names)
    order = part.chosen[np.argsort(positions)]
    return SplitPlan(split, part.path, part.source, part.images, order, counts, identity)


def _num_shards(options: Options, recipe: Recipe, part: Part) -> int:
    if options.shards is not None:
        return options.shards
    num_images: int = len(part.chosen)
    if options.images_per_shard is not None:
        return -(-num_images // options.images_per_shard)
    if recipe.size is None:
        num_bytes: int = sum(part.images[index].size for index in part.chosen.tolist())
    else:
        num_bytes = num_images * recipe.size * recipe.size * recipe.channels
    return max(min(-(-num_bytes // DEFAULT_SHARD_BYTES), num_images), 1)


def _hash(recipe: Recipe, seed: int, part: Part, class_names: tuple[str, ...]) -> str:
    """Return the hash of all that decides the content of a split's shards, but how many they are."""
    how = [FORMAT_VERSION, asdict(recipe), seed, class_names]
    digest = hashlib.sha256(json.dumps(how).encode())
    for index in part.chosen.tolist():
        image = part.images[index]
        digest.update(f"{image}\0{image.size}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
