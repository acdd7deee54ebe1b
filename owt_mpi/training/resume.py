"""A trainer's state into a checkpoint and out of it, at any number of ranks."""

from typing import Any, NamedTuple

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Array
from owt_mpi.checkpoint.parts import Part, own_parts
from owt_mpi.checkpoint.reader import Checkpoint
from owt_mpi.comm.base import Communicator
from owt_mpi.nn.module import own_values
from owt_mpi.parallel.grad_sync import GradSync
from owt_mpi.trainer import Trainer


class _Side(NamedTuple):
    """Trunk or head: its parameters, what updates them, the ranks that share each array, those with equal ones."""

    parameters: list[Parameter]
    sync: GradSync[Any]
    group: Communicator | None
    replicas: Communicator


def snapshot_parts(trainer: Trainer) -> list[Part]:
    """Return copies of what this rank keeps of the weights and their momentum. All ranks call, between steps."""
    trainer.collect_masters()
    parts: list[Part] = []
    for side in _sides(trainer):
        weights: list[tuple[Parameter, Array]] = [(each, each.exact) for each in side.parameters]
        for kind, arrays in (("weights", weights), ("momentum", side.sync.collect_momentum())):
            parts += own_parts(kind, arrays, side.group, side.replicas, trainer.backend)
    return parts


def restore_momentum(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Let the trainer, whose weights are the checkpoint's, go on with its momentum. ValueError if it does not fit."""

    def own_momentum(parameter: Parameter) -> Array:
        if parameter.name not in checkpoint.momentum:
            raise ValueError(f"{checkpoint.path} has no momentum of {parameter.name}; it cannot be gone on from")
        return trainer.backend.from_host(own_values(parameter, checkpoint.momentum[parameter.name]))

    for side in _sides(trainer):
        side.sync.set_momentum(own_momentum)


def _sides(trainer: Trainer) -> tuple[_Side, _Side]:
    layout = trainer.layout
    return (
        _Side(trainer.trunk.parameters(), trainer.trunk_sync, None, layout.trunk),
        _Side(trainer.head.parameters(), trainer.head_sync, layout.head, layout.replicas),
    )
