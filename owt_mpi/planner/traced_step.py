"""The step that training runs, run on ghosts and written down."""

from dataclasses import asdict, dataclass, replace

import numpy as np

from owt_mpi.comm.base import Communicator
from owt_mpi.comm.half import carrying_halves
from owt_mpi.config import Config
from owt_mpi.data.loader import Batch
from owt_mpi.nn.model import Builder, InputSpec
from owt_mpi.parallel.head_update import HeadUpdate
from owt_mpi.parallel.layout import Plan
from owt_mpi.parallel.weight_sync import TrunkSync
from owt_mpi.parallel.wire_format import WireDtype
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.planner.exchange import layout_of
from owt_mpi.planner.ghost import Ghost
from owt_mpi.planner.ghost_backend import GhostBackend
from owt_mpi.planner.kernel import PRECISIONS, PrecisionName
from owt_mpi.planner.recording import Event, Group, Recording, RecordingCommunicator
from owt_mpi.trainer import Trainer


@dataclass(frozen=True)
class SyncOptions:
    """How ranks keep their weights in step: the options of training that have these names."""

    trunk_sync: TrunkSync = "all-reduce"
    wire_dtype: WireDtype = "auto"
    bucket_mib: float = 4.0


def traced_step(
    builder: Builder,
    spec: InputSpec,
    plan: Plan,
    images: int,
    precision: PrecisionName,
    is_gpu: bool,
    update: HeadUpdate | None = None,
    sync: SyncOptions | None = None,
) -> list[Event]:
    """Return the events of rank 0 in the second `Trainer.train_step` of `plan`, with `images` (n) a rank.

    The other ranks have the same but for which of them sends in a pass. Numbers of 16 bits are float16's in either
    precision; so are the checks for overflow. In bf16 those cross as they are where 16 bits of either kind are to.
    """
    recording, dtype = Recording(), np.dtype(f"f{PRECISIONS[precision]}")
    backend = GhostBackend(recording, is_gpu)

    def communicator(group: Group) -> Communicator:
        return carrying_halves(RecordingCommunicator(group, recording), dtype)

    layout = layout_of(plan, communicator)
    sync = sync or SyncOptions()
    kept_in_step = asdict(replace(sync, wire_dtype="auto") if _crosses_as_it_is(sync, precision) else sync)
    config = Config(parallel=ParallelOptions(precision="fp16" if dtype.itemsize == 2 else "fp32", **kept_in_step))
    model = builder(spec)
    weights = {p.name: Ghost(p.global_shape, np.float32) for p in model.parameters()}
    trainer = Trainer(config, model, layout, backend, images * plan.num_ranks, weights)
    trainer.set_head_update(update or HeadUpdate())
    rows = np.arange(images)
    for step in range(2):  # before the first there is none that is still to be judged
        recording.clear()
        pixels = backend.xp.empty((images, spec.crop, spec.crop, spec.channels), dtype)
        _run(trainer, Batch(pixels, np.zeros(images, np.int64), rows, rows, None), step)
    return recording.events


def _crosses_as_it_is(sync: SyncOptions, precision: PrecisionName) -> bool:
    return precision == "bf16" and sync.wire_dtype in ("bfloat16", "float16")


def _run(trainer: Trainer, batch: Batch, step: int) -> None:
    """Make a step. ValueError where an operation of the network's own needs numbers, or what ghosts do not have."""
    try:
        trainer.train_step(batch, step)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"model {trainer.model.name} cannot be planned: an operation does with arrays what those without numbers "
            f"cannot ({error}); make it of the backend's operations, sums and products"
        ) from error
