"""Small files that are handed in: read within limits, and what is in them checked."""

import os
from pathlib import Path
from typing import Any

import pytest

from owt_mpi.input_file import (
    listed,
    number,
    one_line,
    printable,
    read_json,
    read_text,
    short,
    table,
    text,
    truth,
    whole,
)


def test_text_and_json_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"ä": [1, 2.5, null, {"b": []}]}', encoding="utf-8")
    assert read_text(tmp_path / "a", 100) == '{"ä": [1, 2.5, null, {"b": []}]}'
    assert read_json(tmp_path / "a", 100) == {"ä": [1, 2.5, None, {"b": []}]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff", "is no text in UTF-8: byte 0 is 0xff"),
        (b"x" * 101, "has 101 bytes, and may have 100"),
        (b"", "is no JSON: Expecting value in line 1, column 1"),
        (b"[1,\n2", "is no JSON: Expecting ',' delimiter in line 2, column 2"),
        (b'{"a": 1} x', "is no JSON: Extra data"),
    ],
)
def test_what_is_no_json_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=words) as refused:
        read_json(tmp_path / "a", 100)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("levels", [65, 2000, 100_000])
def test_deep_json_is_refused(tmp_path: Path, levels: int) -> None:
    (tmp_path / "a").write_text("[" * levels + "]" * levels)
    with pytest.raises(ValueError, match="more than 64 levels deep"):
        read_json(tmp_path / "a", 1 << 20)
    (tmp_path / "a").write_text("[" * 64 + "]" * 64)
    read_json(tmp_path / "a", 1 << 20)


def test_pipes_devices_and_folders_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(ValueError, match="is no regular file"):
            read_text(tmp_path / name, 100)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "missing", 100)


def test_what_an_error_says_is_one_line() -> None:
    assert one_line(ValueError("a\nb\x1b[2J é")) == "a\\nb\\x1b[2J é"
    assert one_line("x" * 100_000) == "x" * 1500 + "..."


def test_values_of_any_size_are_said_in_short() -> None:
    assert [len(short(value)) < 80 for value in ("a" * 1000, 16**6000, list(range(1000)), 10**400)] == [True] * 4


def test_values_of_the_right_type_are_returned() -> None:
    assert (whole(3, "n"), whole(-1, "n", -1), number(2, "x"), number(-1e308, "x")) == (3, -1, 2.0, -1e308)
    assert (truth(False, "b"), text("ä\n", "t"), listed([], "l"), table({}, "t")) == (False, "ä\n", [], {})


@pytest.mark.parametrize(
    ("check", "value"),
    [
        *((whole, value) for value in (-1, 2**53 + 1, 10**400, True, 1.0, "1", None)),
        *((number, value) for value in (float("nan"), float("inf"), 10**400, True, "1", None)),
        *((truth, value) for value in (0, "true", None)),
        *((text, value) for value in (1, None, "\ud800")),
        *((listed, value) for value in ({}, "ab", None)),
        *((table, value) for value in ([], "ab", None)),
    ],
)
def test_other_values_are_refused_in_a_line_that_names_them(check: Any, value: object) -> None:
    with pytest.raises(ValueError, match=r"^what is ") as refused:
        check(value, "what")
    assert len(str(refused.value)) < 150


def test_long_and_odd_texts_are_shortened_and_escaped() -> None:
    assert len(short("A" * 100_000)) < 70
    assert len(short(10**400)) < 70
    assert printable("ä b") == "ä b"
    assert printable("a\n\x1b[31m\ud800") == r"a\n\x1b[31m\ud800"
