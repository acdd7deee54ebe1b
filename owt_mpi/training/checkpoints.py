"""When a run's checkpoints are taken, what they say of where it stands, and how it goes on from there."""

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from owt_mpi.checkpoint.folder import resolve
from owt_mpi.checkpoint.format import CheckpointError, CheckpointManifest
from owt_mpi.checkpoint.reader import first_damage, newest_whole
from owt_mpi.checkpoint.saver import CheckpointSaver, Snapshot
from owt_mpi.comm.base import Communicator
from owt_mpi.input_file import number, printable, whole
from owt_mpi.score import Score
from owt_mpi.trainer import Trainer
from owt_mpi.training.drift import check_finite, check_same_weights
from owt_mpi.training.resume import snapshot_parts

NO_VALIDATION = -1.0


@dataclass(frozen=True)
class Position:
    """What a run has done: `epoch` whole epochs, `step_of_epoch` steps of the next, `step` steps in all."""

    epoch: int = 0
    step_of_epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class DataState:
    """What the order of the samples depends on."""

    global_batch: int
    num_samples: int
    seed: int
    shuffle: str
    last_batch: str


@dataclass(frozen=True)
class Every:
    """How often checkpoints are taken: after so many steps or minutes, after each epoch, or never at all."""

    steps: int = 0
    minutes: float = 0.0
    epochs: bool = False
    never: bool = False


def parse_every(text: str) -> Every:
    """Return the meaning of `--checkpoint-every`. ValueError, with the forms, if it has none."""
    match = re.fullmatch(r"(?P<steps>[1-9]\d*)|(?P<minutes>\d+(\.\d+)?)m|(?P<word>epoch|none)", text)
    if match is None or (match["minutes"] and float(match["minutes"]) == 0):
        raise ValueError(
            f"--checkpoint-every {text!r} is not understood; give a number of steps (500), minutes (30m), epoch or none"
        )
    if match["word"]:
        return Every(epochs=match["word"] == "epoch", never=match["word"] == "none")
    return Every(steps=int(match["steps"] or 0), minutes=float(match["minutes"] or 0))


