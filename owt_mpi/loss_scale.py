"""Loss scaling: float16 gradients are kept large enough to be numbers, and steps that made them too large are left out.

float16 has nothing below 6e-8, where many gradients lie. So losses are multiplied by `value` before the backward pass,
and the optimizer divides by it again (Micikevicius et al. 2018, section 3.2).
"""

from dataclasses import dataclass
from typing import Any

from owt_mpi.input_file import number, table, whole

FIRST = 2.0**15
GOOD_STEPS_TO_DOUBLE = 2000
LARGEST, SMALLEST = 2.0**24, 1.0


@dataclass
class LossScale:
    """The scale of all losses of a step, a power of two. All ranks see the same steps, so theirs are equal.

    Where it is `dynamic` it is halved after a step whose gradients were not all numbers, and doubled after
    GOOD_STEPS_TO_DOUBLE steps in a row whose gradients were.
    """

    dynamic: bool
    value: float = 1.0
    skipped_updates: int = 0
    _overflowed: bool = False
    _good_steps: int = 0

    @property
    def inverse(self) -> float:
        """What gradients are multiplied by before they are used."""
        return 1.0 / self.value

    @property
    def is_smallest(self) -> bool:
        """Whether it cannot be halved any more, so that a smaller loss is no cure."""
        return self.value <= SMALLEST

    def skip(self) -> None:
        """Note an update that was left out."""
        self._overflowed = True
        self.skipped_updates += 1

    def end_step(self) -> None:
        """Choose the scale of the next step."""
        if not self.dynamic:
            return
        self._good_steps = 0 if self._overflowed else self._good_steps + 1
        if self._overflowed:
            self.value = max(self.value / 2, SMALLEST)
        elif self._good_steps % GOOD_STEPS_TO_DOUBLE == 0:
            self.value = min(self.value * 2, LARGEST)
        self._overflowed = False

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it, between steps: nothing where it never changes."""
        if not self.dynamic:
            return {}
        return {"value": self.value, "good_steps": self._good_steps, "skipped_updates": self.skipped_updates}

    def restore(self, state: object) -> None:
        """Go on from a `state`, where there is one and the scale is dynamic. ValueError if it is none."""
        if not self.dynamic or not state:
            return
        values = {name: table(state, "the loss scale").get(name) for name in self.state()}
        self.value = min(max(number(values["value"], "the loss scale's value"), SMALLEST), LARGEST)
        self._good_steps = whole(values["good_steps"], "the loss scale's good_steps")
        self.skipped_updates = whole(values["skipped_updates"], "the loss scale's skipped_updates")

    def facts(self) -> dict[str, Any]:
        """Return what metrics.jsonl says of it: nothing where it never changes."""
        return {"loss_scale": self.value, "skipped_updates": self.skipped_updates} if self.dynamic else {}


def loss_scale_for(dtype_name: str) -> LossScale:
    """Return the scaling for gradients of that type: of float16 alone, as bfloat16 reaches as far as float32."""
    return LossScale(True, FIRST) if dtype_name == "float16" else LossScale(False)
