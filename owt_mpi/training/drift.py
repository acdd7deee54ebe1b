"""Whether weights are fit to go on from: finite, and alike on the ranks that should hold the same.

Memory errors and faulty links are seen here alone.
"""

import socket
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Array, Backend
from owt_mpi.bad_steps import BadStepError
from owt_mpi.trainer import Trainer


class DriftError(ArithmeticError):
    """Ranks do not hold the same weights any more. Raised on all ranks."""


class _Held(NamedTuple):
    """A rank's sums of the bits of its trunk, and of its part of the head, which is that of all with `head_rank`."""

    host: str
    head_rank: int
    trunk: list[int]
    head: list[int]


def check_same_weights(trainer: Trainer, step: int) -> None:
    """Raise DriftError, naming parameter and ranks, where ranks do not hold the same weights. All ranks call.

    What is compared is the sum of each parameter's bits as integers, modulo 2^64: one pass over memory.
    """
    trunk, head, layout = trainer.trunk.parameters(), trainer.head.parameters(), trainer.layout
    own = _Held(
        socket.gethostname(), layout.head.rank, _bit_sums(trunk, trainer.backend), _bit_sums(head, trainer.backend)
    )
    ranks = layout.world.all_gather_object(own)
    everyone = list(range(len(ranks)))
    _compare(trunk, [(everyone, [held.trunk for held in ranks])], ranks, step)
    groups = [[rank for rank in everyone if ranks[rank].head_rank == part] for part in range(layout.head.size)]
    _compare(head, [(group, [ranks[rank].head for rank in group]) for group in groups], ranks, step)


def check_finite(trainer: Trainer, step: int) -> None:
    """Raise BadStepError where a weight or its momentum is no finite number. All ranks call."""
    trunk, head, layout = trainer.trunk_sync, trainer.head_sync, trainer.layout
    found = trainer.backend.find_overflow([*trunk.changed_arrays(), *head.changed_arrays()])
    bad = [rank for rank, is_bad in enumerate(layout.world.all_gather_object(bool(_number(trainer, found)))) if is_bad]
    if bad:
        raise BadStepError(
            f"weights or momentum are no finite numbers after step {step} on rank {', '.join(map(str, bad))}: no "
            "checkpoint of it is written; lower --lr",
            step,
            is_undone=False,
        )


def _number(trainer: Trainer, array: Array) -> int:
    return int(trainer.backend.to_host(array)[0])


def _compare(
    parameters: Sequence[Parameter],
    groups: Sequence[tuple[list[int], list[list[int]]]],
    ranks: Sequence[_Held],
    step: int,
) -> None:
    """Raise DriftError for the first parameter whose sums differ among the ranks of a group."""
    for number, parameter in enumerate(parameters):
        for members, sums in groups:
            counts = Counter(each[number] for each in sums)
            usual = counts.most_common(1)[0][0]
            odd = [rank for rank, each in zip(members, sums, strict=True) if each[number] != usual]
            if odd:
                is_known = 2 * counts[usual] > len(members)  # else nobody can tell who is right
                named = ", ".join(f"{rank} (host {ranks[rank].host})" for rank in (odd if is_known else members))
                raise DriftError(
                    f"the ranks do not hold the same weights any more after step {step}: {parameter.name} "
                    + (f"differs from the others on rank {named}" if is_known else f"differs between ranks {named}")
                    + "; suspect memory or network there, and go on from an earlier checkpoint by --resume"
                )


def _bit_sums(parameters: Sequence[Parameter], backend: Backend) -> list[int]:
    sums = []
    for parameter in parameters:
        assert parameter.data is not None
        bits = np.dtype(f"u{parameter.dtype.itemsize}")
        sums.append(parameter.data.reshape(-1).view(bits).sum())  # of unsigned integers, as uint64
    return [int(number) for number in backend.to_host(backend.xp.stack(sums))] if sums else []
