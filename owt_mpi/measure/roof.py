"""The roof over a kernel: the least time of its arithmetic and bytes on the GPU at hand, where that is described."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from owt_mpi.planner.devices import DEVICES, Device
from owt_mpi.planner.kernel import Kernel, PrecisionName

# what the driver calls the GPUs that planner.devices describes; their PCIe cards, and slices of them, have other rates
_DRIVER_NAMES = {
    "v100": "V100-SXM2-32GB",
    "a100": "A100-SXM4-80GB",
    "h100": "H100 80GB HBM3",
    "h200": "NVIDIA H200",
}


@dataclass(frozen=True)
class Roof:
    """A GPU's published rates, with those of its products in one precision."""

    device: Device
    precision: PrecisionName

    def seconds(self, kernels: Iterable[Kernel]) -> float:
        """Return the least time of the kernels, one after the other."""
        return self.device.step_seconds(kernels, self.precision)


def find_roof(device_name: str, precision: PrecisionName) -> Roof | None:
    """Return the rates of the GPU that the driver calls `device_name`, None where they are not described."""
    device = next((DEVICES[key] for key, name in _DRIVER_NAMES.items() if device_name.endswith(name)), None)
    if device is None or precision not in device.product_flop_per_second:
        return None
    return Roof(device, precision)


def as_one(kernels: Sequence[Kernel]) -> Kernel:
    """Return kernels of which none reads what another writes as one, which reads once what several read."""
    return Kernel(
        layer=kernels[0].layer,
        work=" + ".join(kernel.work for kernel in kernels),
        reads=tuple(dict.fromkeys(operand for kernel in kernels for operand in kernel.reads)),
        writes=tuple(operand for kernel in kernels for operand in kernel.writes),
        product_flop=sum(kernel.product_flop for kernel in kernels),
        other_flop=sum(kernel.other_flop for kernel in kernels),
    )


def roof_seconds(roof: Roof | None, kernels: Iterable[Kernel]) -> float | None:
    """Return the least time of the kernels, one after the other, None without a roof."""
    return None if roof is None else roof.seconds(kernels)
