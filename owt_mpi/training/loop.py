"""The steps of a run, epoch by epoch: what is measured, validated and kept on the way."""

import contextlib
from dataclasses import asdict, dataclass
from itertools import chain, islice

import numpy as np

from owt_mpi.accounts import Accounts
from owt_mpi.bad_steps import BadStepError
from owt_mpi.comm.guard import STOPPED, CollectiveExit
from owt_mpi.comm.ledger import flow_rows
from owt_mpi.config import Config
from owt_mpi.data.loader import Batch, Loader
from owt_mpi.metrics import Reporter
from owt_mpi.optim import schedule_factor
from owt_mpi.parallel.head_update import HeadSchedule, head_update_of
from owt_mpi.score import Score, Wishes
from owt_mpi.trace import Tracer
from owt_mpi.trainer import Trainer
from owt_mpi.training.checkpoints import Position, RunCheckpoints
from owt_mpi.training.data import Data
from owt_mpi.training.drift import DriftError, check_same_weights
from owt_mpi.training.layer_statistics import layer_statistics
from owt_mpi.training.samples import SampleRecorder
from owt_mpi.training.several_views import tally_of_views
from owt_mpi.training.stopping import wish_to_stop

_COLD_STEPS = 2  # in which memory is got and kernels are made


@dataclass
class TrainingLoop:
    """Trains from `position` on. All ranks run it alike."""

    config: Config
    trainer: Trainer
    data: Data
    head_updates: HeadSchedule
    reporter: Reporter
    accounts: Accounts
    checkpoints: RunCheckpoints
    position: Position
    tracer: Tracer | None = None
    samples: SampleRecorder | None = None

    def run(self) -> Score | None:
        """Run the epochs, each followed by validation; return the last validation's score, None without any.

        CollectiveExit where a bad step ends the training or ranks have drifted apart, and, after a checkpoint, where
        somebody wishes to stop.
        """
        self._score: Score | None = None
        self._window, self._window_start = Score(), self.position.step
        self._first_step, self._last = self.position.step, self.position
        self._num_steps = num_steps(self.config, self.data)
        self.accounts.open_window()
        try:
            while self.position.epoch < self.config.batch.epochs and self.position.step < self._num_steps:
                self._epoch()
        except (BadStepError, DriftError) as error:
            if isinstance(error, BadStepError) and error.is_undone:
                self._keep_state_before(error.step)
            self._finish_checkpoints()
            raise CollectiveExit(1, f"error: {error}; {self.checkpoints.describe_newest()}") from None
        self._finish_checkpoints()
        if self.trainer.bad_steps.num_left_out:
            self.reporter.say(f"steps left out (--on-nan skip): {self.trainer.bad_steps.num_left_out}")
        return self._score

    def _keep_state_before(self, step: int) -> None:
        """Keep what there was before `step`, which ends the run, beside all checkpoints that there are."""
        before = next(each for each in (self.position, self._last) if each.step == step)
        with contextlib.suppress(BadStepError, DriftError):  # there is an error to report already
            self.checkpoints.save(self.trainer, before, self._score, removes_old=False)

    def _warn(self) -> None:
        for step, text in self.trainer.judge.take_warnings():
            self.reporter.say(f"WARNING: {text}")
            self.reporter.record("warning", step=step, text=text)

    def _epoch(self) -> None:
        """Run the rest of the epoch, validate, and go on to the next."""
        epoch, first = self.position.epoch, self.position.step_of_epoch
        self.trainer.set_head_update(head_update_of(self.head_updates, epoch + 1))
        for batch in self.data.train.epoch(epoch, first):
            step = self.position.step
            options = self.config.optimizer
            factor = schedule_factor(step / self._num_steps, options.lr_milestones, options.lr_factor)
            self.trainer.wish(Wishes(wish_to_stop() is not None, self.checkpoints.is_time()))
            self._window += self.trainer.train_step(batch, step, factor)
            self._warn()
            self._last = self.position
            self.position = Position(epoch, self.position.step_of_epoch + 1, step + 1)
            self._after_step(batch, factor)
            if step + 1 == self._num_steps:
                break
        self.trainer.judge.settle()
        self._warn()
        self._validate()
        self.position = Position(epoch + 1, 0, self.position.step)
        is_last = self.position.step == self._num_steps
        with self.accounts.paused():
            self.checkpoints.after_epoch(self.trainer, self.position, self._score, is_last)

    def _after_step(self, batch: Batch, lr_factor: float) -> None:
        step, every = self.position.step, self.config.run.layer_stats_every
        self.reporter.advance(step)
        if step - self._first_step == _COLD_STEPS:
            self.accounts.warmed_up(self.trainer.layout.world.rank, _COLD_STEPS)
        if self.tracer is not None:
            with self.accounts.paused():
                said = self.tracer.step_done(step - self._first_step)
            if said is not None:
                self.reporter.say(said)
        if step % self.config.run.log_every == 0 or step == self._num_steps:
            self._close_window(lr_factor)
        if every and step % every == 0:
            with self.accounts.paused():
                self.reporter.record("layers", step=step, **layer_statistics(self.trainer, batch, step))
        for message in self.checkpoints.messages():
            self.reporter.say(message)
        is_epoch_over = self.position.step_of_epoch == self.data.train.plan.steps_per_epoch
        if self.trainer.wishes.stop:
            self._stop()
        elif not is_epoch_over and step < self._num_steps:  # else after the validation
            with self.accounts.paused():
                if self.config.run.check_weights and step % self.config.run.check_weights == 0:
                    check_same_weights(self.trainer, step)
                self.checkpoints.after_step(self.trainer, self.position, self._score)

    def _stop(self) -> None:
        """Keep all there is, and end all ranks."""
        self.checkpoints.save(self.trainer, self.position, self._score)
        self._finish_checkpoints()
        whose = [why for why in self.trainer.layout.world.all_gather_object(wish_to_stop()) if why is not None]
        raise CollectiveExit(
            STOPPED, f"stopped after step {self.position.step} by {whose[0]}; go on by --run-dir and --resume auto"
        )

    def _finish_checkpoints(self) -> None:
        self.checkpoints.finish()
        for message in self.checkpoints.messages():
            self.reporter.say(message)

    def _close_window(self, lr_factor: float) -> None:
        """Say and record what the steps since the last time were."""
        position, reporter, trainer = self.position, self.reporter, self.trainer
        step, num_epochs, total = position.step, self.config.batch.epochs, self._window
        num_steps = step - self._window_start
        ranks, flows = self.accounts.close_window(num_steps, trainer.layout.world)
        times = ranks[trainer.layout.world.rank]
        speed = total.num_examples / times.steps
        data_wait, exchange_wait = times.data_wait / times.steps, times.exchange_wait / times.steps
        self._window, self._window_start = Score(), step
        if total.num_examples:  # else every step was left out
            reporter.record(
                "train", epoch=position.epoch + 1, step=step, trunk_lr=trainer.trunk_lr * lr_factor,
                head_lr=trainer.head_lr * lr_factor, loss=total.loss, top1=total.top1, top5=total.top5,
                images_per_second=speed, data_wait=data_wait, exchange_wait=exchange_wait,
                steps_left_out=trainer.bad_steps.num_left_out, **trainer.loss_scale.facts(),
            )  # fmt: skip
        reporter.record("wire", step=step, steps=num_steps, flows=flow_rows(flows))
        reporter.record("ranks", step=step, steps=num_steps, ranks=[asdict(each) for each in ranks])
        if total.num_examples:
            reporter.say(
                f"epoch {position.epoch + 1}/{num_epochs} step {step}/{self._num_steps}: loss {total.loss:.4f}, "
                f"top-1 {total.top1:.1%}, {speed:.0f} images/s, "
                f"data wait {data_wait:.0%}, exchange wait {exchange_wait:.0%}, {reporter.time_left(step)} left"
            )

    def _validate(self) -> None:
        if self.data.validation is None:
            return
        with self.accounts.paused():
            score = self._score = validate(self.trainer, self.data.validation)
            epoch = self.position.epoch + 1
            if self.samples is not None:
                said = self.samples.record(self.trainer, epoch, self.position.step)
                if said is not None:
                    self.reporter.say(said)
        self.reporter.record(
            "validation", epoch=epoch, step=self.position.step, loss=score.loss, top1=score.top1, top5=score.top5,
            images=score.num_examples,
        )  # fmt: skip
        self.reporter.say(
            f"epoch {epoch}/{self.config.batch.epochs} validation: loss {score.loss:.4f}, top-1 {score.top1:.2%}, "
            f"top-5 {score.top5:.2%} of {score.num_examples} images"
        )


def num_steps(config: Config, data: Data) -> int:
    """Return the number of steps of the whole run."""
    steps = config.batch.epochs * data.train.plan.steps_per_epoch
    return min(steps, config.batch.max_steps) if config.batch.max_steps else steps


def validate(trainer: Trainer, loader: Loader) -> Score:
    """Return the score over all of the loader's images. All ranks call."""
    tally, batches = np.zeros(4), loader.epoch(0)
    for batch in batches:
        views = chain([batch], islice(batches, loader.num_views - 1))
        tally += tally_of_views(trainer, views) if loader.num_views > 1 else trainer.validate(batch)
    return trainer.total_score(tally)
