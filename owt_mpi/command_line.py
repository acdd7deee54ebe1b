"""How commands read their options: dataclasses by tyro, and one message for all ranks where something is wrong."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import tyro

from owt_mpi.comm.guard import USAGE_ERROR, CollectiveExit
from owt_mpi.comm.launcher import launcher_rank
from owt_mpi.input_file import one_line

Options = TypeVar("Options")


def parse_options(default: Options, arguments: list[str], command: str, description: str) -> Options:
    """Return `default`, a dataclass, with the values that `arguments` give. For use within `usage_errors`."""
    with contextlib.ExitStack() as stack:
        if launcher_rank():  # rank 0 speaks for all
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
            stack.enter_context(contextlib.redirect_stderr(silence))
        return tyro.cli(
            type(default),
            prog=command,
            description=description,
            args=arguments,
            default=default,
            config=(tyro.conf.OmitArgPrefixes,),
        )


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ValueError, and what ends the parser, into a CollectiveExit with the command's exit code."""
    try:
        yield
    except ValueError as error:
        raise CollectiveExit(USAGE_ERROR, f"error: {one_line(error)}") from None
    except BrokenPipeError:  # the help's reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CollectiveExit(0, "") from None
    except CollectiveExit:
        raise
    except SystemExit as end:
        raise CollectiveExit(end.code if isinstance(end.code, int) else USAGE_ERROR, "") from None


def refuse_ranks(why: str) -> None:
    """Raise CollectiveExit, saying `why`, with their {size} in it, if several ranks were started."""
    if launcher_rank() is None:
        return
    from owt_mpi.comm.mpi import world

    if world().size > 1:
        raise CollectiveExit(USAGE_ERROR, f"error: {why.format(size=world().size)}")
