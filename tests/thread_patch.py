"""A method that is another for what one thread does, while other threads call the original."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest


def patched_in_thread(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, replacement: Callable[..., Any]
) -> Callable[[], AbstractContextManager[None]]:
    """Return what makes `owner.name` the replacement, within a with-block, for the thread that enters it.

    Threads that each set and undo an attribute may take one another's replacement for the original, and leave it there
    for all tests that follow. Here it is set once, and undone with `monkeypatch`.
    """
    original, asked = getattr(owner, name), threading.local()

    def either(*args: Any, **options: Any) -> Any:
        return (replacement if getattr(asked, "now", False) else original)(*args, **options)

    @contextmanager
    def asking() -> Iterator[None]:
        asked.now = True
        try:
            yield
        finally:
            asked.now = False

    monkeypatch.setattr(owner, name, either)
    return asking
