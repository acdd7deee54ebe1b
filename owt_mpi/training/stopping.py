"""Wishes to end a run early: a signal, or its time being over. They are looked at between steps, by all ranks together.

The first SIGTERM or SIGUSR1 is a wish; the second does what signals do, and ends the process at once.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class _Wish:
    signal_name: str | None = None
    deadline: float | None = None
    max_minutes: float = 0.0


_wish = _Wish()


@contextmanager
def heeding_signals(max_minutes: float) -> Iterator[None]:
    """Let SIGTERM, SIGUSR1 and, if not 0, the end of `max_minutes` be wishes to stop, within. For the main thread."""
    assert threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, _heed) for number in SIGNALS}
    _wish.signal_name, _wish.max_minutes = None, max_minutes
    _wish.deadline = time.monotonic() + 60 * max_minutes if max_minutes else None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _wish.signal_name = _wish.deadline = None


def wish_to_stop() -> str | None:
    """Return what wishes this process to stop, None if nothing does."""
    if _wish.signal_name is not None:
        return _wish.signal_name
    if _wish.deadline is not None and time.monotonic() >= _wish.deadline:
        return f"--max-minutes {_wish.max_minutes:g}"
    return None


def _heed(number: int, frame: FrameType | None) -> None:
    _wish.signal_name = signal.Signals(number).name
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
