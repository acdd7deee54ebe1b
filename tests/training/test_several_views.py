"""Several views of each image: scores are averaged as a plain program does it, on any number of ranks."""

from dataclasses import replace

import numpy as np
import pytest

from owt_mpi.autograd import tensor
from owt_mpi.backends.cuda import CudaBackend
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.comm.staged import staged
from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import Config, OptimizerOptions
from owt_mpi.nn.module import Context
from owt_mpi.parallel.layout import Plan, make_layout
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.trainer import Trainer
from owt_mpi.training.several_views import tally_of_views
from tests.cuda_backend import cuda_backend
from tests.tiny import GLOBAL_BATCH, SPEC, global_batch, part_of, tiny_model

NUM_VALID = 11
VIEWS = [replace(global_batch(view, "float64"), labels=global_batch(0, "float64").labels) for view in range(3)]


def make_trainer(comm, plan, loss, backend, dtype):
    config = Config(
        optimizer=OptimizerOptions(lr=0.02, lr_base_batch=GLOBAL_BATCH), parallel=ParallelOptions(dtype=dtype)
    )
    layout = make_layout(staged(comm, backend), plan)
    trainer = Trainer(config, tiny_model(loss), layout, backend, GLOBAL_BATCH)
    for parameter in trainer.trunk.parameters() + trainer.head.parameters():
        parameter.data *= 1 if parameter.is_bias else 3  # so that scores are far from the logits' straight line
    return trainer


def score(plan, loss, new_backend=ReferenceBackend, dtype="float64"):
    def of_rank(comm):
        trainer = make_trainer(comm, plan, loss, new_backend(), dtype)
        views = []
        for view in VIEWS:
            batch = part_of(view, comm.rank, comm.size)
            valid = batch.rows < NUM_VALID
            images = trainer.backend.from_host(batch.images.astype(dtype))
            views.append(replace(batch, images=images, valid=valid, labels=np.where(valid, batch.labels, -1)))
        return trainer.total_score(tally_of_views(trainer, iter(views)))

    scores = run_ranks(plan.num_ranks, of_rank)
    assert all(each == scores[0] for each in scores)
    return scores[0]


def expected(loss):
    """Return loss, top-1 and top-5 hits of one rank's whole network, by formulas."""

    def alone(comm):
        trainer = make_trainer(comm, Plan(1), loss, ReferenceBackend(), "float64")
        losses, scores, logits = [], [], []
        for view in VIEWS:
            ctx = Context(False, view.rows, trainer.seed)
            acts = trainer.trunk(tensor(view.images, trainer.backend), ctx)
            z = trainer.head(acts, ctx).data[:NUM_VALID]
            targets = np.eye(SPEC.num_classes)[view.labels[:NUM_VALID]]
            p = 1 / (1 + np.exp(-z)) if loss == "logistic" else np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            others = (1 - targets) * np.log(1 - p) if loss == "logistic" else 0
            losses.append(-(targets * np.log(p) + others).sum())
            scores.append(p)
            logits.append(z)
        order = np.argsort(-np.mean(scores, axis=0), axis=1)
        assert (order != np.argsort(-np.mean(logits, axis=0), axis=1)).any(), "the average of what would not show"
        found = order == VIEWS[0].labels[:NUM_VALID, None]
        return np.mean(losses), found[:, 0].sum(), found[:, :5].sum()

    return run_ranks(1, alone)[0]


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
@pytest.mark.parametrize(("num_ranks", "scheme"), [(1, "c"), (2, "a"), (2, "d"), (4, "b"), (4, "dp")])
def test_scores_are_averaged_over_the_views_on_any_number_of_ranks(loss, num_ranks, scheme):
    loss_sum, top1, top5 = expected(loss)
    found = score(Plan(num_ranks, scheme), loss)
    assert found.loss_sum == pytest.approx(loss_sum, rel=1e-12)
    assert (found.top1_hits, found.top5_hits, found.num_examples) == (top1, top5, NUM_VALID)


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_scores_of_a_gpu_are_averaged_too(loss):
    loss_sum, top1, top5 = expected(loss)
    with cuda_backend():
        found = score(Plan(2), loss, CudaBackend, "float32")
    assert found.loss_sum == pytest.approx(loss_sum, rel=1e-5)
    assert (found.top1_hits, found.top5_hits, found.num_examples) == (top1, top5, NUM_VALID)
