"""Validation that looks at every image several times: what the network gives each class is averaged over the views.

Krizhevsky et al. 2012, section 4.1: five patches and their mirror images, averaged behind the softmax.
"""

from collections.abc import Iterable

import numpy as np

from owt_mpi.comm.place import enter
from owt_mpi.data.loader import Batch
from owt_mpi.nn.module import Context
from owt_mpi.parallel.sharded import class_scores, classes_above_label
from owt_mpi.trainer import Trainer


def tally_of_views(trainer: Trainer, views: Iterable[Batch]) -> np.ndarray:
    """Return this rank's part of the tally of one batch, given once for each view of its images. All ranks call.

    As of Trainer.validate: loss, top-1 and top-5 hits, examples. Hits are of the averaged scores, the loss is the mean
    over views. One view after the other is taken.
    """
    enter("validation")
    head, to_host, xp = trainer.layout.head, trainer.backend.to_host, trainer.backend.xp
    scores, loss, num_views = np.zeros(()), 0.0, 0
    labels = np.empty(0, np.int64)
    for batch in views:
        passes = trainer.forward_only(batch, Context(False, batch.rows, trainer.seed))
        loss += float(to_host(xp.stack([each.loss for each in passes])).sum(dtype=np.float64))
        logits = to_host(xp.concatenate([each.logits for each in passes]))
        labels = np.concatenate([each.labels for each in passes])
        scores = scores + class_scores(trainer.model.loss, logits, head)
        num_views += 1
    counted = labels >= 0
    above = classes_above_label(scores, labels, head)[counted]
    # the others of the group have counted the same examples
    hits = (above < 1).sum(), (above < 5).sum(), counted.sum()
    return np.array([loss / num_views, *(hits if head.rank == 0 else (0, 0, 0))])
