"""Where numbers that are not finite come from: what is said of a step that cannot be used. All ranks call."""

from collections.abc import Callable

import numpy as np

from owt_mpi.autograd import Parameter, Tensor
from owt_mpi.backends.base import Array, Backend
from owt_mpi.comm.base import Communicator
from owt_mpi.data.loader import Batch

MAX_NAMED = 8  # samples in one message
Watcher = Callable[[str, Tensor], None]


def first_bad_value(
    comm: Communicator,
    backend: Backend,
    parameters: list[Parameter],
    batch: Batch,
    forward: Callable[[Watcher], object],
) -> str | None:
    """Return where the first value that is no finite number appears, and on which rank, None if there is none.

    Looked at are the rank's parameters and images, then what each layer makes of these in `forward`, which shows its
    outputs to the function that it is given.
    """
    places = [(-2, f"parameter {p.name}") for p in parameters if not is_finite(backend, p.data)]
    if not is_finite(backend, batch.images):
        rows = backend.to_host(batch.images).reshape(len(batch.images), -1).astype(np.float64)
        samples = ", ".join(str(each) for each in batch.indices[~np.isfinite(rows).all(axis=1)][:MAX_NAMED])
        places.append((-1, f"the images of samples {samples}"))
    num_outputs = 0  # in every rank's order

    def watch(name: str, output: Tensor) -> None:
        nonlocal num_outputs
        if not is_finite(backend, output.data):
            places.append((num_outputs, f"the output of {name}"))
        num_outputs += 1

    forward(watch)
    everyone = enumerate(comm.all_gather_object(places[:1]))
    found = min(((place, rank) for rank, first in everyone for place in first), default=None)
    return f"{found[0][1]} on rank {found[1]}" if found else None


def first_bad_gradient(comm: Communicator, backend: Backend, parameters: list[Parameter]) -> str:
    """Return which parameter's gradient is the first that is not finite, and, where it is not on all, on which rank."""
    bad = [p.name for p in parameters if p.grad is not None and not is_finite(backend, p.grad)]
    firsts = [names[0] if names else "" for names in comm.all_gather_object(bad)]
    rank, name = next(((rank, name) for rank, name in enumerate(firsts) if name), (0, ""))
    if not name:
        return "in a sum over ranks"
    is_on_all = comm.size > 1 and firsts == [name] * comm.size
    return f"that of {name} {'on all ranks, which sum it' if is_on_all else f'on rank {rank}'}"


def is_finite(backend: Backend, array: Array) -> bool:
    """Return whether all numbers of an array are finite. The host waits for them."""
    return not backend.to_host(backend.find_overflow([array]))[0]
