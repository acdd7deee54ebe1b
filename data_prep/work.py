"""Shards are handed out to ranks one by one, as they ask: a slow rank does not hold the others up.

Rank 0 hands out, and works too; it looks for messages whenever it reports its own progress, so the others ask before
they need an answer, and begin with the shard of their own number. It is told of all ranks' progress, and when one fails
it stops the others.
"""

import time
from collections.abc import Callable
from typing import Any

from owt_mpi.comm.mailbox import Mailbox

POLL_SECONDS = 0.002


class Stopped(Exception):
    """Another rank has failed, and says why; nothing is wrong with this one."""


class WorkQueue:
    """Gives each number of range(count) to one rank. `show(images, rejected)` is called on rank 0 for all ranks.

    Every rank takes until it gets None or something is raised, and then calls `close`.
    """

    def __init__(self, mailbox: Mailbox, count: int, show: Callable[[int, int], object]) -> None:
        self._mailbox = mailbox
        self._show = show
        self._first = mailbox.rank if mailbox.rank < count else None
        self._left = iter(range(mailbox.size, count))
        self._at_work = set(range(1, mailbox.size)) if mailbox.rank == 0 else set()
        self._stopped = False
        self._has_asked = False
        self._answers: list[Any] = []

    def ask(self) -> None:
        """Ask for what the next `take` will return, so that it need not wait."""
        if self._mailbox.rank > 0 and not self._has_asked:
            self._has_asked = True
            self._mailbox.send(0, ("take",))

    def take(self) -> int | None:
        """Return the next number, None if there is none left. Stopped if another rank has failed."""
        if self._first is not None or self._mailbox.rank == 0:
            self._serve()
            self._check()
            first, self._first = self._first, None
            return next(self._left, None) if first is None else first
        self.ask()
        number: int | None = self._wait_for("number")[1]
        self._has_asked = False
        return number

    def report(self, images: int, rejected: int) -> None:
        """Tell rank 0 how many more images are done, and how many of them were rejected. Stopped as in `take`."""
        if self._mailbox.rank == 0:
            self._show(images, rejected)
        else:
            self._mailbox.send(0, ("report", images, rejected))
        self._serve()
        self._check()

    def close(self, failed: bool) -> None:
        """Return when all ranks have ended their work; if this rank `failed`, they end at once."""
        if self._mailbox.rank == 0:
            if failed:
                self._stop()
            while self._at_work:
                self._serve()
                time.sleep(POLL_SECONDS)
        else:
            self._mailbox.send(0, ("end", failed))
            self._wait_for("bye")

    def _wait_for(self, kind: str) -> tuple[Any, ...]:
        while True:
            self._serve()
            for answer in self._answers:
                if answer[0] == kind:
                    self._answers.remove(answer)
                    found: tuple[Any, ...] = answer
                    return found
            if kind != "bye":
                self._check()
            time.sleep(POLL_SECONDS)

    def _serve(self) -> None:
        """Read all messages that have come; rank 0 answers them."""
        while (received := self._mailbox.receive()) is not None:
            sender, message = received
            if message[0] == "take":
                self._mailbox.send(sender, ("number", None if self._stopped else next(self._left, None)))
            elif message[0] == "report":
                self._show(*message[1:])
            elif message[0] == "end":
                self._at_work.remove(sender)
                if message[1]:
                    self._stop()
                self._mailbox.send(sender, ("bye",))
            elif message[0] == "stop":
                self._stopped = True
            else:
                self._answers.append(message)

    def _stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            for rank in self._at_work:
                self._mailbox.send(rank, ("stop",))

    def _check(self) -> None:
        if self._stopped:
            raise Stopped
