"""The machine at hand as a cluster that can be planned for: what its ranks compute and exchange, measured.

All ranks measure at once, as they share memory and links in training too.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2
from statistics import mean, median

import numpy as np

from owt_mpi.backends.at_hand import device_name
from owt_mpi.backends.base import Backend
from owt_mpi.backends.precision import Precision
from owt_mpi.comm.base import Communicator, Pending
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.measure.step import make_trainer, random_batch, step_seconds
from owt_mpi.measure.timed_backend import TimedBackend
from owt_mpi.nn.model import Builder, InputSpec, Model
from owt_mpi.parallel.layout import Plan
from owt_mpi.planner.cluster import Cluster, Level, PlannedDevice
from owt_mpi.planner.collective_times import collective_seconds
from owt_mpi.planner.devices import Device
from owt_mpi.planner.kernel import Kernel, PrecisionName
from owt_mpi.planner.recording import Collective, Group
from owt_mpi.planner.traced_step import traced_step

_SMALL = 2  # float32 numbers of a rank in a collective that is all latency
_LEAST, _MOST = 1 << 14, 1 << 26  # ... and in one that is all bytes
STEP_SECONDS = 5.0
_LEAST_STEPS = 4
_WARM_UP = 1
_LEAST_SECONDS = 1e-9


@dataclass(frozen=True)
class Rates:
    """What a rank does a second, in training steps: FLOP of convolutions and of linear layers, bytes of all else."""

    convolutions: float
    linear: float
    memory: float
    kernel_seconds: float


def measure_cluster(
    builder: Builder,
    spec: InputSpec,
    images: int,
    comm: Communicator,
    backend: Backend,
    precision: Precision = "fp32",
    seconds: float = STEP_SECONDS,
) -> Cluster:
    """Return the machine as a cluster, by steps of a network on `images` a rank and by collectives. All ranks call.

    Steps are timed for `seconds`, at least four.
    """
    rates = _mean_rates(comm.all_gather_object(_rates(builder, spec, images, comm, backend, precision, seconds)))
    node = comm.split_by_node("node")
    memory = min((each.total for each in backend.memory()), default=1 << 40)
    peak = max(rates.convolutions, rates.linear)
    flop: dict[PrecisionName, float] = {"fp32": peak, precision: peak}
    device = PlannedDevice(
        peak=Device(device_name(backend), rates.memory, flop, ()),
        memory_bytes=memory / (node.size if backend.device is None else 1),
        is_gpu=backend.device is not None,
        convolution_share=rates.convolutions / peak,
        linear_share=rates.linear / peak,
        memory_share=1.0,
        kernel_seconds=rates.kernel_seconds,
    )
    nodes_alike = min(comm.all_gather_object(node.size))
    sizes = _sizes(builder(spec), images)
    within = _link(node, backend, sizes) if node.size > 1 else (1e-6, 1e12, 0.0)
    levels = [Level("within the node", nodes_alike, within[0], within[1], "a rank")]  # of one node: no more ranks
    call_seconds = within[2]
    if comm.size > node.size:
        latency, rate, call_seconds = _link(comm, backend, sizes)
        levels.append(Level("between nodes", 0, latency, rate, "a unit"))
    name = f"{device_name(backend)}, {comm.size} ranks, measured"
    cluster = Cluster(name, device, tuple(levels), call_seconds, False, {})
    if comm.size == 1:
        return cluster
    slower = {kind: _slowness(cluster, comm, backend, kind, sizes[kind]) for kind in _STARTS}
    return Cluster(name, device, tuple(levels), call_seconds, False, slower, _taken(comm, backend, sizes["all_gather"]))


def _rates(
    builder: Builder,
    spec: InputSpec,
    images: int,
    comm: Communicator,
    backend: Backend,
    precision: Precision,
    at_least: float,
) -> Rates:
    """Return this rank's rates in steps of its own."""
    timed = TimedBackend(backend)
    trainer = make_trainer(builder, spec, images, Plan(1), SerialCommunicator(), timed, precision)
    batch = random_batch(spec, images, comm.rank, backend, precision)
    seconds: dict[str, list[float]] = defaultdict(list)
    rests: list[float] = []
    begin, step = time.perf_counter(), 0
    while step < _WARM_UP + _LEAST_STEPS or max(comm.all_gather_object(time.perf_counter() - begin)) < at_least:
        comm.barrier()
        timed.calls.clear()
        whole = step_seconds(trainer, batch, step)
        step += 1
        if step <= _WARM_UP:
            continue
        spent: dict[str, float] = defaultdict(float)
        for call in timed.calls:
            spent[call.operation] += call.seconds
        for operation, took in spent.items():
            seconds[operation].append(took)
        rests.append(whole - sum(spent.values()))
    events = traced_step(builder, spec, Plan(1), images, precision, backend.device is not None)
    kernels = [event for event in events if isinstance(event, Kernel)]
    return rates_of(kernels, {operation: median(each) for operation, each in seconds.items()}, median(rests))


