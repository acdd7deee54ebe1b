"""HDF5 files read without HDF5: what h5py wrote is found as h5py finds it, and what it cannot be is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from owt_mpi.plain_hdf5.reader import PlainHdf5
from owt_mpi.plain_hdf5.source import MOST_PARTS, Hdf5Error

RNG = np.random.default_rng(4)
Write = Callable[[Any], object]


def of_all_types(file: Any) -> None:
    for dtype in ("u1", "i1", "<u2", ">i2", "<i4", ">u4", "<i8", ">f2", "<f2", "<f4", ">f8", "<f8"):
        file[dtype] = RNG.integers(0, 100, (3, 4)).astype(dtype)
    file["texts"] = np.array([b"ant", b"", b"c\xc3\xa4t"])
    file["text"] = np.bytes_(b"alone")
    file["scalar"] = np.float64(-2.5)


def of_many_names(file: Any) -> None:
    for number in RNG.permutation(700).tolist():  # more than a leaf of the group's index holds, than one node of it too
        file[f"weights/trunk.layer{number}"] = np.arange(number % 5)
    file["weights/inner/deep/x"] = np.ones(3)
    file.create_group("empty")


def of_odd_shapes(file: Any) -> None:
    for name, shape in (("none", (0,)), ("no rows", (0, 4)), ("no columns", (4, 0)), ("long", (1,) * 9)):
        file[name] = np.zeros(shape)
    file.create_dataset("never written", (0, 7), "u1")


def of_attributes(file: Any) -> None:
    array = file.create_dataset("array", data=np.arange(6))
    for object_ in (file, array):
        object_.attrs["number"], object_.attrs["share"], object_.attrs["name"] = 3, 0.25, "Bär" * 100
        object_.attrs["start"], object_.attrs["fixed"] = (5, 6, 7), np.bytes_(b"text")
        for number in range(30):
            object_.attrs[f"more {number}"] = str(number)


def compact(file: Any) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.COMPACT)
    file.create_dataset("compact", data=np.arange(12).reshape(3, 4), dcpl=plan)


def chunked(file: Any) -> None:
    for name, shape, chunks, more in (
        ("plain", (50, 7, 6), (7, 3, 6), {}),
        ("deflated", (50, 7, 6), (50, 7, 5), {"compression": "gzip"}),
        ("shuffled", (9, 1000), (4, 9), {"compression": "gzip", "shuffle": True}),
        ("flat", (3001,), (2,), {}),
        ("no rows", (0, 3), (1, 3), {"maxshape": (None, 3)}),
    ):
        file.create_dataset(name, data=RNG.integers(0, 2000, shape), chunks=chunks, **more)


def written(path: Path, write: Write, **options: Any) -> Path:
    with h5py.File(path / "file.h5", "w", **options) as file:
        write(file)
    return path / "file.h5"


def by_h5py(path: Path) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Return values and attributes of all datasets, as h5py reads them, those of the file under ""."""
    found: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}

    def enter(name: str, each: Any) -> None:
        if isinstance(each, h5py.Dataset):
            found[name] = np.asarray(each[()]), dict(each.attrs)

    with h5py.File(path) as file:
        file.visititems(enter)
        found[""] = np.empty(0), dict(file.attrs)
    return found


