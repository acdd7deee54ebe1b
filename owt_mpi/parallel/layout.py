"""Who shares what: the groups of ranks, the head's shards, and every rule of divisibility."""

from dataclasses import dataclass
from typing import Literal

from owt_mpi.comm.base import Communicator
from owt_mpi.nn.layers import Linear
from owt_mpi.nn.model import Model
from owt_mpi.parallel.schemes import Scheme, SchemeA

SchemeName = Literal["dp", "a"]


@dataclass(frozen=True)
class Layout:
    """The communicators of one rank. Each purpose has its own, so that collectives of different ones never match.

    `boundary` and `head` join the ranks that share one head: activations cross the first between trunk and head, the
    second between the head's layers. `replicas` joins the ranks that hold the same part of the head, one of each
    group. `trunk` and `world` join all.
    """

    scheme: Scheme
    world: Communicator
    trunk: Communicator
    boundary: Communicator
    head: Communicator
    replicas: Communicator

    @property
    def group_index(self) -> int:
        """Which group this rank belongs to: group g has ranks g G, ..., g G + G - 1."""
        return self.replicas.rank

    def describe(self) -> str:
        """Return one line for people."""
        ranks, group = self.world.size, self.boundary.size
        if group == 1:
            return f"{ranks} rank{'s'[: ranks > 1]}, data parallel in every layer"
        return f"{ranks} ranks, trunk data parallel, head split over {group} ranks, scheme ({self.scheme.name})"


def make_layout(world: Communicator, scheme: SchemeName) -> Layout:
    """Return the layout of `scheme` on the ranks of `world`. All ranks call.

    Data parallelism of everything ("dp") is a head split over groups of one rank.
    """
    group_size = 1 if scheme == "dp" else world.size
    group, member = divmod(world.rank, group_size)
    boundary = world.split(group, member, "boundary")
    return Layout(
        scheme=SchemeA(),
        world=world,
        trunk=world.dup("trunk"),
        boundary=boundary,
        head=boundary.dup("head"),
        replicas=world.split(member, group, "replicas"),
    )


def check_layout(model: Model, scheme: SchemeName, num_ranks: int) -> None:
    """Raise ValueError, with the way out, if `model` cannot run under `scheme` on `num_ranks` ranks."""
    if scheme == "dp":
        return
    for layer in model.head.layers.values():
        if not isinstance(layer, Linear):
            continue
        outputs = layer.weight.global_shape[0]
        if outputs % num_ranks:
            possible = [k for k in range(1, num_ranks + 1) if _divides_head(model, k)]
            raise ValueError(
                f"scheme '{scheme}' splits the {outputs} units of {layer.name} over {num_ranks} ranks, which is no "
                f"whole number each; use {' or '.join(map(str, possible[-3:]))} ranks, or --scheme dp"
            )


def images_per_rank(global_batch: int, num_ranks: int) -> int:
    """Return each rank's share of the global batch. ValueError, with the nearest sizes that work, if there is none."""
    if global_batch % num_ranks or global_batch < num_ranks:
        below = global_batch // num_ranks * num_ranks
        fitting = " or ".join(str(size) for size in (below, below + num_ranks) if size)
        raise ValueError(
            f"--global-batch {global_batch} is not divisible by the {num_ranks} ranks; use {fitting}, or give "
            "--images-per-rank"
        )
    return global_batch // num_ranks


def _divides_head(model: Model, num_ranks: int) -> bool:
    return all(
        layer.weight.global_shape[0] % num_ranks == 0
        for layer in model.head.layers.values()
        if isinstance(layer, Linear)
    )
