"""Steps that would ruin the network: a loss or gradients that are no numbers, or a loss that explodes.

All ranks see the same losses, so all of them decide the same, without a word to each other.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite, log
from statistics import median
from typing import Any, Literal, NamedTuple

from owt_mpi.backends.base import Array
from owt_mpi.input_file import listed, number, table, whole

WINDOW = 100  # steps whose losses a step's is compared with
ENOUGH = 10  # of them before anything is compared

Loss = Literal["softmax", "logistic"]


class BadStepError(ArithmeticError):
    """The training cannot go on. Raised on all ranks, before the parameters are changed by step `step`, a bad one.

    Where the step `is_undone`, weights and momentum are those of before it, and good to go on from.
    """

    def __init__(self, message: str, step: int, is_undone: bool) -> None:
        super().__init__(message)
        self.step, self.is_undone = step, is_undone


class Verdict(NamedTuple):
    """What is `wrong` with a bad step, whether it ends the training, and whether all its numbers are finite."""

    wrong: str
    ends: bool
    is_finite: bool


class _Judged(NamedTuple):
    loss: float
    is_whole: bool
    is_bad: bool


def loss_of_guessing(loss: Loss, num_classes: int) -> float:
    """Return the mean loss of an example of which nothing is known but the number of equally frequent classes.

    softmax: -ln(1/C). logistic, of C outputs of 1/C each: -ln(1/C) - (C - 1) ln(1 - 1/C).
    """
    others = (num_classes - 1) * log(1 - 1 / num_classes) if loss == "logistic" else 0.0
    return log(num_classes) - others


@dataclass
class BadSteps:
    """Judges steps by their losses, and counts the bad ones.

    A step is bad whose loss or gradients are not finite, or whose loss is above `limit` times the median of the last
    WINDOW good ones and above that of `guessing`; where `limit` is 0 no finite loss is. Where bad steps are not
    `left_out` the first that is not finite ends the training; in any case `most` bad ones in a row do.
    """

    leaves_out: bool
    limit: float
    most: int
    guessing: float
    num_left_out: int = 0
    num_in_a_row: int = 0
    _losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _open: _Judged | None = None  # the last step, whose gradients are not known yet

    @property
    def last_was_learnt(self) -> bool:
        """Whether the weights have learnt from the last step though it was bad: no state to keep as a good one."""
        return self.num_in_a_row > 0 and not self.leaves_out

    def judge(self, loss: float, is_whole: bool) -> Verdict | None:
        """Return the verdict on a step of that mean loss, and count it; None if it is good, as far as that goes.

        Unless it is left out or ends the training, `settle` is to be told of its gradients before the next is judged.
        The losses of steps that are not `is_whole`, of fewer examples than others, vary more and are not compared.
        """
        assert self._open is None, "the gradients of the step before are not settled"
        wrong = self._what_is_wrong(loss, is_whole)
        verdict = None if wrong is None else self._bad(wrong, isfinite(loss))
        if verdict is None or not (self.leaves_out or verdict.ends):
            self._open = _Judged(loss, is_whole, verdict is not None)
        return verdict

    def settle(self, are_gradients_finite: bool) -> Verdict | None:
        """Return the verdict on the gradients of the step judged last, and count it; None if nothing is new."""
        assert self._open is not None
        step, self._open = self._open, None
        if not are_gradients_finite:
            return self._bad("gradients are no finite numbers", False, is_counted=step.is_bad)
        if not step.is_bad:
            self.num_in_a_row = 0
            if step.is_whole:
                self._losses.append(step.loss)
        return None

    def forget_last(self) -> None:
        """Count the last step, a bad one, no more: it is undone, and taken again by a run that goes on."""
        self.num_in_a_row -= 1
        self.num_left_out -= self.leaves_out

    def _bad(self, wrong: str, is_finite: bool, is_counted: bool = False) -> Verdict:
        self.num_in_a_row += not is_counted
        self.num_left_out += self.leaves_out
        return Verdict(wrong, self.num_in_a_row >= self.most or not (is_finite or self.leaves_out), is_finite)

    def _what_is_wrong(self, loss: float, is_whole: bool) -> str | None:
        if not isfinite(loss):
            return f"the loss is {loss}"
        if not self.limit or not is_whole or len(self._losses) < ENOUGH:
            return None
        usual = median(self._losses)
        if loss <= max(self.limit * usual, self.guessing):
            return None
        return f"the loss is {loss:.4g}, more than {self.limit:g} times the median of those before, {usual:.4g}"

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, so that a run that goes on decides as one that was never stopped."""
        assert self._open is None
        return {"left_out": self.num_left_out, "in_a_row": self.num_in_a_row, "losses": list(self._losses)}

    def restore(self, state: object) -> None:
        """Go on from a `state`; one that is empty, of an older checkpoint, says nothing. ValueError if it is none."""
        values = table(state, "the state of bad steps")
        self.num_left_out = whole(values.get("left_out", 0), "the number of steps left out")
        self.num_in_a_row = whole(values.get("in_a_row", 0), "the number of bad steps in a row")
        losses = listed(values.get("losses", []), "the losses of steps")
        self._losses = deque((number(loss, "the loss of a step") for loss in losses), maxlen=WINDOW)


class Copies:
    """Copies of arrays, in memory that is kept from step to step, to put them back."""

    def __init__(self) -> None:
        self._copies: list[Array] = []

    def take(self, arrays: list[Array]) -> Callable[[], None]:
        """Copy the arrays, the same each time, and return what puts their values back."""
        self._copies = self._copies or [array.copy() for array in arrays]
        for array, copy in zip(arrays, self._copies, strict=True):
            copy[...] = array

        def put_back() -> None:
            for array, copy in zip(arrays, self._copies, strict=True):
                array[...] = copy

        return put_back
