"""Whether a run fits into the memory there is, said before it starts."""

import resource

from owt_mpi.backends.base import Backend, Memory
from owt_mpi.backends.precision import compute_dtype
from owt_mpi.comm.guard import USAGE_ERROR, agree
from owt_mpi.comm.placement import ranks_on_node
from owt_mpi.config import Config
from owt_mpi.memory_forecast import MemoryForecast, MemoryOptions, forecast_memory
from owt_mpi.nn.model import Model
from owt_mpi.parallel.layout import Layout


def memory_options(config: Config, backend: Backend) -> MemoryOptions:
    """Return what memory depends on, as options say and the device is."""
    options, memory = config.parallel, backend.memory()
    return MemoryOptions(
        backend=backend.name,
        trunk_sync=options.trunk_sync,
        wire_dtype=options.wire_dtype,
        prefetch=config.data.prefetch,
        device_bytes=0 if memory is None or backend.device is None else memory.total,
        workspace_bytes=int(options.workspace_mib * 2**20) if options.workspace_mib else None,
    )


def agree_on_memory(config: Config, model: Model, layout: Layout, images_per_rank: int, backend: Backend) -> str:
    """Return what is forecast, for people. CollectiveExit where it does not fit on some rank. All ranks call."""
    dtype = compute_dtype(config.parallel.precision, config.parallel.dtype)
    forecast = forecast_memory(model, layout, images_per_rank, dtype, memory_options(config, backend))
    memory, is_shared = backend.memory(), backend.device is None or config.parallel.virtual_ranks
    num_sharing = ranks_on_node(layout.world) if is_shared else 1
    error = None
    try:
        if not config.run.ignore_memory:
            check_memory(forecast, memory, num_sharing, config.parallel.recompute != "none")
    except ValueError as found:
        error = found
    agree(layout.world, error, USAGE_ERROR)
    return describe_memory(forecast, memory, num_sharing)


def describe_memory(forecast: MemoryForecast, memory: Memory | None, num_sharing: int) -> str:
    """Return one line for people. `memory` is shared by `num_sharing` ranks, None where it is not known."""
    there = "" if memory is None else f"; {_mb(memory.free)} free for {num_sharing} rank{'s'[: num_sharing > 1]}"
    return f"{_mb(forecast.num_bytes)} a rank forecast for the peak ({forecast.peak}){there}"


def check_memory(forecast: MemoryForecast, memory: Memory | None, num_sharing: int, recomputes: bool) -> None:
    """Raise ValueError, naming the parts and the ways out, if `num_sharing` ranks need more than is free."""
    if memory is None or num_sharing * forecast.num_bytes <= memory.free:
        return
    parts = ", ".join(f"{name} {_mb(size)}" for name, size in forecast.parts.items() if size)
    ways = ["lower --images-per-rank (or --global-batch)"]
    if not recomputes:
        ways.append("give --recompute trunk")
    ways.append("spread the head over more ranks (--scheme c, a larger --head-group-size)")
    raise ValueError(
        f"a rank is forecast to need {_mb(forecast.num_bytes)} at the peak of a step ({forecast.peak}), and "
        f"{_mb(memory.free)} are free for {num_sharing} rank{'s'[: num_sharing > 1]}: {parts}; {', '.join(ways)}, or "
        "--ignore-memory to start all the same"
    )


def peak_resident_bytes() -> int:
    """Return the most memory that this process has had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
