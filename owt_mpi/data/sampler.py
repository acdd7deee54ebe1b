"""Which samples make up which batch: pure functions of (seed, epoch), the same batches for any number of ranks.

A plan gives the order of an epoch. Global batch s is order[s * B : (s + 1) * B], and rank r of K gets block r of its K
equal blocks, so the global batch is the concatenation over ranks and every rank makes the same number of steps.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from owt_mpi import rng
from owt_mpi.data.block_shuffle import BlockShuffle

PADDING = -1  # the index of a row that holds no sample


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

    def order(self, epoch: int) -> np.ndarray:
        """Return the sample index of every row of the epoch, int64 (steps_per_epoch * B,); PADDING for no sample."""
        ...


@dataclass(frozen=True)
class TrainPlan:
    """Every epoch in a new order. The last num_samples % B samples of the order are left out: all batches are full.

    The order is `epoch_order`, in which every permutation is as likely as another, or that of `blocks` where given.
    """

    num_samples: int
    global_batch: int
    seed: int
    blocks: BlockShuffle | None = None

    def __post_init__(self) -> None:
        if self.num_samples < self.global_batch:
            raise ValueError(
                f"the training set has {self.num_samples} images, fewer than a global batch of {self.global_batch}; "
                f"choose a global batch of at most {self.num_samples}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """The number of full batches."""
        return self.num_samples // self.global_batch

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch, cut to whole batches."""
        if self.blocks is not None:
            return self.blocks.order(self.seed, epoch, self.num_samples, self.global_batch)
        return epoch_order(self.seed, epoch, self.num_samples)[: self.steps_per_epoch * self.global_batch]


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

    def order(self, epoch: int) -> np.ndarray:
        """Return the natural order, whatever the epoch."""
        order = np.full(self.steps_per_epoch * self.global_batch, PADDING, np.int64)
        order[: self.num_samples] = np.arange(self.num_samples)
        return order
