"""A backend whose operations are timed, each waited for before and after."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from owt_mpi.backends.base import Array, Backend
from owt_mpi.backends.wrapper import BackendWrapper

_NOT_TIMED = {"synchronize", "set_num_threads", "memory", "replayable", "each_time"}


@dataclass(frozen=True)
class TimedCall:
    """One call of an operation, and how long it took."""

    operation: str
    seconds: float


class TimedBackend(BackendWrapper):
    """`inner`, with every call of an operation noted in `calls`, in order. For one thread."""

    def __init__(self, inner: Backend, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(inner)
        self.calls: list[TimedCall] = []
        self._inner = cast("Backend", _Noting(inner, self.calls, clock))


class _Noting:
    """Passes on what is asked of it, and notes the calls."""

    def __init__(self, inner: Backend, calls: list[TimedCall], clock: Callable[[], float]) -> None:
        self._inner, self._calls, self._clock = inner, calls, clock

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        return method if name in _NOT_TIMED else partial(self._timed, name, method)

    def _timed(self, name: str, method: Callable[..., Array], *arguments: Any) -> Any:
        self._inner.synchronize()
        begin = self._clock()
        result = method(*arguments)
        self._inner.synchronize()
        self._calls.append(TimedCall(name, self._clock() - begin))
        return result
