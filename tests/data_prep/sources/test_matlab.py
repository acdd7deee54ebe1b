"""MATLAB files as SciPy writes them, and damaged ones."""

import io
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest

from data_prep.sources import matlab
from data_prep.sources.matlab import read_structs

savemat = pytest.importorskip("scipy.io").savemat

ROWS = [(1, "n01", "Bär, a bear", 1300.0, ""), (2**40, "n02", "", -2.5, "x" * 300)]
FIELDS = ("id", "wnid", "words", "share", "gloss")


def matlab_file(compressed: bool = True) -> bytes:
    """Return a file with other variables, and an array of structures that have more fields than are asked for."""
    structs = np.empty((len(ROWS), 1), [(name, object) for name in ("other", *FIELDS)])
    for number, row in enumerate(ROWS):
        structs[number, 0] = (np.arange(6).reshape(2, 3), *row)
    buffer = io.BytesIO()
    content = {"first": np.eye(3), "text": "synsets", "cells": np.array([1, "a"], object), "synsets": structs}
    savemat(buffer, content, do_compression=compressed)
    return buffer.getvalue()


@pytest.mark.parametrize("compressed", [True, False])
def test_numbers_and_texts_are_those_that_were_written(compressed: bool) -> None:
    assert read_structs(matlab_file(compressed), "synsets", FIELDS) == ROWS
    assert read_structs(matlab_file(compressed), "synsets", ("share", "id")) == [(1300.0, 1), (-2.5, 2**40)]
    assert read_structs(matlab_file(compressed), "synsets", ("other",)) == [(None,), (None,)]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_numbers_of_all_types_are_read(dtype: str) -> None:
    buffer = io.BytesIO()
    savemat(buffer, {"a": {"x": np.array(7, dtype)}})
    assert read_structs(buffer.getvalue(), "a", ("x",)) == [(7.0,)]


def element(kind: int, content: bytes) -> bytes:
    return struct.pack(">2I", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def test_a_file_of_the_other_byte_order_is_read() -> None:
    def matrix(class_: int, shape: tuple[int, int], name: bytes, *parts: bytes) -> bytes:
        heads = element(6, struct.pack(">2I", class_, 0)), element(5, struct.pack(">2i", *shape)), element(1, name)
        return element(14, b"".join([*heads, *parts]))

    small = struct.pack(">2HI", 4, 5, 4)  # four bytes of type 5, in the tag itself: names of four bytes
    number = matrix(6, (1, 1), b"", element(9, struct.pack(">d", 2.5)))
    text = matrix(4, (1, 2), b"", element(4, "aß".encode("utf-16-be")))
    structs = matrix(2, (1, 1), b"s", small, element(1, b"x\0\0\0y\0\0\0"), number, text)
    assert read_structs(b" " * 124 + b"\1\0MI" + structs, "s", ("y", "x")) == [("aß", 2.5)]


def other_name(content: bytes) -> bytes:
    return content.replace(b"synsets", b"synsetz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: b"", "no MATLAB file of version 5"),
        (lambda content: content[:127], "no MATLAB file of version 5"),
        (lambda content: content[:128], "no array of structures 'synsets'"),
        (lambda content: content[:-9], "cut short"),
        (other_name, "no array of structures 'synsets'"),
        (lambda content: content.replace(b"wnid", b"WNID"), "its structures have no field 'wnid'"),
    ],
)
def test_what_is_wrong_is_said(change: Callable[[bytes], bytes], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_structs(change(matlab_file(compressed=False)), "synsets", FIELDS)


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matlab, "_LARGEST_CONTENT", 1 << 20)
    buffer = io.BytesIO()
    savemat(buffer, {"a": np.zeros(1 << 21, np.uint8)}, do_compression=True)
    with pytest.raises(ValueError, match="unpacks to more than 1048576 bytes"):
        read_structs(buffer.getvalue(), "synsets", FIELDS)


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_is_harmless_or_a_value_error(compressed: bool) -> None:
    whole, rng = matlab_file(compressed), Random(3)
    refused = 0
    for _ in range(2000):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 2, 4))):
            place: Any = rng.randrange(len(content))
            if rng.random() < 0.5:
                content[place] ^= 1 << rng.randrange(8)
            else:
                content[place : place + 4] = struct.pack("<I", rng.choice((0, 1, 14, 15, 2**16, 2**31, 2**32 - 1)))
        try:
            read_structs(bytes(content), "synsets", FIELDS)
        except ValueError:
            refused += 1
    assert 200 < refused < 2000