def plainly(value: Any) -> Any:
    """Return what an attribute is in plain Python."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize(
    "write",
    [of_all_types, of_many_names, of_odd_shapes, of_attributes, compact, chunked],
    ids=lambda each: each.__name__,
)
def test_all_is_as_h5py_finds_it(tmp_path: Path, write: Write) -> None:
    path = written(tmp_path, write)
    expected = by_h5py(path)
    with PlainHdf5(path) as file:
        assert {"", *file.names} == expected.keys()
        for name, (values, attributes) in expected.items():
            array = file.array(name) if name else None
            found = file.attributes if array is None else array.attributes
            assert found == {key: plainly(value) for key, value in attributes.items()}
            if array is not None:
                read = array.read()
                assert (read.dtype, read.shape) == (values.dtype, values.shape)
                np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("name", ["plain", "deflated", "shuffled", "flat"])
def test_rows_of_chunked_arrays_are_those_of_the_whole(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, chunked)
    whole = by_h5py(path)[name][0]
    with PlainHdf5(path) as file:
        array = file.array(name)
        for start, stop in ((0, 1), (3, 8), (len(whole) - 2, len(whole)), (5, 5)):
            np.testing.assert_array_equal(array[start:stop], whole[start:stop])
        np.testing.assert_array_equal(array[4], whole[4])
        np.testing.assert_array_equal(array[-1], whole[-1])
        with pytest.raises(IndexError, match=f"{len(whole)} is not in 0"):
            array[len(whole)]


def external_link(file: Any) -> None:
    file["here"] = h5py.ExternalLink("other.h5", "there")


def soft_link(file: Any) -> None:
    file["there"], file["here"] = 1, h5py.SoftLink("/there")


def external_storage(file: Any) -> None:
    file.create_dataset("here", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "there", (4,))
    file.create_virtual_dataset("here", layout)


def texts_of_any_length(file: Any) -> None:
    file["here"] = ["a", "bc"]


def compound(file: Any) -> None:
    file["here"] = np.zeros(2, [("a", "i4"), ("b", "f4")])


def named_type(file: Any) -> None:
    file["type"] = np.dtype("<i4")
    file.create_dataset("here", (2,), file["type"])


def other_filter(file: Any) -> None:
    file.create_dataset("here", data=np.arange(99), chunks=(9,), compression="lzf")


def never_written(file: Any) -> None:
    file.create_dataset("here", (5, 5), "f4")


def never_written_chunks(file: Any) -> None:
    file.create_dataset("here", (5, 5), "f4", chunks=(2, 5))


def absurd_size(file: Any) -> None:
    file.create_dataset("here", (2**60,), "u1")


def absurd_size_in_chunks(file: Any) -> None:
    file.create_dataset("here", (2**60,), "u1", chunks=(2**20,))


def absurd_chunks(file: Any) -> None:
    file.create_dataset("here", (2**33,), "u1", chunks=(2**30,), compression="gzip")


def no_shape(file: Any) -> None:
    file["here"] = h5py.Empty("f4")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (external_link, "links to other files, which are not followed"),
        (soft_link, "has a link 'here', which is not followed"),
        (external_storage, "has 'here' in another file"),
        (virtual, "in a layout that is not read here"),
        (texts_of_any_length, "has texts of any length in 'here'"),
        (compound, "elements of a type that is not read here"),
        (named_type, "or with one that is elsewhere"),
        (other_filter, "compressed by a filter"),
        (never_written, "points to bytes"),
        (never_written_chunks, "has 0 chunks of an array with 3"),
        (absurd_size, r"says that it holds an array \(1152921504606846976,\) of uint8"),
        (absurd_size_in_chunks, r"says that it holds an array \(1152921504606846976,\) of uint8"),
        (absurd_chunks, "of more than 268435456 bytes"),
        (no_shape, "without elements or shape"),
        (lambda file: None, "has no dataset 'here'"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_is_not_read_here_is_said(tmp_path: Path, write: Write, words: str) -> None:
    path = written(tmp_path, write)
    with pytest.raises(Hdf5Error, match=words) as refused, PlainHdf5(path) as file:
        file.array("here").read()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [{"libver": "latest"}, {"userblock_size": 512}], ids=str)
def test_other_forms_of_files_are_said(tmp_path: Path, options: dict[str, Any]) -> None:
    path = written(tmp_path, of_attributes, **options)
    with pytest.raises(Hdf5Error, match=r"is in a newer form of HDF5|is no HDF5 file"):
        PlainHdf5(path)


def test_groups_in_themselves_come_to_an_end(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        group = file.create_group("round")
        group["again"], group["and again"] = group, group

    path = written(tmp_path, write)
    with pytest.raises(Hdf5Error, match=f"more than {MOST_PARTS} parts|groups within groups without end"):
        PlainHdf5(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, of_attributes)
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(Hdf5Error, match=r"is no HDF5 file|is truncated: it has"):
            PlainHdf5(path)


NUMBERS = (0, 1, 2**16, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1)


def mixed(file: Any) -> None:
    file["group/text"] = np.array([b"ant", b"bee"])
    file.attrs["name"], file["group/text"].attrs["start"] = "a text", (5, 6)
    file.create_dataset("deflated", data=RNG.integers(0, 9, (20, 7)), chunks=(6, 3), compression="gzip", shuffle=True)
    file.create_dataset("chunked", data=np.arange(40), chunks=(7,))


def test_damage_anywhere_is_harmless_or_said(tmp_path: Path) -> None:
    path = written(tmp_path, mixed)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(1000):
        content = bytearray(whole)
        for place in rng.integers(0, len(content) - 8, rng.integers(1, 4)).tolist():
            if rng.random() < 0.5:
                content[place] ^= 1 << int(rng.integers(8))
            else:
                content[place : place + 8] = NUMBERS[rng.integers(len(NUMBERS))].to_bytes(8, "little")
        path.write_bytes(content)
        try:
            with PlainHdf5(path) as file:
                for name in file.names:
                    array = file.array(name)
                    assert array.read().nbytes <= 1032 * len(content)
        except Hdf5Error as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert 100 < refused < 900
