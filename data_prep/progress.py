"""What the person at the terminal sees: a bar where there is one, plain lines in a log."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from owt_mpi.input_file import printable

_LINES = 10  # of a log, for the whole of what is tracked
_EXAMPLES = 3


class Reporter:
    """Prints messages and progress to `console`, and keeps the warnings."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.warnings: list[str] = []
        self.seconds = 0.0  # of the last thing that was tracked

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print one line that begins with "warning:", and keep it."""
        self.warnings.append(text)
        self.say(f"warning: {text}")

    def warn_of_many(self, text: str, items: Sequence[str]) -> None:
        """Warn of `items`, if there are any, with examples; {} in `text` is their number."""
        if items:
            more = " ..." * (len(items) > _EXAMPLES)
            self.warn(f"{text.format(len(items))}: {'; '.join(items[:_EXAMPLES])}{more}")

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """Give a function that is told how many of `total` more are done, and how many of those were rejected."""
        start = time.monotonic()
        done = rejected = 0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        task = bar.add_task(what, total=total, rate="")

        def advance(more: int, more_rejected: int) -> None:
            nonlocal done, rejected
            lines_before = done * _LINES // total
            done, rejected = done + more, rejected + more_rejected
            rate = _rate(done, total, rejected, time.monotonic() - start)
            bar.update(task, completed=done, rate=rate)
            if bar.disable and done * _LINES // total > lines_before:
                self.say(f"{what}: {done} of {total}, {rate}")

        try:
            with bar:
                yield advance
        finally:
            self.seconds = time.monotonic() - start


def _rate(done: int, total: int, rejected: int, seconds: float) -> str:
    per_second = done / max(seconds, 1e-9)
    left = round((total - done) / max(per_second, 1e-9))
    return f"{per_second:.0f} images/s, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left, {rejected} rejected"
