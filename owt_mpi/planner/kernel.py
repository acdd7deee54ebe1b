"""A kernel: its arithmetic, and what it must at least read from memory and write to it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: dict[PrecisionName, int] = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
"""Bytes of an activation, of a weight as products read it, and of a gradient, where products run in that precision."""


@dataclass(frozen=True)
class Operand:
    """An array in device memory. Operands of one name are one array."""

    name: str
    num_bytes: int


@dataclass(frozen=True)
class Kernel:
    """One pass over memory: each operand of `reads` is read once, each of `writes` written once.

    `product_flop` are those of convolutions and matrix products, two for a multiply-add, which tensor cores may do;
    `other_flop` the rest, on float32 units: a power, an exponential, a logarithm, a division and a comparison are one
    each, integers none. `runs` is how often the kernel runs in a step; all else is of one run.
    """

    layer: str
    work: str
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    product_flop: int = 0
    other_flop: int = 0
    runs: int = 1

    @property
    def flop(self) -> int:
        """All arithmetic of one run."""
        return self.product_flop + self.other_flop

    @property
    def num_bytes(self) -> int:
        """The least bytes between memory and chip of one run."""
        return sum(operand.num_bytes for operand in (*self.reads, *self.writes))

    @property
    def intensity(self) -> float:
        """FLOP a byte."""
        return self.flop / self.num_bytes


def step_flop(kernels: Iterable[Kernel]) -> int:
    """Return the FLOP of all runs of all kernels."""
    return sum(kernel.flop * kernel.runs for kernel in kernels)


def step_bytes(kernels: Iterable[Kernel]) -> int:
    """Return the least bytes of all runs of all kernels."""
    return sum(kernel.num_bytes * kernel.runs for kernel in kernels)