class RunCheckpoints:
    """The checkpoints of one run. All ranks call its methods alike, but for `is_time`.

    While the weights learn from bad steps none are taken as they fall due, but afterwards: the run may end, and is to
    be gone on with from before. `saved_step` is that of the checkpoint, among them, that the run goes on from.
    """

    def __init__(
        self, saver: CheckpointSaver, every: Every, data: DataState, best_top1: float = NO_VALIDATION,
        checks_weights: bool = True, saved_step: int | None = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._checks_weights = checks_weights
        self._saver, self._every, self._data, self._best_top1 = saver, every, data, best_top1
        self._clock, self._last = clock, clock()
        self._saved_step, self._is_put_off = saved_step, False

    def is_time(self) -> bool:
        """Return whether, by the clock of this rank, the minutes are over."""
        return bool(self._every.minutes) and self._clock() - self._last >= 60 * self._every.minutes

    def after_step(self, trainer: Trainer, position: Position, score: Score | None) -> None:
        """Take a checkpoint if one is due between the steps of an epoch, or was and has been put off."""
        self._take(trainer, position, score, self._is_due(trainer, position))

    def after_epoch(self, trainer: Trainer, position: Position, score: Score | None, is_last: bool) -> None:
        """Take a checkpoint if one is due after the validation of an epoch, and in any case at the end of the run."""
        is_best = score is not None and score.top1 > self._best_top1 and not trainer.bad_steps.last_was_learnt
        if score is not None and is_best:
            self._best_top1 = score.top1
        is_due = self._every.epochs or self._is_due(trainer, position)
        if is_last:
            self.save(trainer, position, score, is_best)
        else:
            self._take(trainer, position, score, is_due, is_best)

    def save(
        self,
        trainer: Trainer,
        position: Position,
        score: Score | None,
        is_best: bool = False,
        removes_old: bool = True,
    ) -> None:
        """Start to write a checkpoint, unless none are wanted or this one is there.

        No old one goes for one of weights that learn from bad steps, or without `removes_old`. DriftError if ranks
        differ that should not, BadStepError if weights or momentum are not finite.
        """
        if self._every.never or self._saved_step == position.step:
            return
        trainer.judge.settle()
        check_finite(trainer, position.step)
        if self._checks_weights:
            check_same_weights(trainer, position.step)
        state = {
            **asdict(position),
            **asdict(self._data),
            "loss_scale": trainer.loss_scale.state(),
            "bad_steps": trainer.bad_steps.state(),
            "validation": None if score is None else {"loss": score.loss, "top1": score.top1, "top5": score.top5},
            "best_top1": self._best_top1,
            "ranks": trainer.layout.describe(),
        }
        removes_old = removes_old and not trainer.bad_steps.last_was_learnt
        self._saver.save(Snapshot(position.step, snapshot_parts(trainer), state, is_best, removes_old))
        self._last, self._saved_step, self._is_put_off = self._clock(), position.step, False

    def finish(self) -> None:
        """Return when the checkpoint under way is written."""
        self._saver.finish()

    def messages(self) -> list[str]:
        """Return what went wrong, for people."""
        return self._saver.messages()

    def describe_newest(self) -> str:
        """Return which checkpoint there is to go on from, for people. For one rank."""
        newest = self._saver.newest()
        return f"the newest checkpoint is {newest}" if newest is not None else "there is no checkpoint"

    def describe_way_on(self) -> str:
        """Return how to go on where the end of a run could not be written, for people. For one rank."""
        newest = self._saver.newest()
        if newest is None:
            return "there is no checkpoint to go on from (--checkpoint-every)"
        return f"make room and start the run again with the same --run-dir and --resume auto: it goes on from {newest}"

    def _take(
        self, trainer: Trainer, position: Position, score: Score | None, is_due: bool, is_best: bool = False
    ) -> None:
        """Take a checkpoint that is due, or put it off while the weights learn from bad steps."""
        self._is_put_off |= is_due
        if self._is_put_off:
            trainer.judge.settle()
        if self._is_put_off and not trainer.bad_steps.last_was_learnt:
            self.save(trainer, position, score, is_best)

    def _is_due(self, trainer: Trainer, position: Position) -> bool:
        steps = self._every.steps
        return trainer.wishes.checkpoint or bool(steps and position.step % steps == 0)


def find_start(resume: str, folder: Path, world: Communicator) -> tuple[Path | None, list[str]]:
    """Return the checkpoint to go on from, None to begin anew, and what is to be said. All ranks call.

    `resume` is none, auto (the newest whole one in `folder`, if any) or a path. CheckpointError if that one is damaged.
    """
    if resume == "none":
        return None, []
    if resume == "auto":
        path, damaged = newest_whole(folder, world)
        said = [f"passed over: {each}" for each in damaged]
        return path, [*said, f"going on from {path}" if path else "no checkpoint to go on from: the run begins"]
    found = named_checkpoint(Path(resume), world)
    return found, [f"going on from {found}"]


def named_checkpoint(path: Path, world: Communicator) -> Path:
    """Return the checkpoint that the user named, see `resolve`. CheckpointError if it is damaged. All ranks call."""
    try:
        found: Path | CheckpointError = resolve(path) if world.rank == 0 else Path()
    except CheckpointError as error:
        found = error
    found = world.all_gather_object(found)[0]
    if isinstance(found, CheckpointError):
        raise found
    wrong = first_damage(found, world)
    if wrong is not None:
        raise CheckpointError(wrong)
    return found


def position_of(manifest: CheckpointManifest, data: DataState) -> Position:
    """Return where the run of a checkpoint stands. ValueError if this one's batch or data are others."""
    state = manifest.state
    ways = {
        "global_batch": "give --global-batch {was}",
        "num_samples": "give the --data it was trained on",
        "seed": "give --seed {was}",
        "shuffle": "give --shuffle, --shuffle-block and --shuffle-buffer as it had them",
        "last_batch": "give --last-batch {was}",
    }
    whose = f"the checkpoint of step {manifest.step}"
    try:
        for name, way in ways.items():
            was, now = state[name], getattr(data, name)
            if was != now:
                raise ValueError(
                    f"{whose} is of a run with {name.replace('_', ' ')} {printable(was):.60}, this run has {now}, and "
                    f"would see the images in another order; {way.format(was=printable(was)[:60])}"
                )
        step = whole(state["step"], f"{whose}: step", 0, manifest.step)
        epoch, step_of_epoch = (whole(state[name], f"{whose}: {name}", 0, step) for name in ("epoch", "step_of_epoch"))
    except KeyError as error:
        raise CheckpointError(f"{whose} does not say where its run stands (it has no {error})") from error
    return Position(epoch, step_of_epoch, step)


def best_top1_of(manifest: CheckpointManifest) -> float:
    """Return the best top-1 accuracy of the run's validations until then. ValueError if it is no number."""
    return number(manifest.state.get("best_top1", NO_VALIDATION), f"the checkpoint of step {manifest.step}: best_top1")
