"""Which samples make up which batch: pure functions of (seed, epoch), the same batches for any number of ranks.

A plan gives the order of an epoch. Global batch s is order[s * B : (s + 1) * B], and rank r of K gets block r of its K
equal blocks, so the global batch is the concatenation over ranks and every rank makes the same number of steps.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from owt_mpi import rng
from owt_mpi.data.block_shuffle import BlockShuffle

PADDING = -1  # the index of a row that holds no sample
LastBatch = Literal["drop", "pad", "wrap"]


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """Return the permutation of range(num_samples), int64, in which `epoch` visits the training set."""
    return rng.permutation(rng.stream_key(seed, "order", epoch), num_samples)


def rank_rows(global_batch: int, rank: int, size: int) -> slice:
    """Return the rows of the global batch that belong to `rank` of `size`. ValueError unless all get as many."""
    if global_batch % size:
        raise ValueError(
            f"a global batch of {global_batch} images cannot be shared equally by {size} ranks; "
            f"try {max(global_batch // size, 1) * size} or {(global_batch // size + 1) * size}"
        )
    per_rank = global_batch // size
    return slice(rank * per_rank, (rank + 1) * per_rank)


class BatchPlan(Protocol):
    """What the loader needs to know of an epoch."""

    @property
    def global_batch(self) -> int:
        """B, the number of rows of a global batch."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """The number of global batches of an epoch."""
        ...

    @property
    def steps_together(self) -> int:
        """Of how many steps the samples are best fetched together: their neighbours in storage are among them."""
        ...

    def order(self, epoch: int) -> np.ndarray:
        """Return the sample index of every row of the epoch, int64 (steps_per_epoch * B,); PADDING for no sample."""
        ...


@dataclass(frozen=True)
class TrainPlan:
    """Every epoch in a new order, cut into batches.

    What of the num_samples % B samples at the end of the order: with "drop" they are left out of this epoch; with "pad"
    they make a batch with rows of PADDING; with "wrap" one with the first samples of the order once more.
    The order is `epoch_order`, in which every permutation is as likely as another, or that of `blocks` where given.
    """

    num_samples: int
    global_batch: int
    seed: int
    blocks: BlockShuffle | None = None
    last_batch: LastBatch = "drop"

    def __post_init__(self) -> None:
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"the training set has {self.num_samples} images, fewer than a global batch of {self.global_batch}; "
                f"choose a global batch of at most {self.num_samples}, or --last-batch pad or wrap"
            )

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches."""
        full = self.num_samples // self.global_batch
        return full if self.last_batch == "drop" else -(-self.num_samples // self.global_batch)

    @property
    def steps_together(self) -> int:
        """The number of steps that blocks are mixed for, 1 without blocks."""
        return 1 if self.blocks is None else self.blocks.mixed_steps(self.global_batch)

    def order(self, epoch: int) -> np.ndarray:
        """Return the samples of whole batches, PADDING or some once more where there are too few."""
        num_rows = self.steps_per_epoch * self.global_batch
        samples = self._samples(epoch)
        if self.last_batch == "wrap":
            return np.resize(samples, num_rows)
        order = np.full(num_rows, PADDING, np.int64)
        order[: len(samples)] = samples[:num_rows]
        return order

    def _samples(self, epoch: int) -> np.ndarray:
        """Return the samples in the order of an epoch; of blocks, those of full batches and then the others."""
        if self.blocks is None:
            return epoch_order(self.seed, epoch, self.num_samples)
        mixed = self.blocks.order(self.seed, epoch, self.num_samples, self.global_batch)
        return np.concatenate([mixed, np.setdiff1d(np.arange(self.num_samples), mixed)])


@dataclass(frozen=True)
class ValidationPlan:
    """Every sample once, in natural order; the last batch is filled up with PADDING."""

    num_samples: int
    global_batch: int

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError("the validation set has no images; rebuild the data set with more")

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches, the last one perhaps not full."""
        return -(-self.num_samples // self.global_batch)

    @property
    def steps_together(self) -> int:
        """One: the next batch is the next run of samples."""
        return 1

    def order(self, epoch: int) -> np.ndarray:
        """Return the natural order, whatever the epoch."""
        order = np.full(self.steps_per_epoch * self.global_batch, PADDING, np.int64)
        order[: self.num_samples] = np.arange(self.num_samples)
        return order


@dataclass(frozen=True)
class SamplePlan:
    """One batch of `count` of the samples, spread evenly over all `num_samples`, filled up with PADDING."""

    num_samples: int
    global_batch: int
    count: int
    steps_per_epoch: int = 1
    steps_together: int = 1

    @property
    def chosen(self) -> np.ndarray:
        """The samples, int64: no more than there are, nor than fit into the batch."""
        count = min(self.count, self.num_samples, self.global_batch)
        return np.arange(count) * self.num_samples // count

    def order(self, epoch: int) -> np.ndarray:
        """Return the samples, then PADDING, whatever the epoch."""
        order = np.full(self.global_batch, PADDING, np.int64)
        order[: len(self.chosen)] = self.chosen
        return order
