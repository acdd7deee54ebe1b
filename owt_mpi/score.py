"""What a training step and validation are scored by, and what ranks tell one another with a score."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from owt_mpi.backends.base import Array


@dataclass(frozen=True)
class Score:
    """Sums over examples of all ranks: their loss, top-1 and top-5 hits, and their number."""

    loss_sum: float = 0.0
    top1_hits: int = 0
    top5_hits: int = 0
    num_examples: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.loss_sum + other.loss_sum,
            self.top1_hits + other.top1_hits,
            self.top5_hits + other.top5_hits,
            self.num_examples + other.num_examples,
        )

    @property
    def loss(self) -> float:
        """Mean loss an example."""
        return self.loss_sum / self.num_examples

    @property
    def top1(self) -> float:
        """Share of the examples whose label scored highest."""
        return self.top1_hits / self.num_examples

    @property
    def top5(self) -> float:
        """Share of the examples whose label was among the five that scored highest."""
        return self.top5_hits / self.num_examples


class HeadPass(NamedTuple):
    """What a pass of the head is scored by: this rank's part of the loss, its block of the logits, and the labels."""

    loss: Array
    logits: Array
    labels: np.ndarray


class Wishes(NamedTuple):
    """What some rank wishes to happen after a step: all ranks hear of it with the step's score."""

    stop: bool = False
    checkpoint: bool = False


def score_of(total: np.ndarray) -> Score:
    """Return the score whose four numbers come first in `total`, those of all ranks added up."""
    return Score(float(total[0]), int(total[1]), int(total[2]), int(total[3]))
