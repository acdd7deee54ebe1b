"""Global arrays are what their blocks hold together; blocks that leave holes, overlap or differ are refused."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from owt_mpi.checkpoint.format import CheckpointError
from owt_mpi.checkpoint.global_array import GlobalArray, open_arrays
from owt_mpi.checkpoint.part_file import write_parts
from owt_mpi.checkpoint.parts import Part

WHOLE = np.random.default_rng(2).standard_normal((7, 6, 3)).astype(np.float32)


def grid_of(whole: np.ndarray, rows: Sequence[int], columns: Sequence[int]) -> list[Part]:
    """Return blocks of `whole`, cut before these rows and columns."""
    edges = [[*zip([0, *cuts], [*cuts, length], strict=True)] for cuts, length in ((rows, 7), (columns, 6))]
    return [Part("weights/a", whole.shape, (a, c, 0), whole[a:b, c:d]) for (a, b), (c, d) in product(*edges)]


def opened(folder: Path, parts: Sequence[Part], edit: Callable[[Any], object] = lambda file: None) -> GlobalArray:
    """Return the array of `parts`, each in a file of its own, the last one edited."""
    files = [folder / f"part-{number}.h5" for number in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        write_parts(file, [part])
    with h5py.File(files[-1], "r+") as last:
        edit(last)
    return open_arrays(files, ExitStack())["weights/a"]


@pytest.mark.parametrize(("rows", "columns"), [((), ()), ((3,), ()), ((2, 3, 6), (1, 4))])
def test_every_slice_is_that_of_the_whole(tmp_path: Path, rows: tuple[int, ...], columns: tuple[int, ...]) -> None:
    array = opened(tmp_path, grid_of(WHOLE, rows, columns))
    assert (array.shape, array.dtype, array.size) == ((7, 6, 3), np.float32, 126)
    np.testing.assert_array_equal(array[...], WHOLE)
    for (a, b), (c, d) in product([(0, 7), (1, 2), (2, 7), (4, 4)], [(0, 6), (3, 5), (5, 6)]):
        np.testing.assert_array_equal(array[a:b], WHOLE[a:b])
        np.testing.assert_array_equal(array[a:b, c:d], WHOLE[a:b, c:d])
        np.testing.assert_array_equal(array[a:b, c:d, 1:], WHOLE[a:b, c:d, 1:])
    np.testing.assert_array_equal(array[5, 2:, -1], WHOLE[5, 2:, -1])
    with pytest.raises(IndexError, match=r"7 is not in 0 \.\. 6"):
        array[7]


def without(number: int) -> list[Part]:
    return [part for at, part in enumerate(grid_of(WHOLE, (3,), (2,))) if at != number]


@pytest.mark.parametrize(
    "parts",
    [
        *(without(number) for number in range(4)),
        [*without(3), without(3)[0]],
        [Part("weights/a", (7, 6, 3), (1, 0, 0), WHOLE[1:])],
        [Part("weights/a", (7, 6, 3), (0, 0, 0), WHOLE[:4]), Part("weights/a", (7, 6, 3), (3, 0, 0), WHOLE[3:])],
    ],
)
def test_holes_and_overlaps_are_refused(tmp_path: Path, parts: list[Part]) -> None:
    with pytest.raises(
        CheckpointError, match=r"part-0\.h5 and the other parts do not hold 'weights/a' of shape .* whole"
    ):
        opened(tmp_path, parts)


def integers(file: Any) -> None:
    attributes = dict(file["weights/a"].attrs)
    del file["weights/a"]
    file["weights/a"] = np.ones((4, 6, 3), np.int32)
    file["weights/a"].attrs.update(attributes)


def chunks(file: Any) -> None:
    attributes = dict(file["weights/a"].attrs)
    del file["weights/a"]
    file.create_dataset("weights/a", data=WHOLE[3:], chunks=(1, 6, 3)).attrs.update(attributes)


def doubles(file: Any) -> None:
    attributes = dict(file["weights/a"].attrs)
    del file["weights/a"]
    file["weights/a"] = WHOLE[3:].astype(np.float64)
    file["weights/a"].attrs.update(attributes)


def elsewhere(file: Any) -> None:
    del file["weights/a"]
    file["weights/a"] = h5py.ExternalLink("part-0.h5", "weights/a")


def attribute(name: str, value: Any) -> Callable[[Any], None]:
    return lambda file: file["weights/a"].attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (integers, "'weights/a' as int32"),
        (chunks, "as float32 or in chunks"),
        (doubles, r"has 'weights/a' as a part of \(7, 6, 3\) float64, part-0.h5 of \(7, 6, 3\) float32"),
        (elsewhere, "links to other files, which are not followed"),
        (attribute("start", (4, 0, 0)), r"has 'weights/a' of shape \(4, 6, 3\) at \(4, 0, 0\) of a global array"),
        (attribute("start", (-1, 0, 0)), r"at \(-1, 0, 0\) of a global array"),
        (attribute("start", (3, 0)), r"does not say where in the global array 'weights/a' is \(start \(3, 0\)\)"),
        (attribute("start", "three"), r"does not say where .* \(start 'three'\)"),
        (attribute("start", (3.0, 0.0, 0.0)), "does not say where"),
        (attribute("global_shape", (8, 6, 3)), r"as a part of \(8, 6, 3\) float32, part-0.h5 of \(7, 6, 3\)"),
        (attribute("global_shape", (2**62, 6, 3)), r"as a part of \(4611686018427387904, 6, 3\)"),
    ],
)
def test_a_part_that_is_none_is_named(tmp_path: Path, edit: Callable[[Any], object], words: str) -> None:
    with pytest.raises(CheckpointError, match=rf"part-1\.h5 .*{words}.*; take another checkpoint"):
        opened(tmp_path, grid_of(WHOLE, (3,), ()), edit)
