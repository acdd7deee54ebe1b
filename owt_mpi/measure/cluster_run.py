"""`python -m owt_mpi.plan --measure FILE`: the machine at hand, written down as a cluster."""

import time
from pathlib import Path

from owt_mpi.backends.precision import Precision, compute_dtype
from owt_mpi.backends.select import select_backend
from owt_mpi.backends.threads import default_num_threads
from owt_mpi.comm.base import Communicator
from owt_mpi.comm.guard import USAGE_ERROR, agree
from owt_mpi.comm.placement import local_rank
from owt_mpi.comm.transport import open_transport
from owt_mpi.measure.cluster import measure_cluster
from owt_mpi.nn.model import Builder, InputSpec
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.planner.cluster_files import to_toml


def write_cluster(
    file: Path,
    builder: Builder,
    spec: InputSpec,
    images: int,
    precision: Precision,
    world: Communicator,
    ranks_sharing_cores: int,
) -> None:
    """Measure the ranks of `world`, with a network's own shapes, and write the cluster to `file` on rank 0. All call.

    CollectiveExit with 2 if there is no backend for `precision`, with 3 if the file cannot be written.
    """
    error: Exception | None = None
    try:
        dtype = compute_dtype(precision, "float32")
        backend, reason = select_backend("auto", dtype, local_rank(world), tf32=precision == "tf32")
        transport = open_transport(world, backend, ParallelOptions())
    except ValueError as caught:
        error = caught
    agree(world, error, USAGE_ERROR)
    backend.set_num_threads(default_num_threads(ranks_sharing_cores))
    cluster = measure_cluster(builder, spec, images, transport.comm, backend, precision)
    model = builder(spec)
    comments = (
        f"Measured {time.strftime('%Y-%m-%d')} on {world.size} ranks by steps of {model.name} in {precision}, "
        f"{images} images of {spec.crop} x {spec.crop} a rank.\nbackend: {reason}\ntransport: {transport.description}"
    )
    try:
        if world.rank == 0:
            file.write_text(to_toml(cluster, comments) + "\n", encoding="utf-8")
            print(f"{cluster.name}: written to {file}")
    except OSError as caught:
        error = caught
    agree(world, error)
