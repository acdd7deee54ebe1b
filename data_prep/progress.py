"""What the person at the terminal sees: a bar where there is one, plain lines in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter:
    """Prints messages and progress to `console`, and keeps the warnings."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print one line that begins with "warning:", and keep it."""
        self.warnings.append(text)
        self.say(f"warning: {text}")

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Give a function that is told how many of `total` more are done."""
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=self._console) as progress:
                task = progress.add_task(what, total=total)
                yield lambda count: progress.advance(task, count)
            return
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            quarters_before, done = done * 4 // total, done + count
            if done * 4 // total > quarters_before:
                self.say(f"{what}: {done} of {total}")

        yield advance
