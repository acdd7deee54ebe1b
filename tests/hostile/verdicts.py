"""What becomes of a hostile input: it is accepted, or refused as it should be; all else is a failure."""

import contextlib
import io
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from owt_mpi.checkpoint.format import CheckpointError
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.data.decode import ImageError
from owt_mpi.data.manifest import DataError
from owt_mpi.interchange.tensor_file import InterchangeError

REPO_ROOT = str(Path(__file__).resolve().parents[2])
_OWN = (DataError, CheckpointError, ImageError, InterchangeError)
_LONGEST_MESSAGE = 2000
Entry = Callable[[], "int | None"]


class Failure(Exception):
    """What must not happen."""


def refusal_of(entry: Entry, codes: tuple[int, ...]) -> str | None:
    """Return None if `entry` accepts its input, else the message with which it refuses it. Failure if neither.

    An entry refuses by one of the program's own errors, by a CollectiveExit with one of `codes`, or, as commands do, by
    returning one of these and a line on stderr.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    with (
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        warnings.simplefilter("always")
        try:
            code, message = entry() or 0, ""
        except CollectiveExit as end:
            _check_cause(end.__cause__)
            code, message = int(end.code or 0), end.message
        except (ValueError, OSError) as error:
            _check_cause(error)
            code, message = codes[0], str(error)
    err.seek(0)
    message = message or err.read()
    if warned:
        raise Failure(f"a warning: {warned[0].category.__name__}: {warned[0].message}")
    out.seek(0)
    _check_printable(out.read())
    if code == 0:
        return None
    if code not in codes:
        raise Failure(f"exit code {code}, not one of {codes}: {message[:200]}")
    if len(message.splitlines()) != 1 or not message.strip() or len(message) > _LONGEST_MESSAGE:
        raise Failure(f"{len(message.splitlines())} lines, {len(message)} characters: {message[:200]!r}")
    _check_printable(message)
    return message.strip()


def _check_printable(text: str) -> None:
    """Raise Failure for what would move a terminal's cursor, or be no text."""
    odd = next((line for line in text.split("\n") if not line.isprintable()), None)
    if odd is not None:
        raise Failure(f"not to be printed: {odd[:200]!r}")


def _check_cause(error: BaseException | None) -> None:
    """Raise Failure unless `error` is one that this program raises for people, or the system for a file."""
    if error is None:
        return
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, MemoryError):
            raise Failure(f"no memory for it: {error}") from error
        chain = chain.__cause__ or chain.__context__
    own_value_error = type(error) is ValueError and _raised_by_us(error)
    of_the_system = isinstance(error, OSError) and error.errno is not None and error.filename is not None
    if not (isinstance(error, _OWN) or own_value_error or of_the_system):
        raise Failure(f"{type(error).__name__}: {error}") from error


def _raised_by_us(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(REPO_ROOT) and (frames[-1].line or "").startswith("raise")
