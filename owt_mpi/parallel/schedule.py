"""The pass loop: when activations and their gradients cross the wire, and what they cross under."""

from collections.abc import Callable

import numpy as np

from owt_mpi.backends.base import Array, Backend
from owt_mpi.comm.base import Communicator, Pending
from owt_mpi.comm.place import in_pass
from owt_mpi.parallel.schemes import Scheme
from owt_mpi.spans import about, span

# (assembled activations, their labels, their rows in the group's batch, pass) -> gradient of the activations or None
HeadStep = Callable[[Array, np.ndarray, np.ndarray, int], Array | None]


def run_passes(
    scheme: Scheme, comm: Communicator, backend: Backend, acts: Array, labels: np.ndarray, head_step: HeadStep
) -> Array | None:
    """Run the head over the group's batch, pass by pass, and return the gradient of `acts` (n, features).

    `acts` and `labels` are this rank's own. Where `head_step` returns no gradient (validation), neither does this.
    """
    acts = backend.xp.ascontiguousarray(acts)
    num_rows = acts.shape[0]
    with about("labels"):
        group_labels = comm.start_all_gather(labels).wait()
    num_passes = scheme.num_passes(comm.size)

    def start_assemble(p: int) -> Pending[Array]:
        with about("activations", p):
            return scheme.start_assemble(comm, acts, p)

    coming = start_assemble(0)
    returns = []
    for p in range(num_passes):
        assembled = coming.wait()
        if p + 1 < num_passes:
            coming = start_assemble(p + 1)  # crosses under the head's pass p
        rows = scheme.group_rows(comm.size, num_rows, p)
        with span(f"head pass {p}", head_pass=p), in_pass(p):
            grad = head_step(assembled, group_labels[rows], rows, p)
        if grad is not None:
            with about("gradients", p):
                returns.append(scheme.start_return(comm, grad, p))  # crosses under the head's pass p + 1
    if not returns:
        return None
    grad_acts = backend.xp.empty_like(acts)
    for p, pending in enumerate(returns):
        part, own = pending.wait(), scheme.own_rows(comm, num_rows, p)
        if own is not None:
            grad_acts[own] = part
    return grad_acts
