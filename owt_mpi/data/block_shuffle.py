"""An order of samples for slow file systems: whole blocks of neighbours are read, many blocks mixed.

The samples, in storage order from a random one on, are cut into blocks of `block` samples, and the blocks are laid end
to end in random order. That line is cut into equal lanes, each of which feeds the same rows of every global batch: so a
rank, which has some of the rows, reads blocks of its own, and the batch still holds samples of all lanes. A lane mixes
what it feeds into the next steps, some blocks of it; in all lanes together that is `buffer` samples.
"""

from dataclasses import dataclass

import numpy as np

from owt_mpi import rng

LEAST_BLOCKS = 4  # that a lane mixes
_MIX_BITS = 40  # of random bits below the group's number in a sort key


@dataclass(frozen=True)
class BlockShuffle:
    """`block` samples are read together, and `buffer` samples (of all ranks together) are mixed.

    A batch that is larger than the buffer is mixed as a whole.
    """

    block: int
    buffer: int

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"--shuffle-block is {self.block}, but at least 1 sample is read at a time")
        if self.buffer < LEAST_BLOCKS * self.block:
            raise ValueError(
                f"--shuffle-buffer is {self.buffer}, but must hold at least {LEAST_BLOCKS} blocks of {self.block} "
                f"samples to mix them; make it {LEAST_BLOCKS * self.block} or more, or --shuffle-block smaller"
            )

    def num_lanes(self, global_batch: int) -> int:
        """Return into how many lanes the rows of a batch are divided: as many as the buffer has blocks for."""
        most = min(self.buffer // (LEAST_BLOCKS * self.block), global_batch)
        return next(lanes for lanes in range(most, 0, -1) if global_batch % lanes == 0)

    def mixed_steps(self, global_batch: int) -> int:
        """Return the number of steps whose samples are mixed: steps 0 .. that - 1, and so on."""
        return max(1, self.buffer // global_batch)

    def order(self, seed: int, epoch: int, num_samples: int, global_batch: int) -> np.ndarray:
        """Return the samples of the full batches of an epoch, int64 (num_samples // global_batch * global_batch,)."""
        num_steps = num_samples // global_batch
        lanes = self.num_lanes(global_batch)
        rows = global_batch // lanes
        line = self._line(seed, epoch, num_samples)[: num_steps * global_batch]
        num_groups = -(-num_steps // self.mixed_steps(global_batch))
        group_of_step = np.arange(num_steps) // self.mixed_steps(global_batch)
        groups = (np.arange(lanes)[:, None] * num_groups + np.repeat(group_of_step, rows)).reshape(-1)
        assert lanes * num_groups < 2 ** (64 - _MIX_BITS)
        bits = rng.random_bits(rng.stream_key(seed, "order", epoch, "mix"), np.arange(len(line)))
        keys = (groups.astype(np.uint64) << np.uint64(_MIX_BITS)) | (bits >> np.uint64(64 - _MIX_BITS))
        mixed = line[np.argsort(keys, kind="stable")].reshape(lanes, num_steps, rows)
        return np.ascontiguousarray(mixed.swapaxes(0, 1)).reshape(-1)

    def _line(self, seed: int, epoch: int, num_samples: int) -> np.ndarray:
        """Return all samples, the blocks in random order and in each the samples in storage order."""
        first = rng.integers(rng.stream_key(seed, "order", epoch, "first"), np.zeros(1, np.int64), num_samples)
        num_blocks = -(-num_samples // self.block)
        starts = rng.permutation(rng.stream_key(seed, "order", epoch, "blocks"), num_blocks) * self.block
        places = (starts[:, None] + np.arange(self.block)).reshape(-1)
        return np.asarray((places[places < num_samples] + first) % num_samples)
