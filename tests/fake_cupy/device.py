"""The devices that the stand-in pretends to have, and which of them is a thread's current one."""

from tests.fake_cupy.blocks import TOTAL_BYTES, CUDARuntimeError
from tests.fake_cupy.engine import CURRENT, get_current_stream


class Machine:
    """What the stand-in pretends: how many devices there are, and whether there is a driver."""

    num_devices = 2
    has_driver = True


class Device:
    """cupy.cuda.Device."""

    def __init__(self, device: int | None = None) -> None:
        self.id = CURRENT.device if device is None else device
        self._before: list[int] = []

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id + 1:02X}:00.0"

    @property
    def compute_capability(self) -> str:
        return "90"

    @property
    def mem_info(self) -> tuple[int, int]:
        return TOTAL_BYTES, TOTAL_BYTES

    def use(self) -> None:
        check_driver()
        if not 0 <= self.id < Machine.num_devices:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        CURRENT.device = self.id

    def synchronize(self) -> None:
        get_current_stream().synchronize()

    def __enter__(self) -> "Device":
        self._before.append(CURRENT.device)
        self.use()
        return self

    def __exit__(self, *error: object) -> None:
        CURRENT.device = self._before.pop()

    def __int__(self) -> int:
        return self.id


def check_driver() -> None:
    """Raise what every use of CUDA raises where there is no driver."""
    if not Machine.has_driver:
        raise CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime")


def get_device_id() -> int:
    """Return the calling thread's current device."""
    return CURRENT.device
