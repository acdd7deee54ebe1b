"""How the network does on each image: its loss, the class it names, and how far down the right one is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.nn.model import Loss
from owt_mpi.parallel.sharded import class_scores

NUM_COLUMNS = 5


@dataclass(frozen=True)
class Outcomes:
    """A number for each image, in the order of the samples, float64 (N,) or int64 (N,).

    `above` is how many classes score above the label: 0 is a top-1 hit, below 5 a top-5 hit. Scores are softmax or
    logistic outputs, averaged over views.
    """

    losses: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    above: np.ndarray
    scores: np.ndarray  # of the predicted class

    @classmethod
    def of_columns(cls, columns: np.ndarray) -> "Outcomes":
        """Return the outcomes that are the rows of `columns`."""
        losses, labels, predicted, above, scores = columns.T
        return cls(losses, labels.astype(np.int64), predicted.astype(np.int64), above.astype(np.int64), scores)

    @property
    def top1(self) -> np.ndarray:
        """Which images' label scored highest, bool (N,)."""
        return self.above < 1

    @property
    def top5(self) -> np.ndarray:
        """Which images' label was among the five that scored highest, bool (N,)."""
        return self.above < 5


def scores_of(kind: Loss, views: Sequence[np.ndarray]) -> np.ndarray:
    """Return the score of each class, float64 (n, classes): softmax or logistic outputs, averaged over the views."""
    alone = SerialCommunicator()
    return np.asarray(np.mean([class_scores(kind, logits, alone) for logits in views], axis=0))


def columns_of(kind: Loss, views: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Return what Outcomes.of_columns takes, float64 (n, NUM_COLUMNS), of the logits (n, classes) that views give.

    The loss is the mean over views, and NaN where a logit is no finite number. Of equal scores the lower class is
    above. Classes are ranked by the logits of a single view, whose scores may be equal where logits are not. Rows with
    a negative label have no meaning.
    """
    rows, label = np.arange(len(labels)), np.maximum(labels, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        losses = np.mean([_losses(kind, logits.astype(np.float64), rows, label) for logits in views], axis=0)
        scores = scores_of(kind, views)
    ranked = views[0] if len(views) == 1 else scores
    own = ranked[rows, label][:, None]
    above = ((ranked > own) | ((ranked == own) & (np.arange(ranked.shape[1]) < label[:, None]))).sum(axis=1)
    predicted = ranked.argmax(axis=1)
    return np.stack([losses, labels, predicted, above, scores[rows, predicted]], axis=1)


def _losses(kind: Loss, logits: np.ndarray, rows: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of each row, NaN where a logit is no finite number."""
    if kind == "logistic":
        losses = np.logaddexp(0, logits).sum(axis=1) - logits[rows, label]
    else:
        losses = np.logaddexp.reduce(logits, axis=1) - logits[rows, label]
    return np.where(np.isfinite(logits).all(axis=1), losses, np.nan)
