"""Published peak rates of GPUs and links, and the roofline: the least time of a kernel on a GPU.

Sources: [V] NVIDIA V100 Tensor Core GPU datasheet (2020), [A] NVIDIA A100 Tensor Core GPU datasheet (2021), [H] NVIDIA
H100 Tensor Core GPU Architecture whitepaper, table of H100 SXM5, and H100 datasheet, [H2] NVIDIA H200 datasheet (2024).
Tensor core rates are those of dense matrices; the datasheet of the H100 prints twice as much, for sparse ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from owt_mpi.planner.kernel import Kernel, PrecisionName

Bound = Literal["compute", "memory"]


@dataclass(frozen=True)
class Link:
    """A link between ranks; the rate is of one direction, and both are used at once."""

    name: str
    bytes_per_second: float


PCIE3 = Link("PCIe 3 x16", 15.75e9)  # PCI-SIG: 8 GT/s a lane, 16 lanes, 128 of 130 bits
PCIE4 = Link("PCIe 4 x16", 31.5e9)  # 16 GT/s
PCIE5 = Link("PCIe 5 x16", 63.0e9)  # 32 GT/s
NVLINK2 = Link("NVLink 2", 150e9)  # [V]: 300 GB/s both ways together
NVLINK3 = Link("NVLink 3", 300e9)  # [A]: 600 GB/s both ways together
NVLINK4 = Link("NVLink 4", 450e9)  # [H]: 900 GB/s both ways together
EDR = Link("InfiniBand EDR", 12.5e9)  # InfiniBand Trade Association: 100 Gb/s, a port a rank
HDR = Link("InfiniBand HDR", 25e9)  # 200 Gb/s
NDR = Link("InfiniBand NDR", 50e9)  # 400 Gb/s


@dataclass(frozen=True)
class Device:
    """A GPU. `product_flop_per_second` are of products in each precision that it has units for."""

    name: str
    memory_bytes_per_second: float
    product_flop_per_second: dict[PrecisionName, float]
    links: tuple[Link, ...]

    def check(self, precision: PrecisionName) -> None:
        """Raise ValueError if products in `precision` have no units on this GPU."""
        if precision not in self.product_flop_per_second:
            raise ValueError(
                f"{self.name} has no units for {precision}; choose one of {', '.join(self.product_flop_per_second)}"
            )

    def seconds(self, kernel: Kernel, precision: PrecisionName) -> float:
        """Return the least time of one run: that of its arithmetic or of its bytes, whichever is longer."""
        return max(self._compute_seconds(kernel, precision), kernel.num_bytes / self.memory_bytes_per_second)

    def bound(self, kernel: Kernel, precision: PrecisionName) -> Bound:
        """Return which of the two is longer."""
        memory_seconds = kernel.num_bytes / self.memory_bytes_per_second
        return "compute" if self._compute_seconds(kernel, precision) > memory_seconds else "memory"

    def step_seconds(self, kernels: Iterable[Kernel], precision: PrecisionName) -> float:
        """Return the least time of all runs of all kernels, one after the other."""
        return sum(self.seconds(kernel, precision) * kernel.runs for kernel in kernels)

    def _compute_seconds(self, kernel: Kernel, precision: PrecisionName) -> float:
        products = kernel.product_flop / self.product_flop_per_second[precision]
        return max(products, kernel.other_flop / self.product_flop_per_second["fp32"])


DEVICES: dict[str, Device] = {
    "v100": Device("V100 SXM2 32 GB", 900e9, {"fp32": 15.7e12, "fp16": 125e12}, (PCIE3, NVLINK2, EDR)),  # [V]
    "a100": Device(
        "A100 SXM 80 GB",
        2039e9,
        {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12, "fp16": 312e12},
        (PCIE4, NVLINK3, HDR),
    ),  # [A]
    "h100": Device(
        "H100 SXM 80 GB",
        3350e9,
        {"fp32": 66.9e12, "tf32": 494.7e12, "bf16": 989.4e12, "fp16": 989.4e12},
        (PCIE5, NVLINK4, NDR),
    ),  # [H]
    "h200": Device(
        "H200 SXM 141 GB",
        4800e9,
        {"fp32": 66.9e12, "tf32": 494.7e12, "bf16": 989.4e12, "fp16": 989.4e12},
        (PCIE5, NVLINK4, NDR),
    ),  # [H2]: an H100 with more and faster memory
}
