"""Small files that people hand in, and what is in them: read within limits, and checked before it is believed."""

import json
import os
import sys
from pathlib import Path
from reprlib import Repr
from typing import Any

from owt_mpi.disk import open_regular

LARGEST_NUMBER = 2**53  # of whole numbers: what a float holds too
_LARGEST_FLOAT = sys.float_info.max
_MOST_LEVELS = 64  # of lists in lists
_LONGEST_LINE = 1500
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def read_text(path: Path, most_bytes: int) -> str:
    """Return the text of a file. ValueError, to go on from its name, if it is none; OSError if it is not there."""
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise ValueError(f"has {size} bytes, and may have {most_bytes}")
        content = file.read(most_bytes + 1)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is no text in UTF-8: byte {error.start} is {content[error.start]:#04x}") from error


def read_json(path: Path, most_bytes: int) -> Any:
    """Return what is in a JSON file. ValueError, to go on from its name, if that is none; OSError as `read_text`."""
    try:
        content = json.loads(read_text(path, most_bytes))
    except RecursionError:
        raise ValueError(f"has lists in lists, more than {_MOST_LEVELS} levels deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error.msg} in line {error.lineno}, column {error.colno}") from error
    level = [content]
    for _ in range(_MOST_LEVELS):
        lists = [each for each in level if isinstance(each, dict | list)]
        level = [inner for each in lists for inner in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return content
    raise ValueError(f"has lists in lists, more than {_MOST_LEVELS} levels deep")


def short(value: object) -> str:
    """Return what Python writes for a value, cut short, for messages."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # of whole numbers with more digits than Python writes
        return "a number of very many digits"


def printable(value: object) -> str:
    """Return a text with what cannot be printed in a line escaped: ends of lines, commands of terminals, no Unicode."""
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: object) -> str:
    """Return what an error says as one line of a bearable length, whatever it quotes."""
    text = printable(error)
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}..."


def whole(value: object, name: str, least: int = 0, most: int = LARGEST_NUMBER) -> int:
    """Return a whole number. ValueError, with its `name`, if it is none, or not from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {short(value)}, and not a whole number from {least} to {most}")
    return value


def number(value: object, name: str) -> float:
    """Return a finite number. ValueError, with its `name`, if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST_FLOAT:
        raise ValueError(f"{name} is {short(value)}, and not a finite number")
    return float(value)


def truth(value: object, name: str) -> bool:
    """Return true or false. ValueError, with its `name`, if it is neither."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {short(value)}, and neither true nor false")
    return value


def text(value: object, name: str) -> str:
    """Return a text. ValueError, with its `name`, if it is none, or no Unicode."""
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} is {short(value)}, and not a text")
    return value


def listed(value: object, name: str) -> list[Any]:
    """Return a list. ValueError, with its `name`, if it is none."""
    if not isinstance(value, list):
        raise ValueError(f"{name} is {short(value)}, and not a list")
    return value


def table(value: object, name: str) -> dict[str, Any]:
    """Return an object of JSON. ValueError, with its `name`, if it is none."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {short(value)}, and not an object")
    return value
