"""Device memory that plans on one stream use in turn, and what must not happen while a CUDA graph is captured."""

from collections.abc import Callable
from typing import Any


class Workspace:
    """As much memory as the largest user so far needed. For one thread and stream."""

    def __init__(self, allocate: Callable[[int], Any]) -> None:
        """Take memory by `allocate(num_bytes)`, which returns an object with its address in `ptr`."""
        self._allocate = allocate
        self._num_bytes = 0
        self._memory: Any = None
        self._captured: dict[int, Any] = {}  # by address: what CUDA graphs will use again whenever they are launched

    def reserve(self, num_bytes: int, stream: Any, user: object) -> int:
        """Return the address of at least that many bytes, 0 for none: good until a `user` comes that needs more."""
        if num_bytes == 0:
            return 0
        if num_bytes > self._num_bytes:
            refuse_while_capturing(stream, user)
            self._memory, self._num_bytes = self._allocate(num_bytes), num_bytes
        address = int(self._memory.ptr)
        if stream.is_capturing():
            self._captured[address] = self._memory
        return address


def refuse_while_capturing(stream: Any, user: object) -> None:
    """Raise RuntimeError if a CUDA graph is being captured from `stream`, where `user` needs a plan or memory."""
    if stream.is_capturing():
        raise RuntimeError(
            f"{user} is met for the first time while a CUDA graph is captured, when no plan can be made and no memory "
            "taken; run the step once on the same stream before it is captured"
        )
