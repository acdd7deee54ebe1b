"""As much of a GPU backend as a transport asks of it, on the stand-in for CuPy."""

from typing import Any

from owt_mpi.backends.reference import ReferenceBackend


class DeviceBackend(ReferenceBackend):
    """Arrays of device 0, which is named after the rank: in each process it is another's."""

    name = "cuda"

    def __init__(self, cupy: Any, rank: int) -> None:
        super().__init__()
        self.xp, self.device = cupy, f"GPU-{rank}"

    def from_host(self, array: Any) -> Any:
        return self.xp.asarray(array)
