"""What a command computes with, made from its options: backend, model, and how that is spread over ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

from owt_mpi.backends.base import Backend
from owt_mpi.backends.cudnn import CudnnOptions
from owt_mpi.backends.precision import compute_dtype
from owt_mpi.backends.select import select_backend
from owt_mpi.backends.threads import default_num_threads
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import agree
from owt_mpi.comm.placement import local_rank
from owt_mpi.config import Config
from owt_mpi.nn.model import InputSpec, Model
from owt_mpi.nn.models import find_builder
from owt_mpi.nn.recompute import recompute_trunk
from owt_mpi.nn.restricted import restricted
from owt_mpi.parallel.layout import Plan, SchemeName
from owt_mpi.trunk_pass import check_replayable


@contextmanager
def agreed(comm: Communicator, code: int) -> Iterator[None]:
    """Do a step that may fail on one rank alone; where it does, all ranks exit with `code`. All ranks enter."""
    try:
        yield
    except (ValueError, OSError) as error:
        agree(comm, error, code)
    else:
        agree(comm, None, code)


def open_backend(config: Config, world: Communicator, ranks_sharing_cores: int) -> tuple[Backend, str, int]:
    """Return the backend, the reason for it, and its number of threads. ValueError if it cannot be had.

    `ranks_sharing_cores` ranks of `world` run on this rank's cores.
    """
    dtype = compute_dtype(config.parallel.precision, config.parallel.dtype)
    gpu_number = 0 if config.parallel.virtual_ranks else local_rank(world)  # virtual ranks share one
    backend, reason = select_backend(
        config.parallel.backend, dtype, gpu_number, _cudnn_options(config), config.parallel.precision == "tf32"
    )
    num_threads = config.parallel.threads or default_num_threads(ranks_sharing_cores)
    backend.set_num_threads(num_threads)
    return backend, reason, num_threads


def build_model(config: Config, channels: int, num_classes: int, backend: str) -> Model:
    """Return the model for images of so many channels and classes. ValueError if there is none."""
    options = config.model
    model = find_builder(options.model)(InputSpec(options.crop, channels, num_classes))
    model = restricted(model, options.fc_crosstalk, options.fc_blocks)
    if config.parallel.cuda_graph:
        check_replayable(model.trunk, config.parallel.virtual_ranks)
    if config.parallel.recompute == "none":
        return model
    return recompute_trunk(model, compute_dtype(config.parallel.precision, config.parallel.dtype).itemsize, backend)


def make_plan(config: Config, num_ranks: int) -> Plan:
    """Return how the model is to be spread, to be checked."""
    options = config.parallel
    best: SchemeName = "c" if config.model.fc_crosstalk == 1 else "d"
    scheme = best if options.scheme == "auto" else options.scheme
    return Plan(num_ranks, scheme, options.head_group_size, options.senders)


def _cudnn_options(config: Config) -> CudnnOptions:
    options = config.parallel
    workspace_bytes = int(options.workspace_mib * 2**20) if options.workspace_mib else None
    return CudnnOptions(options.cudnn_autotune, options.deterministic, workspace_bytes)
