"""Training steps on several ranks by every scheme: their time, and what of the exchange they hide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import get_args

from owt_mpi.backends.base import Backend
from owt_mpi.backends.precision import Precision
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.ledger import Flow, Ledger
from owt_mpi.comm.metered import MeteredCommunicator
from owt_mpi.measure.step import WARM_UP_STEPS, make_trainer, random_batch, step_seconds
from owt_mpi.nn.model import Builder, InputSpec
from owt_mpi.parallel.layout import Plan, SchemeName

SCHEMES: tuple[SchemeName, ...] = get_args(SchemeName)


@dataclass(frozen=True)
class SchemeRow:
    """Steps of one scheme on K ranks; a step lasts as long as its slowest rank's. The exchange is a step's, of the
    mean rank; what of it is not exposed passes under computation. `why_not` is empty but where the scheme cannot run.
    """

    ranks: int
    scheme: SchemeName
    images_per_rank: int
    why_not: str = ""
    seconds: float = 0.0
    fastest: float = 0.0
    slowest: float = 0.0
    received_bytes: float = 0.0
    exchange_seconds: float = 0.0
    exposed_seconds: float = 0.0
    precision: Precision = "fp32"


def measure_schemes(
    builder: Builder,
    spec: InputSpec,
    images: int,
    num_ranks: int,
    world: Communicator,
    backend: Backend,
    repeats: int,
    precision: Precision = "fp32",
    schemes: Sequence[SchemeName] = SCHEMES,
) -> list[SchemeRow]:
    """Return a row for each of `schemes` on the first `num_ranks` ranks of `world`. All ranks call; the others wait.

    One scheme is measured after the other, so that one network at a time takes memory.
    """
    comm = world.split(int(world.rank >= num_ranks), world.rank, f"{num_ranks} ranks")
    rows = []
    if world.rank < num_ranks:
        rows = [_measure(builder, spec, images, comm, backend, scheme, repeats, precision) for scheme in schemes]
    return world.all_gather_object(rows)[0]


def _measure(
    builder: Builder,
    spec: InputSpec,
    images: int,
    comm: Communicator,
    backend: Backend,
    scheme: SchemeName,
    repeats: int,
    precision: Precision,
) -> SchemeRow:
    ledger, plan = Ledger(), Plan(comm.size, scheme)
    try:
        plan.check(builder(spec), images)
    except ValueError as error:  # the same on all ranks
        return SchemeRow(comm.size, scheme, images, str(error), precision=precision)
    trainer = make_trainer(builder, spec, images, plan, MeteredCommunicator(comm, ledger), backend, precision)
    batch, seconds = random_batch(spec, images, comm.rank, backend, precision), list[float]()
    for step in range(WARM_UP_STEPS + repeats):
        if step == WARM_UP_STEPS:
            ledger.take()
        comm.barrier()
        seconds.append(step_seconds(trainer, batch, step))
    everyone = comm.all_gather_object((seconds[WARM_UP_STEPS:], sum(ledger.take().values(), Flow())))
    slowest = [max(each) for each in zip(*(times for times, _ in everyone), strict=True)]

    def mean(of: Callable[[Flow], float]) -> float:
        return sum(of(flow) for _, flow in everyone) / comm.size / repeats

    return SchemeRow(
        ranks=comm.size,
        scheme=scheme,
        images_per_rank=images,
        seconds=median(slowest),
        fastest=min(slowest),
        slowest=max(slowest),
        received_bytes=mean(lambda flow: flow.received_bytes),
        exchange_seconds=mean(lambda flow: flow.seconds),
        exposed_seconds=mean(lambda flow: flow.exposed_seconds),
        precision=precision,
    )
