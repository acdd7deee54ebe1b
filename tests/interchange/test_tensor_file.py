"""Damaged and hostile safetensors files: one line, little memory, whatever is in them."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from owt_mpi.interchange import tensor_file
from owt_mpi.interchange.tensor_file import InterchangeError, TensorFile, library, write_tensors
from tests.small_disk import small_disk


@pytest.fixture
def sound(tmp_path: Path) -> bytes:
    save_file({"a": np.arange(12, dtype=np.float32).reshape(3, 4)}, tmp_path / "sound.safetensors")
    return (tmp_path / "sound.safetensors").read_bytes()


def of_header(header: dict, body: bytes = b"") -> bytes:
    """Return a file of that header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def of_one(dtype: str, shape: list[int]) -> bytes:
    """Return a file of one tensor of four bytes, which is said to be something else."""
    return of_header({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, 4]}}, b"abcd")


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "seven bytes": lambda sound: sound[:7],
    "cut off in the header": lambda sound: sound[:30],
    "cut off in the numbers": lambda sound: sound[:-1],
    "longer": lambda sound: sound + b"\0",
    "random": lambda _: np.random.default_rng(1).bytes(5000),
    "a header of 2^64 - 1 bytes": lambda sound: struct.pack("<Q", 2**64 - 1) + sound[8:],
    "a header of 90 MB": lambda sound: struct.pack("<Q", 90_000_000) + sound[8:],
    "2^80 numbers": lambda _: of_header(
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"abcd"
    ),
    "numbers that overlap": lambda _: of_header(
        {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, b"abcd"
    ),
    "an unknown type": lambda _: of_header(
        {"a": {"dtype": "\n\x1b[2J", "shape": [1], "data_offsets": [0, 4]}}, b"abcd"
    ),
    "deep nesting": lambda _: struct.pack("<Q", 200_000) + b"[" * 200_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, sound: bytes, kind: str):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE[kind](sound))
    with pytest.raises(InterchangeError, match=r"hostile.safetensors is no sound safetensors file \(") as refused:
        TensorFile(path)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


def test_a_header_that_would_take_much_memory_is_not_read(tmp_path: Path, monkeypatch):
    many = {f"{i:07}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}
    (tmp_path / "many.safetensors").write_bytes(of_header(many))
    monkeypatch.setattr("safetensors.safe_open", lambda *_, **__: pytest.fail("it is read"))
    with pytest.raises(InterchangeError, match=r"a header of \d+ bytes, more than 4194304"):
        TensorFile(tmp_path / "many.safetensors")


@pytest.mark.parametrize(("name", "words"), [("none", "there is no file"), ("", "is no sound safetensors file")])
def test_no_file_and_a_folder_are_named(tmp_path: Path, name: str, words: str):
    with pytest.raises(InterchangeError, match=words):
        TensorFile(tmp_path / name)


def test_numbers_that_numpy_has_not_are_named(tmp_path: Path):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(of_one("F8_E4M3", [4]))
    with TensorFile(path) as file, pytest.raises(InterchangeError, match=r"a of .*odd.safetensors cannot be read \("):
        file.tensor("a")[:2]


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "sync_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(tmp_path / "x.safetensors", {"a": np.zeros(3)}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_named_with_the_extra_that_brings_it():
    with pytest.raises(InterchangeError, match=r"get it with pip install 'owt_mpi\[interchange\]'"):
        library("no_such_library")


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InterchangeError, match=r"pipe.safetensors is no sound safetensors file \(is no regular file\)"):
        TensorFile(tmp_path / "pipe.safetensors")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path):
    with small_disk(tmp_path / "disk", 8192):
        with pytest.raises(InterchangeError, match=r"a.safetensors cannot be written \(.*No space left on device"):
            write_tensors(tmp_path / "disk" / "a.safetensors", {"a": np.ones(10_000)}, {})
        assert list((tmp_path / "disk").iterdir()) == []
