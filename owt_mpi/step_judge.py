"""What becomes of a step whose loss or gradients are bad, or too large for float16: all ranks decide alike.

Where the host has the gradients anyway, it looks at them before the update, and what each rank finds crosses with the
score. A GPU gets the update before the host knows: a flag there, the same on all ranks, makes the update leave all as
it is, and the host sees it in the next step. Gradients summed over all ranks are the same on all, and need no word;
what a rank finds in its own part of the head crosses with the score; where neither does, the ranks sum their flags.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any

import numpy as np

from owt_mpi.backends.base import Array, Backend
from owt_mpi.bad_steps import BadStepError, BadSteps, Copies, Verdict
from owt_mpi.data.loader import Batch
from owt_mpi.diagnosis import Watcher, first_bad_gradient, first_bad_value
from owt_mpi.loss_scale import LossScale
from owt_mpi.parallel.grad_sync import GradSync
from owt_mpi.parallel.layout import Layout
from owt_mpi.parallel.sharded_sync import ShardedSync
from owt_mpi.score import Score
from owt_mpi.spans import about


@dataclass
class _Step:
    """A step under way. `learns_within`: the head does; `watch` runs its forward pass again, watched."""

    number: int
    batch: Batch
    watch: Callable[[Watcher], object]
    learns_within: bool
    is_early: bool  # the host looks at the gradients before the update
    flags: list[Array] = field(default_factory=list)  # of updates of the head within the step, int32 (1,)
    undo_head: Callable[[], None] | None = None
    own: Callable[[], np.ndarray] | None = None  # of this rank's part of the head, not yet on the host
    last: Array | None = None  # flag of the last update, on the device


class StepJudge:
    """Judges the steps of a trainer, whose trunk and head are updated by `trunk_sync` and `head_sync`."""

    def __init__(
        self,
        layout: Layout,
        backend: Backend,
        loss_scale: LossScale,
        bad_steps: BadSteps,
        trunk_sync: GradSync[Any],
        head_sync: GradSync[Any],
        global_batch: int,
    ) -> None:
        self._layout, self._backend, self._loss_scale, self._bad = layout, backend, loss_scale, bad_steps
        self._trunk_sync, self._head_sync, self._global_batch = trunk_sync, head_sync, global_batch
        has_parts = layout.head.size > 1
        shares_sums = isinstance(trunk_sync, ShardedSync) or (has_parts and layout.replicas.size > 1)
        self._sums_flags = loss_scale.dynamic or shares_sums
        self._has_own = has_parts and not self._sums_flags
        self._head_copies = Copies()
        self._unseen: tuple[_Step, Callable[[], np.ndarray]] | None = None  # the last step and its flags, on their way
        self._warnings: list[tuple[int, str]] = []

    def begin(self, number: int, batch: Batch, watch: Callable[[Watcher], object], learns_within: bool) -> None:
        """Begin with a step; `learns_within`: its passes update the head."""
        is_early = self._backend.device is None or (self._bad.leaves_out and learns_within)
        self._step = _Step(number, batch, watch, learns_within, is_early)

    def before_update_within(self) -> Array | None:
        """Return the flag for an update of the head within the step, None where it is made in any case. All ranks call.

        It tells how many ranks' gradients have overflowed, int32 (1,), where arrays are: the host does not wait.
        """
        if self._bad.leaves_out and self._step.undo_head is None:
            self._step.undo_head = self._head_copies.take(self._head_sync.changed_arrays())
        if not self._loss_scale.dynamic:
            return None
        self._step.flags.append(self._sum(self._backend.find_overflow(self._head_sync.sums())))
        return self._step.flags[-1]

    def after_head(self) -> None:
        """Begin to look at this rank's part of the head, whose gradients are there."""
        if self._has_own and not self._step.is_early:
            self._step.own = self._backend.start_to_host(self._backend.find_overflow(self._head_sync.sums()))

    def after_backward(self) -> bool:
        """Return whether this rank has found bad gradients that others may not know of. All ranks call."""
        step, trunk = self._step, self._trunk_sync.sums()
        if step.is_early:
            return bool(self._backend.to_host(self._backend.find_overflow([*trunk, *self._head_sync.sums()]))[0])
        step.last = self._backend.find_overflow(trunk if self._has_own else [*trunk, *self._head_sync.sums()])
        if self._sums_flags:
            step.last = self._sum(step.last)
        return step.own is not None and bool(step.own()[0])

    def decide(self, score: Score, num_bad_ranks: int) -> tuple[bool, Array | None]:
        """Return whether the step is left out, and the flag for its last update. All ranks call.

        `num_bad_ranks` is on how many ranks `after_backward` was true. BadStepError where the training ends, perhaps
        because of the step before.
        """
        self.settle()
        step = self._step
        verdict = self._bad.judge(score.loss, score.num_examples == self._global_batch)
        if verdict is not None:
            self._tell(verdict, step, self._explain(verdict, step, score.loss))
            if self._bad.leaves_out:
                return True, self._one()
        if step.is_early or num_bad_ranks:
            num_within = self._count(self._backend.to_host, step.flags)
            verdict = self._settle(num_within + (num_bad_ranks > 0))
            if verdict is not None:
                self._tell(verdict, step, self._explain(verdict, step, score.loss))
                return True, self._one()
            return False, self._one() if num_bad_ranks else None
        flags, backend = self._backend.xp.concatenate([*step.flags, step.last]), self._backend
        waits = self._loss_scale.dynamic  # right behind the update
        self._unseen = (step, partial(backend.to_host, flags) if waits else backend.start_to_host(flags))
        return False, step.last

    def after_update(self, is_left_out: bool) -> None:
        """End the step. Where losses are scaled the host waits for the end of the step's sums, the update under way."""
        if is_left_out:
            return
        if self._loss_scale.dynamic:
            self.settle()
        self._loss_scale.end_step()

    def settle(self) -> None:
        """Look at what is not known yet of the last step. All ranks call. BadStepError where the training ends."""
        if self._unseen is None:
            return
        (step, finish), self._unseen = self._unseen, None
        verdict = self._settle(int(np.count_nonzero(finish())))
        if verdict is not None:
            self._tell(verdict, step, f"{verdict.wrong} at step {step.number}{self._scale_and_way()}")

    def take_warnings(self) -> list[tuple[int, str]]:
        """Return what was bad, (step, text for people), since the last call."""
        said, self._warnings = self._warnings, []
        return said

    def _settle(self, num_overflows: int) -> Verdict | None:
        """Settle the step that was judged last: so many of its updates had gradients that are not finite."""
        is_scales = self._loss_scale.dynamic and not self._loss_scale.is_smallest
        verdict = self._bad.settle(num_overflows == 0 or is_scales)
        if verdict is None:
            for _ in range(num_overflows):
                self._loss_scale.skip()
        return verdict

    def _tell(self, verdict: Verdict, step: _Step, reason: str) -> None:
        """Warn of a bad step, or raise BadStepError for one that ends the training."""
        bad = self._bad
        if verdict.ends:
            is_undone = bad.leaves_out or (bad.num_in_a_row == 1 and not step.learns_within)
            lasts = f"; bad steps in a row: {bad.num_in_a_row} (--max-bad-steps)" if bad.num_in_a_row > 1 else ""
            if is_undone:
                bad.forget_last()
            raise BadStepError(f"{reason}{lasts}", step.number, is_undone)
        if bad.leaves_out:
            text = f"the step is left out, {bad.num_left_out} so far: {reason}"
            self._warnings.append((step.number, text))
        elif bad.num_in_a_row == 1:
            text = f"{reason}; the run ends when {bad.most} such steps come in a row (--max-bad-steps)"
            self._warnings.append((step.number, text))

    def _explain(self, verdict: Verdict, step: _Step, loss: float) -> str:
        """Return what is wrong with a step, where that comes from, and the way out. All ranks call."""
        if step.undo_head is not None:
            step.undo_head()
        world, backend, source = self._layout.world, self._backend, ""
        is_head_bad = step.learns_within and step.undo_head is None  # by the step's own work
        parameters = self._trunk_sync.parameters + ([] if is_head_bad else self._head_sync.parameters)
        if not isfinite(loss):
            place = first_bad_value(world, backend, parameters, step.batch, step.watch)
            otherwise = "what the head learnt within the step" if step.learns_within else "the loss itself"
            source = f"; the first value that is no finite number is in {place or otherwise}"
        elif not verdict.is_finite:
            source = f"; the first is {first_bad_gradient(world, backend, parameters)}"
        return f"{verdict.wrong} at step {step.number}{source}{self._scale_and_way()}"

    def _scale_and_way(self) -> str:
        if not self._loss_scale.dynamic:
            return "; lower --lr, or look at the data"
        scale = f", though losses are multiplied by no more than {self._loss_scale.value:g}"
        return f"{scale if self._loss_scale.is_smallest else ''}; lower --lr, or choose --precision bf16"

    def _sum(self, flag: Array) -> Array:
        with about("overflow"):
            return self._layout.world.start_all_reduce(flag).wait()

    def _count(self, to_host: Callable[[Array], np.ndarray], flags: list[Array]) -> int:
        return int(np.count_nonzero(to_host(self._backend.xp.concatenate(flags)))) if flags else 0

    def _one(self) -> Array:
        return self._backend.from_host(np.ones(1, np.int32))
