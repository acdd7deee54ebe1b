"""How a batch and a network are cut into pieces, and the one order in which they are added up."""

from dataclasses import dataclass

from owt_mpi.backends.base import Array
from owt_mpi.nn.layers import BlockLinear, Linear
from owt_mpi.nn.model import Model


@dataclass(frozen=True)
class Pieces:
    """A batch of `batch_size` rows, all layers' units and the classes, each in `count` (S) equal pieces."""

    count: int
    batch_size: int

    @property
    def rows(self) -> int:
        """Rows in a piece of the batch: what the trunk computes at once."""
        return self.batch_size // self.count

    @property
    def head_rows(self) -> int:
        """Rows that the head computes at once; whatever a pass consists of, it consists of runs of so many."""
        return self.rows // self.count

    def obstacle(self, model: Model, num_ranks: int) -> str:
        """Return why `num_ranks` ranks cannot train `model` in pieces, "" if they can."""
        if self.count & (self.count - 1) or self.count % num_ranks:
            return (
                f"--pieces {self.count} must be a power of two that the number of ranks, {num_ranks}, divides: a rank "
                "adds up neighbouring pieces pairwise, and then the ranks do"
            )
        if self.batch_size % self.count**2:
            fitting = self.count**2 // num_ranks
            return (
                f"a batch of {self.batch_size} cannot be cut into {self.count} pieces for the trunk and each into "
                f"{self.count} for the head's passes; use --images-per-rank {fitting} or a multiple of it"
            )
        for layer in model.head.layers.values():
            if isinstance(layer, BlockLinear):
                return f"{layer.name} is of restricted connectivity, whose sums have no fixed order"
            if isinstance(layer, Linear) and (layer.inputs % self.count or layer.outputs % self.count):
                return (
                    f"the {layer.inputs} inputs and {layer.outputs} units of {layer.name} cannot both be cut into "
                    f"{self.count} pieces; use another --crop or --classes, or fewer --pieces"
                )
        return ""


def pairwise_sum(parts: Array) -> Array:
    """Return the sum of `parts` along axis 0, neighbours first: ((p0 + p1) + (p2 + p3)) + ... A power of two of them.

    A new array, but for a single part, which is returned as a view.
    """
    assert len(parts) & (len(parts) - 1) == 0, f"{len(parts)} parts"
    while len(parts) > 1:
        parts = parts[0::2] + parts[1::2]
    return parts[0]
