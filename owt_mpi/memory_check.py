"""Whether a run fits into the memory there is, said before it starts."""

import resource
import socket
from dataclasses import dataclass

from owt_mpi.backends.base import Backend, Memory
from owt_mpi.backends.cuda import widens_halves, workspace_limit
from owt_mpi.backends.host_memory import host_memory
from owt_mpi.backends.precision import compute_dtype, is_half
from owt_mpi.config import Config
from owt_mpi.memory_forecast import MemoryForecast, MemoryOptions, forecast_memory
from owt_mpi.nn.model import Model
from owt_mpi.parallel.head_update import parse_head_update
from owt_mpi.parallel.layout import Layout


@dataclass(frozen=True)
class Room:
    """A limit that `num_ranks` ranks are under together, and the bytes that each needs there, forecast and at least."""

    memory: Memory
    num_ranks: int
    forecast: int
    least: int

    @property
    def is_too_small(self) -> bool:
        """Whether what is needed at least is not there, even if all else of the node were swapped out."""
        return self.num_ranks * self.least > self.memory.free + self.memory.swap

    @property
    def may_be_too_small(self) -> bool:
        """Whether what is forecast is more than what is free."""
        return self.num_ranks * self.forecast > self.memory.free

    def __str__(self) -> str:
        swap = f" and {_mb(self.memory.swap)} of swap" if self.memory.swap else ""
        shared = f" for {self.num_ranks} ranks" if self.num_ranks > 1 else ""
        return f"{_mb(self.memory.free)}{swap} free of {self.memory.name}{shared}"


@dataclass(frozen=True)
class MemoryReport:
    """What a rank is forecast to need, the limits it is under, and what would lower the need."""

    forecast: MemoryForecast
    rooms: tuple[Room, ...]
    ways_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for people, with the limit that comes nearest."""
        needed = (
            f"{_mb(self.forecast.num_bytes)} a rank forecast for the peak ({self.forecast.peak}), "
            f"{_mb(self.forecast.least_bytes)} at least"
        )
        if self.forecast.beside:
            needed += f", and {_mb(sum(self.forecast.beside.values()))} of the host"
        if not self.rooms:
            return needed
        nearest = max(self.rooms, key=lambda room: room.num_ranks * room.forecast / max(room.memory.free, 1))
        return f"{needed}; {nearest}{', which may not be enough' if nearest.may_be_too_small else ''}"

    def refusal(self) -> ValueError | None:
        """Return why the run cannot work, and the ways out, None where it may."""
        room = next((room for room in self.rooms if room.is_too_small), None)
        if room is None:
            return None
        parts = ", ".join(f"{name} {_mb(size)}" for name, size in self.forecast.parts.items() if size)
        return ValueError(
            f"a rank needs at least {_mb(room.least)} of memory, and there are {room}; forecast are "
            f"{_mb(room.forecast)} at the peak of a step ({self.forecast.peak}): {parts}; "
            f"{', '.join(self.ways_out)}, or --ignore-memory to start all the same"
        )


def report_memory(
    config: Config, model: Model, layout: Layout, images_per_rank: int, backend: Backend, pinned_bytes: int = 0
) -> MemoryReport:
    """Return what is forecast and what is there. All ranks call, before any of them allocates.

    `pinned_bytes` is the transport's pinned memory. A limit counts for all ranks that are under it: those of a node,
    of a control group, or on one GPU.
    """
    dtype = compute_dtype(config.parallel.precision, config.parallel.dtype)
    options = memory_options(config, backend, pinned_bytes)
    forecast = forecast_memory(model, layout, images_per_rank, dtype, options)
    needs = [(memory, forecast.num_bytes, forecast.least_bytes) for memory in backend.memory()]
    if forecast.beside:  # of which nothing is certain
        needs += [(memory, sum(forecast.beside.values()), 0) for memory in host_memory()]
    node = socket.gethostname()
    everyone = layout.world.all_gather_object({(node, memory.key) for memory, _, _ in needs})
    rooms = [
        Room(memory, sum((node, memory.key) in each for each in everyone), needed, least)
        for memory, needed, least in needs
    ]
    return MemoryReport(forecast, tuple(rooms), tuple(_ways_out(config, layout, backend, is_half(dtype))))


def memory_options(config: Config, backend: Backend, pinned_bytes: int = 0) -> MemoryOptions:
    """Return what memory depends on, as the options say and the device is."""
    options = config.parallel
    wanted = int(options.workspace_mib * 2**20) if options.workspace_mib else None
    limit = workspace_limit(backend)
    return MemoryOptions(
        backend=backend.name,
        trunk_sync=options.trunk_sync,
        wire_dtype=options.wire_dtype,
        prefetch=config.data.prefetch,
        device_bytes=0 if backend.device is None else max((each.total for each in backend.memory()), default=0),
        workspace_bytes=wanted if limit is None else limit,
        widens=widens_halves(backend),
        pinned_bytes=pinned_bytes,
        replayed=options.cuda_graph and backend.device is not None,
        copies_head=config.run.on_nan == "skip"
        and any(update.passes for _, update in parse_head_update(options.head_update)),
    )


def peak_resident_bytes() -> int:
    """Return the most memory that this process has had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _ways_out(config: Config, layout: Layout, backend: Backend, is_rounded: bool) -> list[str]:
    ways = ["lower --global-batch" if config.batch.global_batch else "lower --images-per-rank"]
    if config.parallel.recompute == "none":
        ways.append("give --recompute trunk")
    if backend.device is not None and not is_rounded:
        ways.append("give --precision bf16")
    if layout.world.size > 1 and layout.head.size == 1:
        ways.append("split the head over the ranks (--scheme c)")
    elif layout.head.size < layout.world.size:
        ways.append("split the head over more of the ranks (--head-group-size)")
    else:
        ways.append("split the head over more ranks, on more nodes or GPUs")
    return ways


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
