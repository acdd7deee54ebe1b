"""Who shares what: the groups of ranks, the head's shards, and every rule of divisibility."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from owt_mpi.comm.base import Communicator
from owt_mpi.nn.layers import BlockLinear, Linear
from owt_mpi.nn.model import Model
from owt_mpi.parallel.schemes import AllAtOnce, InputSplit, Scheme, Senders

SchemeName = Literal["dp", "a", "b", "c", "d"]


@dataclass(frozen=True)
class Plan:
    """How a model is to be spread over ranks: what the user asked for, with its defaults filled in.

    The head is split over groups of `group_size` (G) ranks and copied to each of the K / G groups; G = 1 is data
    parallelism in every layer. `senders` (s) is the number of ranks that send in a pass, for schemes (b) and (c).
    """

    num_ranks: int
    scheme: SchemeName = "c"
    group_size: int = 0
    senders: int = 0

    @property
    def ranks_sharing_head(self) -> int:
        """G."""
        return 1 if self.scheme == "dp" else self.group_size or self.num_ranks

    @property
    def scheme_words(self) -> str:
        """The scheme, with the number of senders where it is between those of (b) and (c)."""
        return f"{self.scheme}, {self.senders} senders" if self.senders else self.scheme

    def make_scheme(self) -> Scheme:
        """Return the scheme that the groups run."""
        if self.scheme in ("dp", "a"):
            return AllAtOnce()
        if self.scheme == "d":
            return InputSplit()
        if self.senders:
            return Senders(self.senders)
        return Senders(1, "b") if self.scheme == "b" else Senders(self.ranks_sharing_head, "c")

    def check(self, model: Model, images_per_rank: int) -> None:
        """Raise ValueError, with the way out, if `model` cannot be spread like this with n images a rank."""
        size = self.ranks_sharing_head
        if self.scheme == "dp" and self.group_size > 1:
            raise ValueError(
                f"--head-group-size {self.group_size} splits the head, which scheme 'dp' does not; give --scheme a, b, "
                "c or d"
            )
        if self.num_ranks % size:
            raise ValueError(
                f"--head-group-size {size} does not divide the {self.num_ranks} ranks into whole groups; "
                f"use {_divisors(self.num_ranks)}"
            )
        if self.senders and (self.scheme not in ("b", "c") or size % self.senders):
            raise ValueError(
                f"--senders {self.senders} needs scheme b or c, and a number that divides the {size} ranks that share "
                f"a head: {_divisors(size)}"
            )
        scheme = self.make_scheme()
        senders = scheme.senders if isinstance(scheme, Senders) else scheme.num_passes(size)
        if images_per_rank % senders:
            below = images_per_rank // senders * senders
            raise ValueError(
                f"scheme '{self.scheme}' needs images-per-rank divisible by the {senders} ranks that send in a pass: "
                f"{images_per_rank} images; try {' or '.join(str(n) for n in (below, below + senders) if n)}"
            )
        for units, what in _split_units(model, scheme):
            if units % size:
                possible = [g for g in range(1, size) if self.num_ranks % g == 0 and _divides_head(model, scheme, g)]
                raise ValueError(
                    f"scheme '{self.scheme}' splits the {units} {what} over {size} ranks, which is no whole number "
                    f"each; use --head-group-size {' or '.join(map(str, possible))}, or --scheme dp"
                )


@dataclass(frozen=True)
class Layout:
    """The communicators of one rank. Each purpose has its own, so that collectives of different ones never match.

    `boundary` and `head` join the ranks that share one head, `members` in the world: activations cross the first
    between trunk and head, the second between the head's layers. `replicas` joins the ranks that hold the same part of
    the head, one of each group. `trunk` and `world` join all.
    """

    scheme: Scheme
    members: tuple[int, ...]
    world: Communicator
    trunk: Communicator
    boundary: Communicator
    head: Communicator
    replicas: Communicator

    def batch_rows(self, group_rows: np.ndarray, num_rows: int) -> np.ndarray:
        """Return the places in the whole batch of rows of the group's batch; every rank has `num_rows` (n)."""
        return np.asarray(np.array(self.members)[group_rows // num_rows] * num_rows + group_rows % num_rows)

    def describe(self) -> str:
        """Return one line for people."""
        ranks, group = self.world.size, self.boundary.size
        if group == 1:
            return f"{ranks} rank{'s'[: ranks > 1]}, data parallel in every layer"
        groups = f"each group of {group}" if group < ranks else f"{group} ranks"
        return f"{ranks} ranks, trunk data parallel, head split over {groups}, scheme ({self.scheme.name})"


def make_layout(world: Communicator, plan: Plan, host: str = "") -> Layout:
    """Return the layout of `plan`, which was checked, on the ranks of `world`. All ranks call.

    `host` names this rank's node, by default as the system does.
    """
    assert plan.num_ranks == world.size
    group_size = plan.ranks_sharing_head
    order = group_order(world.all_gather_object(host or socket.gethostname()), group_size)
    group, member = divmod(order.index(world.rank), group_size)
    boundary = world.split(group, member, "boundary")
    return Layout(
        scheme=plan.make_scheme(),
        members=tuple(order[group * group_size : (group + 1) * group_size]),
        world=world,
        trunk=world.dup("trunk"),
        boundary=boundary,
        head=boundary.dup("head"),
        replicas=world.split(member, group, "replicas"),
    )


def group_order(hosts: Sequence[str], group_size: int) -> list[int]:
    """Return the ranks in the order in which groups are cut from them: node by node, however the launcher dealt them.

    `hosts` are the ranks' nodes. No group straddles nodes that have a multiple of `group_size` ranks each. A single
    group, and groups of one, keep the order of the ranks.
    """
    ranks = range(len(hosts))
    if group_size in (1, len(hosts)):
        return list(ranks)
    return sorted(ranks, key=lambda rank: (hosts.index(hosts[rank]), rank))


def images_per_rank(global_batch: int, num_ranks: int) -> int:
    """Return each rank's share of the global batch. ValueError, with the nearest sizes that work, if there is none."""
    if global_batch % num_ranks or global_batch < num_ranks:
        below = global_batch // num_ranks * num_ranks
        fitting = " or ".join(str(size) for size in (below, below + num_ranks) if size)
        raise ValueError(
            f"--global-batch {global_batch} is not divisible by the {num_ranks} ranks; use {fitting}, or give "
            "--images-per-rank in its place"
        )
    return global_batch // num_ranks


def _split_units(model: Model, scheme: Scheme) -> list[tuple[int, str]]:
    """Return every number that the ranks of a group must share equally, and what it counts."""
    units = []
    for layer in model.head.layers.values():
        if isinstance(layer, Linear):
            units.append((layer.outputs, f"units of {layer.name}"))
        elif isinstance(layer, BlockLinear):
            units.append((layer.blocks, f"blocks of {layer.name}"))
    return [(model.num_features, "features of the trunk"), *units] if scheme.splits_inputs else units


def _divides_head(model: Model, scheme: Scheme, group_size: int) -> bool:
    return all(units % group_size == 0 for units, _ in _split_units(model, scheme))


def _divisors(number: int) -> str:
    return " or ".join(str(d) for d in range(1, number + 1) if number % d == 0)
