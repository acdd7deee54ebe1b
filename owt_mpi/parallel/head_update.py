"""The variable batch size: how often the head is updated within an iteration, and what that makes of its gradients."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class HeadUpdate:
    """The head is updated after every `passes` passes; 0: once an iteration (paper, section 4.2: updatePeriod)."""

    passes: int = 0

    def period(self, num_passes: int) -> int:
        """Return the passes between updates of `num_passes`. ValueError if they do not come out even."""
        if num_passes % (self.passes or num_passes):
            fitting = " or ".join(str(d) for d in range(1, num_passes + 1) if num_passes % d == 0)
            raise ValueError(
                f"--head-update every-{self.passes}-passes does not divide the {num_passes} head passes of an "
                f"iteration; use {fitting}"
            )
        return self.passes or num_passes


@dataclass(frozen=True)
class GradientScales:
    """What losses, summed over rows, are multiplied by: each part's gradient is the mean over its own batch.

    `head_batch` rows, over all groups, make one update of the head; `head` = 1 / head_batch scales the backward of
    their passes. The gradient that comes out at the boundary is scaled by `boundary`, so that the trunk, which is
    updated once, gets the mean over the whole batch.
    """

    head_batch: int
    head: float
    boundary: float


def gradient_scales(global_batch: int, num_passes: int, period: int) -> GradientScales:
    """Return the scales for a batch of `global_batch` rows in `num_passes` passes, the head updated every `period`."""
    head_batch = global_batch * period // num_passes
    return GradientScales(head_batch, 1.0 / head_batch, head_batch / global_batch)


HeadSchedule = tuple[tuple[int, HeadUpdate], ...]  # (first epoch, counted from 1; update)


def parse_head_update(text: str) -> HeadSchedule:
    """Return ((first epoch, update), ...) of a schedule such as "per-pass" or "per-pass,31:per-iteration".

    Epochs count from 1. ValueError, with the form, if the text has another.
    """
    schedule: list[tuple[int, HeadUpdate]] = []
    for entry in text.split(","):
        epoch, _, mode = entry.strip().rpartition(":")
        match = re.fullmatch(r"per-iteration|per-pass|every-([1-9]\d*)-passes", mode)
        if match is None or not (epoch or "1").isdigit():
            raise ValueError(
                f"--head-update {text!r} is not understood; give per-pass, per-iteration or every-N-passes, and later "
                "epochs' after a comma: per-pass,31:per-iteration"
            )
        passes = {"per-iteration": 0, "per-pass": 1}.get(mode) if match[1] is None else int(match[1])
        assert passes is not None
        schedule.append((int(epoch or "1"), HeadUpdate(passes)))
    epochs = [epoch for epoch, _ in schedule]
    if epochs[0] != 1 or epochs != sorted(set(epochs)):
        raise ValueError(f"--head-update {text!r}: epochs are {epochs}, but must start at 1 and rise")
    return tuple(schedule)


def head_update_of(schedule: HeadSchedule, epoch: int) -> HeadUpdate:
    """Return the update that holds in `epoch`, counted from 1."""
    return [update for first, update in schedule if first <= epoch][-1]