def rates_of(kernels: list[Kernel], seconds: dict[str, float], rest: float) -> Rates:
    """Return the rates at which `kernels` ran in `seconds` by operation, and the `rest` of the step, shared by all."""
    flop: dict[str, int] = defaultdict(int)
    took: dict[str, float] = defaultdict(float)
    moved, elsewhere = 0, 0
    for kernel in kernels:
        kind = "conv" if "conv" in kernel.work else "linear" if "linear" in kernel.work else ""
        if kind:
            flop[kind] += kernel.product_flop
        elif kernel.work in seconds:
            moved += kernel.num_bytes
        else:
            elsewhere += kernel.num_bytes  # in the rest
    planned = {kernel.work for kernel in kernels}
    for operation, spent in seconds.items():
        if operation in planned:
            kind = "conv" if "conv" in operation else "linear" if "linear" in operation else ""
            took[kind] += spent
    memory = moved / max(took[""], _LEAST_SECONDS)
    products = [flop[kind] / max(took[kind], _LEAST_SECONDS) for kind in ("conv", "linear") if flop[kind]]
    rates = {kind: flop[kind] / max(took[kind], _LEAST_SECONDS) or max(products) for kind in ("conv", "linear")}
    per_kernel = max(rest - elsewhere / memory, 0.0) / len(kernels)
    return Rates(rates["conv"], rates["linear"], memory, per_kernel)


def _mean_rates(each: list[Rates]) -> Rates:
    """Return what ranks do in the mean; of rates, what takes the mean time."""
    fields = ("convolutions", "linear", "memory")
    rates = {field: 1 / mean(1 / getattr(one, field) for one in each) for field in fields}
    return Rates(**rates, kernel_seconds=mean(one.kernel_seconds for one in each))


_Start = Callable[[Communicator, object], Pending[object]]
_STARTS: dict[str, _Start] = {
    "all_reduce": lambda comm, x: comm.start_all_reduce(x),
    "all_gather": lambda comm, x: comm.start_all_gather(x),
    "reduce_scatter": lambda comm, x: comm.start_reduce_scatter(x),
    "all_to_all": lambda comm, x: comm.start_all_to_all(x, 0, 0),
    "broadcast": lambda comm, x: comm.start_broadcast(x, 0),
}


def _sizes(model: Model, images: int) -> dict[str, int]:
    """Return of how many numbers of a rank each kind of collective is measured: of those that training makes."""
    largest = max(p.size for p in model.parameters())  # a bucket of its own where the head is copied
    return {
        kind: min(max(largest if kind == "all_reduce" else images * model.num_features, _LEAST), _MOST)
        for kind in _STARTS
    }


def _link(comm: Communicator, backend: Backend, sizes: dict[str, int]) -> tuple[float, float, float]:
    """Return latency, bytes a second and seconds of a call, by all-gathers and by short sums."""
    short_sum, short_gather = (
        _seconds(comm, backend, kind, _SMALL * comm.size) for kind in ("all_reduce", "all_gather")
    )
    rounds = ceil(log2(comm.size))
    latency = max((short_sum - short_gather) / rounds, 1e-7)
    call = max(short_gather - rounds * latency, 0.0)
    size = sizes["all_gather"]
    moving = _seconds(comm, backend, "all_gather", size) - short_gather
    return latency, (comm.size - 1) * 4 * size / max(moving, _LEAST_SECONDS), call


def _slowness(cluster: Cluster, comm: Communicator, backend: Backend, kind: str, size: int) -> float:
    """Return how many times as long as planned a collective takes."""
    planned = collective_seconds(cluster, Collective(Group("", comm.size), kind, 4 * size), comm.size)
    found = _seconds(comm, backend, kind, size) - cluster.call_seconds
    return min(max(found / max(planned - cluster.call_seconds, _LEAST_SECONDS), 0.01), 1000.0)


def _seconds(comm: Communicator, backend: Backend, kind: str, size: int, repeats: int = 15) -> float:
    """Return the median time of a collective of `size` numbers a rank, of the slowest rank."""
    size = -(-size // comm.size) * comm.size
    x = backend.from_host(np.ones(size, np.float32))
    times = []
    for _ in range(repeats):
        comm.barrier()
        backend.synchronize()
        begin = time.perf_counter()
        _STARTS[kind](comm, x).wait()
        backend.synchronize()
        times.append(time.perf_counter() - begin)
    return max(comm.all_gather_object(median(times[2:])))


def _taken(comm: Communicator, backend: Backend, size: int, repeats: int = 9) -> float:
    """Return which share of a transfer's time the rank cannot compute in."""
    rng = np.random.default_rng(1)
    x, w = (backend.from_host(rng.standard_normal((512, 1024), dtype=np.float32)) for _ in range(2))
    sent = backend.from_host(np.ones(size // comm.size * comm.size, np.float32))

    def work(count: int) -> None:
        for _ in range(count):
            backend.linear(x, w, None)
        backend.synchronize()

    def clocked(run: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats):
            comm.barrier()
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
        return max(comm.all_gather_object(median(times[1:])))

    exchange = clocked(lambda: comm.start_all_reduce(sent).wait())
    count = ceil(2 * exchange / max(clocked(lambda: work(1)), _LEAST_SECONDS))
    alone = clocked(lambda: work(count))

    def both() -> None:
        pending = comm.start_all_reduce(sent)
        work(count)
        pending.wait()

    return min(max((clocked(both) - alone) / exchange, 0.0), 1.0)
