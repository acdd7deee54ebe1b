"""The devices that the stand-in pretends to have, and which of them is a thread's current one."""

import threading

from tests.fake_cupy.blocks import TOTAL_BYTES, CUDARuntimeError
from tests.fake_cupy.engine import CURRENT, get_current_stream

RUNTIME_VERSION = 12090


class Machine:
    """What the stand-in pretends that the machine has; a test may change it, within stand_in()."""

    num_devices = 2
    driver = 13000  # the newest CUDA that it knows, 0: there is none
    compute_capability = "90"
    fault = ""  # what every use of a device raises
    missing_library = ""


_AS_IT_IS = {name: value for name, value in vars(Machine).items() if not name.startswith("_")}


def restore_machine() -> None:
    """Take back what a test has changed."""
    for name, value in _AS_IT_IS.items():
        setattr(Machine, name, value)


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
        return Machine.compute_capability

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
    """Raise what every use of CUDA raises where there is no driver, one that is too old, or a faulty device."""
    if Machine.driver < RUNTIME_VERSION // 1000 * 1000:
        raise CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime")
    if Machine.fault:
        raise CUDARuntimeError(Machine.fault)


def num_devices() -> int:
    """Return how many devices there are, which cudaErrorNoDevice says where there are none."""
    check_driver()
    if Machine.num_devices == 0:
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return Machine.num_devices


def is_available() -> bool:
    """Return whether there are devices, whatever the reason if not."""
    try:
        return num_devices() > 0
    except CUDARuntimeError:
        return False


MATH_MODES: dict[tuple[int, int], int] = {}  # by a handle, which a thread has for each device


def get_cublas_handle() -> tuple[int, int]:
    """Return the calling thread's handle for its current device; CuPy's is a number."""
    need_library()
    return threading.get_ident(), CURRENT.device


def set_math_mode(handle: tuple[int, int], mode: int) -> None:
    """Set how products are made with that handle."""
    MATH_MODES[handle] = mode


def need_library() -> None:
    """Raise what the first use of a library raises that is not installed."""
    check_driver()
    if Machine.missing_library:
        raise RuntimeError(f'Failure finding "{Machine.missing_library}": No such file\nmore lines')


def get_device_id() -> int:
    """Return the calling thread's current device."""
    return CURRENT.device
