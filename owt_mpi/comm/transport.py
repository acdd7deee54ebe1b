"""Choosing how arrays move among ranks, and saying why."""

import socket
from dataclasses import dataclass
from functools import partial

from owt_mpi.backends.base import Backend
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.calls import Engine
from owt_mpi.comm.device_arrays import DeviceCommunicator
from owt_mpi.comm.devices import check_own_device
from owt_mpi.comm.gpu_aware import Support, find_support
from owt_mpi.comm.nccl import NcclGroups, load_nccl
from owt_mpi.comm.node_sums import by_nodes, why_flat
from owt_mpi.comm.staged import DirectLane, StagedLane, Staging, device_of, pinned_bytes
from owt_mpi.parallel_options import ParallelOptions

CHOICES = ("auto", "mpi", "staged", "nccl")


@dataclass(frozen=True)
class Transport:
    """A communicator that moves the backend's arrays, one line that says how, and why so, and its pinned memory."""

    comm: Communicator
    description: str
    pinned_bytes: int = 0


def open_transport(comm: Communicator, backend: Backend, options: ParallelOptions, node_name: str = "") -> Transport:
    """Return what moves arrays of `backend` among the ranks of `comm`. All ranks call, and get the same.

    For the host's arrays that is `comm`, for a GPU's what --transport says: auto is NCCL where it is there, else MPI
    where it takes device arrays, else staging. ValueError, on all ranks, if what was asked for cannot be had.
    `node_name` is that of this rank's node, by default the host's name.
    """
    check_own_device(comm, backend.device)
    is_process = isinstance(comm, Engine)
    comm, sums = _sum_by_nodes(comm, options, node_name or socket.gethostname())
    if backend.device is None:
        if options.transport in ("staged", "nccl"):
            raise ValueError(
                f"--transport {options.transport} moves arrays of a GPU, and backend {backend.name!r} computes on the "
                "host; choose --transport auto, or --backend cuda"
            )
        way = "mpi" if is_process else "memory of the process"
        return Transport(comm, "none (one rank)" if comm.size == 1 else f"{way} (arrays are on the host){sums}")
    if comm.size == 1:
        return Transport(_staged(comm, backend, options), "none (one rank)")
    return _for_device(comm, backend, options, sums, is_process)


def _sum_by_nodes(comm: Communicator, options: ParallelOptions, node_name: str) -> tuple[Communicator, str]:
    """Return `comm` with the sums that --node-sums asks for, and the words for it."""
    if options.node_sums == "flat":
        return comm, ""
    is_sharded = options.node_sums == "sharded"
    names = comm.all_gather_object(node_name)
    reason = why_flat(names, is_sharded)
    if reason:
        return comm, f"; sums flat, as {reason}"
    nodes = f"{len(set(names))} nodes"
    stepped = by_nodes(comm, is_sharded, node_name)
    return stepped, f"; sums {'sharded over' if is_sharded else 'by the leaders of'} {nodes}"


def _for_device(
    comm: Communicator, backend: Backend, options: ParallelOptions, sums: str, is_process: bool
) -> Transport:
    """Return the transport for a GPU's arrays between several ranks."""
    chosen, reasons = options.transport, ["as asked"]
    if not is_process:
        if chosen in ("mpi", "nccl"):
            raise ValueError(f"--transport {chosen} is between processes, and virtual ranks are threads; choose staged")
        chosen, reasons = "staged", ["virtual ranks share a GPU"]
    elif chosen == "auto":
        reasons = []
    if chosen in ("auto", "nccl"):
        why_not = _why_no_nccl(comm)
        if why_not is None:
            return _nccl(comm, backend, reasons or ["auto"], sums)
        if chosen == "nccl":
            raise ValueError(f"--transport nccl cannot be had: {why_not}; choose staged, mpi or auto")
        reasons.append(f"no NCCL: {why_not}")
    if chosen in ("auto", "mpi"):
        support = _mpi_support(comm, backend, options)
        if support.is_there:
            return _direct(comm, backend, "; ".join([*reasons, support.reason]), options, sums)
        if chosen == "mpi":
            raise ValueError(
                f"--transport mpi gives arrays of the GPU to MPI, which does not take them: {support.reason}; choose "
                "staged, use an MPI built with CUDA, or --gpu-aware-mpi yes if it is one"
            )
        reasons.append(f"not by MPI: {support.reason}")
    chunks = f"chunks of {options.staging_chunk_mib:g} MiB"
    way = "auto: " if options.transport == "auto" else ""
    description = f"staged ({way}{'; '.join(reasons)}; {chunks}){sums}"
    return Transport(_staged(comm, backend, options), description, pinned_bytes(_chunk_bytes(options)))


def _why_no_nccl(comm: Communicator) -> str | None:
    """Return why NCCL cannot be used, on all ranks alike, None where it can."""
    nccl, version_or_reason = load_nccl()
    everyone = comm.all_gather_object((nccl is not None, version_or_reason))
    for rank, (is_there, words) in enumerate(everyone):
        if not is_there:
            return words if len(set(everyone)) == 1 else f"{words} on rank {rank}"
    return None


def _nccl(comm: Communicator, backend: Backend, reasons: list[str], sums: str) -> Transport:
    device_of(backend)  # makes the device the calling thread's
    nccl, version = load_nccl()
    assert nccl is not None
    try:
        device_comm = DeviceCommunicator(comm, backend.xp, NcclGroups(nccl, backend.xp).lane)
    except nccl.NcclError as error:
        raise ValueError(f"{version} does not start: {error}; NCCL_DEBUG=INFO tells more, or choose staged") from error
    ignored = f"{sums} for arrays on the host, and NCCL's own for the GPU's" if sums else ""
    return Transport(device_comm, f"nccl ({'; '.join([*reasons, version])}){ignored}")


def _mpi_support(comm: Communicator, backend: Backend, options: ParallelOptions) -> Support:
    assert isinstance(comm, Engine)
    return find_support(comm, comm, backend.xp, device_of(backend), options.gpu_aware_mpi)


def _direct(comm: Communicator, backend: Backend, reason: str, options: ParallelOptions, sums: str) -> Transport:
    if options.node_sums == "sharded" and sums.startswith("; sums sharded"):
        raise ValueError(
            "--node-sums sharded works on copies of the host, and MPI is given arrays of the GPU; choose leaders, or "
            "--transport staged"
        )
    lane = partial(DirectLane, xp=backend.xp, device=device_of(backend))
    way = "auto: " if options.transport == "auto" else ""
    return Transport(DeviceCommunicator(comm, backend.xp, lane), f"mpi ({way}{reason}){sums}")


def _staged(comm: Communicator, backend: Backend, options: ParallelOptions) -> Communicator:
    staging = Staging(backend.xp, device_of(backend), _chunk_bytes(options))
    return DeviceCommunicator(comm, backend.xp, lambda inner: StagedLane(inner, staging))


def _chunk_bytes(options: ParallelOptions) -> int:
    return int(options.staging_chunk_mib * 2**20)
