"""One training step on one screen, and validation."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from owt_mpi.autograd import Tensor, backward, no_tape, tensor
from owt_mpi.backends.base import Array, Backend
from owt_mpi.backends.precision import compute_dtype, exact_dtype
from owt_mpi.bad_steps import BadSteps, loss_of_guessing
from owt_mpi.comm.place import enter
from owt_mpi.config import Config
from owt_mpi.data.loader import Batch
from owt_mpi.diagnosis import Watcher
from owt_mpi.loss_scale import loss_scale_for
from owt_mpi.nn.init import initialise
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import Context, load_weights
from owt_mpi.ops.as_dtype import as_dtype
from owt_mpi.optim import MomentumSGD, lr_for_batch
from owt_mpi.parallel.head_update import HeadUpdate, gradient_scales
from owt_mpi.parallel.layout import Layout
from owt_mpi.parallel.schedule import HeadStep, run_passes
from owt_mpi.parallel.sharded import classes_above_label, shard_head, sharded_loss
from owt_mpi.parallel.weight_sync import make_weight_sync
from owt_mpi.parallel.wire_format import crossing_type
from owt_mpi.score import HeadPass, Score, Wishes, score_of
from owt_mpi.spans import about, span
from owt_mpi.step_judge import StepJudge
from owt_mpi.trunk_pass import TrunkPass


class Trainer:
    """A model on its ranks: parameters, gradients and momenta, and what changes them.

    `global_batch` is the number of images of all ranks together in a training step. `weights` are what the parameters
    start from, global arrays by name; by default they are drawn from the seed, as are those in `drawn` in any case.
    """

    def __init__(
        self,
        config: Config,
        model: Model,
        layout: Layout,
        backend: Backend,
        global_batch: int,
        weights: Mapping[str, Any] | None = None,
        drawn: Collection[str] = (),
    ) -> None:
        self.model, self.layout, self.backend = model, layout, backend
        self.seed, self.global_batch = config.run.seed, global_batch
        self.dtype = compute_dtype(config.parallel.precision, config.parallel.dtype)
        self.exact_dtype, self.loss_scale = exact_dtype(self.dtype), loss_scale_for(self.dtype.name)
        self.trunk = model.trunk
        self.trunk_pass = TrunkPass(model.trunk, backend, replayed=config.parallel.cuda_graph)
        self.head = shard_head(model.head, layout.head, model.num_features, layout.scheme.splits_inputs)
        trunk, head = self.trunk.parameters(), self.head.parameters()
        new = [each for each in trunk + head if weights is None or each.name in drawn]
        initialise(new, backend, self.seed, self.dtype)
        if weights is not None:
            load_weights([each for each in trunk + head if each not in new], weights, backend, self.dtype)
        options, parallel = config.optimizer, config.parallel
        make_sgd = partial(
            MomentumSGD,
            backend=backend,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            bias_lr_multiplier=options.bias_lr_multiplier,
        )
        exchange = (int(parallel.bucket_mib * 2**20), crossing_type(parallel.wire_dtype, self.dtype))
        self.trunk_sync = make_weight_sync(parallel.trunk_sync, trunk, layout.trunk, backend, make_sgd, *exchange)
        self.head_sync = make_weight_sync(parallel.trunk_sync, head, layout.replicas, backend, make_sgd, *exchange)
        self.trunk_lr = lr_for_batch(options.lr, options.lr_base_batch, global_batch, options.trunk_lr_rule)
        self.optimizer = options
        self.num_passes = layout.scheme.num_passes(layout.boundary.size)
        self.wishes = self._own_wishes = Wishes()
        run, guessing = config.run, loss_of_guessing(model.loss, model.spec.num_classes)
        self.bad_steps = BadSteps(run.on_nan == "skip", run.loss_limit, run.max_bad_steps, guessing)
        syncs = self.trunk_sync, self.head_sync
        self.judge = StepJudge(layout, backend, self.loss_scale, self.bad_steps, *syncs, global_batch)
        self.set_head_update(HeadUpdate())

    def set_head_update(self, update: HeadUpdate) -> None:
        """Update the head as often as `update` says from now on. ValueError if the passes do not come out even."""
        self.period = update.period(self.num_passes)
        self.scales = gradient_scales(self.global_batch, self.num_passes, self.period)
        options = self.optimizer
        self.head_lr = lr_for_batch(options.lr, options.lr_base_batch, self.scales.head_batch, options.head_lr_rule)

    def train_step(self, batch: Batch, step: int, lr_factor: float = 1.0) -> Score:
        """Change the parameters by one batch and return its score over all ranks.

        A bad step (see BadSteps) is left out where options say so: nothing changes, and the score is of no examples.
        BadStepError where the training cannot go on.
        """
        ctx = Context(True, batch.rows, self.seed, step)
        passes: list[HeadPass] = []
        self.judge.begin(step, batch, partial(self._watched, batch, step), self.period < self.num_passes)

        def head_step(x: Array, labels: np.ndarray, rows: np.ndarray, p: int) -> Array:
            inputs = tensor(x, self.backend, requires_grad=True)
            loss = self._head_loss(inputs, labels, rows, ctx, passes)
            backward(loss, self.backend.xp.full((), self.scales.head * self.loss_scale.value, self.exact_dtype))
            if (p + 1) % self.period == 0 and p + 1 < self.num_passes:  # the last update comes with the trunk's
                self.head_sync.start_all()
                skip = self.judge.before_update_within()
                self.head_sync.start_step(self.head_lr * lr_factor, self.loss_scale.inverse, skip).wait()
            return (inputs.grad * self.exact_dtype.type(self.scales.boundary)).astype(self.dtype, copy=False)

        enter("trunk forward", step)
        with span("trunk forward"):
            acts = self.trunk_pass.forward(self._images(batch), ctx)  # data parallel: this rank's images
        enter("head", step)
        grad_acts = self._run_passes(acts, batch.labels, head_step)  # model parallel: the group's examples
        enter("trunk backward", step)
        self.head_sync.start_all()  # crosses under the trunk's backward
        finish_tally = self._start_tally(passes)  # and so does what the host scores by
        passes.clear()  # of which there are copies
        self.judge.after_head()
        if acts.requires_grad:  # not where the trunk has no parameters
            with span("trunk backward"), self.trunk_sync:  # buckets of gradients leave as they fill
                self.trunk_pass.backward(grad_acts)
        enter("score", step)
        has_found = self.judge.after_backward()
        score, num_bad_ranks = self._total_score_and_wishes(finish_tally(), has_found)
        enter("update", step)
        is_left_out, skip = self.judge.decide(score, num_bad_ranks)
        with span("update"):
            weights = self.trunk_sync.start_step(self.trunk_lr * lr_factor, self.loss_scale.inverse, skip)
            self.head_sync.start_step(self.head_lr * lr_factor, self.loss_scale.inverse, skip).wait()
            weights.wait()  # sharded: the trunk's weights crossed under the head's update
        self.judge.after_update(is_left_out)
        return Score() if is_left_out else score

    def validate(self, batch: Batch) -> np.ndarray:
        """Return this rank's part of the batch's tally: add up over batches, then `total_score`."""
        enter("validation")
        return self._start_tally(self.forward_only(batch, Context(False, batch.rows, self.seed)))()

    def total_score(self, tally: np.ndarray) -> Score:
        """Return the score of all ranks' tallies together. All ranks call."""
        with about("score"):
            return score_of(self.layout.world.start_all_reduce(tally).wait())

    def wish(self, wishes: Wishes) -> None:
        """Let all ranks know, in the next step, what this rank wishes: `wishes` is then what any rank does."""
        self._own_wishes = wishes

    def collect_masters(self) -> None:
        """Let this rank have its parameters before rounding, until the next step. All ranks call, between steps."""
        self.trunk_sync.collect_masters()
        self.head_sync.collect_masters()

    def _total_score_and_wishes(self, tally: np.ndarray, has_found: bool) -> tuple[Score, int]:
        """Return the score of all ranks' tallies together, and how many ranks have found; set `wishes`. All call."""
        with about("score"):
            told = np.concatenate([tally, [has_found], self._own_wishes])
            total = self.layout.world.start_all_reduce(told).wait()
        self.wishes = Wishes(*(bool(number) for number in total[len(tally) + 1 :]))
        return score_of(total), int(total[len(tally)])

    def _watched(self, batch: Batch, step: int, watch: Watcher) -> None:
        """Run the forward pass of a training step again, its outputs shown to `watch`. All ranks call."""
        self.forward_only(batch, Context(True, batch.rows, self.seed, step, watch))

    def _images(self, batch: Batch) -> Array:
        assert batch.images.dtype == self.dtype, f"images are {batch.images.dtype}, not {self.dtype}"
        return batch.images

    def _run_passes(self, acts: Tensor, labels: np.ndarray, head_step: HeadStep) -> Array | None:
        return run_passes(self.layout.scheme, self.layout.boundary, self.backend, acts.data, labels, head_step)

    def _head_loss(
        self, inputs: Tensor, labels: np.ndarray, rows: np.ndarray, ctx: Context, passes: list[HeadPass]
    ) -> Tensor:
        """Return this rank's part of the summed loss of one pass, and note the pass."""
        batch_rows = self.layout.batch_rows(rows, self.global_batch // self.layout.world.size)
        logits = as_dtype(self.head(inputs, replace(ctx, rows=batch_rows)), self.exact_dtype)
        loss = sharded_loss(self.model.loss, logits, labels, self.layout.head)
        passes.append(HeadPass(loss.data, logits.data, labels))
        return loss

    def _start_tally(self, passes: list[HeadPass]) -> Callable[[], np.ndarray]:
        """Return what gives this rank's part of the passes' score: loss, top-1 and top-5 hits, examples.

        All ranks call it. The host waits there, and for no work that is started after this.
        """
        xp, start_to_host = self.backend.xp, self.backend.start_to_host
        losses_there = start_to_host(xp.stack([each.loss for each in passes]))
        logits_there = start_to_host(xp.concatenate([each.logits for each in passes]))
        labels = np.concatenate([each.labels for each in passes])

        def finish() -> np.ndarray:
            counted = labels >= 0
            above = classes_above_label(logits_there(), labels, self.layout.head)[counted]
            # the others of the group have counted the same examples
            hits = (above < 1).sum(), (above < 5).sum(), counted.sum()
            loss = losses_there().sum(dtype=np.float64)
            return np.array([loss, *(hits if self.layout.head.rank == 0 else (0, 0, 0))])

        return finish

    def forward_only(self, batch: Batch, ctx: Context) -> list[HeadPass]:
        """Return the passes of the batch, with nothing kept for a backward. All ranks call."""
        passes: list[HeadPass] = []

        def head_step(x: Array, labels: np.ndarray, rows: np.ndarray, p: int) -> None:
            self._head_loss(tensor(x, self.backend), labels, rows, ctx, passes)

        with no_tape():
            with span("trunk forward"):
                acts = self.trunk(tensor(self._images(batch), self.backend), ctx)
            self._run_passes(acts, batch.labels, head_step)
        return passes
