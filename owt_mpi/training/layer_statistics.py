"""What every layer makes of a batch, and how far its weights moved: the same figures on any number of ranks."""

from collections.abc import Iterator
from math import isfinite, sqrt
from typing import Any

import numpy as np

from owt_mpi.autograd import Tensor
from owt_mpi.backends.base import Array, Backend
from owt_mpi.comm.place import enter
from owt_mpi.data.loader import Batch
from owt_mpi.nn.layers import Dropout, Flatten
from owt_mpi.nn.module import Context
from owt_mpi.spans import about
from owt_mpi.trainer import Trainer

_PIECE = 1 << 17  # elements that are float64 at a time


def layer_statistics(trainer: Trainer, batch: Batch, step: int) -> dict[str, Any]:
    """Return the statistics of every layer after `step` steps, of which `batch` was the last. All ranks call.

    outputs: mean, standard deviation and share of zeros of what each layer makes of the whole batch with the weights as
    they are now, dropped out as in the last step; of a layer that runs more than once, over all of its outputs. Layers
    that drop or flatten are left out, rows that fill a batch up are not.
    updates: the last update of each parameter relative to its values, as root mean squares: the momentum, which is what
    was added to the weights. Where losses are scaled and the step was skipped, that of the last step that was not.

    Costs a forward pass without a tape. Each number is None where it is not finite.
    """
    enter("layer statistics", step)
    outputs = _output_sums(trainer, batch, step)
    updates = _update_sums(trainer)
    with about("layer statistics"):
        # what several ranks hold alike is counted as often above and below the line of each fraction
        own = np.concatenate([*outputs.values(), *updates.values()])
        total = iter(trainer.layout.world.start_all_reduce(own).wait().reshape(-1, 4).tolist())
    return {
        "outputs": {name: _output(*next(total)) for name in outputs},
        "updates": {name: _update(*next(total)) for name in updates},
    }


def _output_sums(trainer: Trainer, batch: Batch, step: int) -> dict[str, np.ndarray]:
    """Return number, sum, sum of squares and number of zeros of this rank's part of each layer's outputs, by name."""
    modules = [*trainer.trunk.modules(), *trainer.head.modules()]
    shown = {each.name for each in modules if not list(each.children()) and not isinstance(each, Dropout | Flatten)}
    sums: dict[str, Array] = {}

    def watch(name: str, y: Tensor) -> None:
        if name in shown:
            new = _sums(y.data, trainer.backend)
            sums[name] = sums[name] + new if name in sums else new

    trainer.forward_only(batch, Context(True, batch.rows, trainer.seed, step - 1, watch))
    return _on_host(sums, trainer.backend)


def _update_sums(trainer: Trainer) -> dict[str, np.ndarray]:
    """Return number, sum of squares of the values, and of the update, and 0, of this rank's part of each parameter."""
    sums: dict[str, Array] = {}
    for sync in (trainer.trunk_sync, trainer.head_sync):
        for parameter, velocity in sync.collect_momentum():
            values, update = _sums(parameter.data, trainer.backend), _sums(velocity, trainer.backend)
            sums[parameter.name] = trainer.backend.xp.stack([values[0], values[2], update[2], 0 * values[0]])
    return _on_host(sums, trainer.backend)


def _sums(x: Array, backend: Backend) -> Array:
    """Return the number of elements, their sum, the sum of their squares, and the number of zeros, float64 (4,)."""
    xp = backend.xp
    total = xp.zeros(4, np.float64)
    for piece in _pieces(xp.ascontiguousarray(x).reshape(-1)):
        wide = piece.astype(np.float64)
        zeros = xp.equal(wide, 0).astype(np.float64).sum()
        total += xp.stack([xp.full((), float(len(wide))), wide.sum(), (wide * wide).sum(), zeros])
    return total


def _pieces(flat: Array) -> Iterator[Array]:
    for start in range(0, len(flat), _PIECE):
        yield flat[start : start + _PIECE]


def _on_host(sums: dict[str, Array], backend: Backend) -> dict[str, np.ndarray]:
    rows = backend.to_host(backend.xp.stack(list(sums.values())))
    return dict(zip(sums, rows, strict=True))


def _output(number: float, total: float, squares: float, zeros: float) -> dict[str, float | None]:
    mean = total / number
    return {
        "mean": _finite(mean),
        "std": _finite(sqrt(max(squares / number - mean * mean, 0.0))),
        "zeros": zeros / number,
    }


def _update(_number: float, values: float, update: float, _zero: float) -> float | None:
    return _finite(sqrt(update / values)) if values > 0 else None


def _finite(number: float) -> float | None:
    return number if isfinite(number) else None
