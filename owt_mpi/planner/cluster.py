"""Descriptions of clusters: what a rank computes with, and the links between ranks, level by level."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from owt_mpi.planner.devices import Device
from owt_mpi.planner.kernel import Kernel, PrecisionName

Sharing = Literal["a rank", "a unit"]
SHARINGS: tuple[Sharing, ...] = get_args(Sharing)


@dataclass(frozen=True)
class PlannedDevice:
    """What a rank computes with: a device's peak rates, and the share of them that is achieved.

    Products run at `convolution_share` or `linear_share` of the peak of their precision, all else at `memory_share` of
    the memory's rate; each kernel takes `kernel_seconds` besides. Where it is no GPU, the host sees all gradients
    before an update.
    """

    peak: Device
    memory_bytes: float
    is_gpu: bool
    convolution_share: float
    linear_share: float
    memory_share: float
    kernel_seconds: float

    def seconds(self, kernel: Kernel, precision: PrecisionName) -> float:
        """Return the time of one run of `kernel`: of its arithmetic or of its bytes, whichever is longer."""
        share = self.convolution_share if "conv" in kernel.work else self.linear_share
        products = kernel.product_flop / (self.peak.product_flop_per_second[precision] * share)
        others = kernel.other_flop / self.peak.product_flop_per_second["fp32"]
        moved = kernel.num_bytes / (self.peak.memory_bytes_per_second * self.memory_share)
        return self.kernel_seconds + max(products, others, moved)


@dataclass(frozen=True)
class Level:
    """Links that join the units of the level below (at the first: ranks) to units of `ranks` ranks; 0: of any number.

    `bytes_per_second` are those achieved in one direction by one link. With `link` "a rank", each rank has one of its
    own; with "a unit", the ranks of a unit of the level below share one.
    """

    name: str
    ranks: int
    latency_seconds: float
    bytes_per_second: float
    link: Sharing


@dataclass(frozen=True)
class Cluster:
    """Ranks and their links. Ranks fill up units one after the other.

    A collective takes `call_seconds` besides; with `uses_all_links` it is cut into parts that cross between units by
    all their ranks' links at once (as NCCL's rings do), else by one (a ring of MPI's). Each kind lasts `slower[kind]`
    times as long (1). While one is under way, its ranks compute only (1 - `takes_cores`) as much. With `sums_by_level`,
    all-reduces are made level by level (--node-sums sharded). `fitted` says which of the numbers are neither published
    nor measured.
    """

    name: str
    device: PlannedDevice
    levels: tuple[Level, ...]
    call_seconds: float
    uses_all_links: bool
    slower: Mapping[str, float]
    takes_cores: float = 0.0
    fitted: str = ""
    sums_by_level: bool = False

    @property
    def most_ranks(self) -> int:
        """How many ranks there are, 0: any number."""
        return self.levels[-1].ranks
