"""Mutations of HDF5 files that know their structure: other types, shapes and layouts, links, and places elsewhere."""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

CANARY = 12345.625  # fills the arrays of a file that nobody may be led to
CANARY_NAME = "x"
_HUGE = (2**31, 2**40, 2**60)


def write_canary(path: Path) -> None:
    """Write a file that links, virtual arrays and external storage lead to."""
    with h5py.File(path, "w") as file:
        file[CANARY_NAME] = np.full(4096, CANARY, np.float32)


def mutate_hdf5(rng: Random, path: Path, canary: Path) -> str:
    """Change what an HDF5 file says of its datasets, and return what was done; as bytes too, now and then."""
    whole_file = rng.random() < 0.1
    if whole_file:
        return f"{rng.choice(_OF_FILES)(rng, path)} of {path.name}"
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, found: names.append(name) if isinstance(found, h5py.Dataset) else None)
        name = rng.choice(names)
        mutation = rng.choice(_OF_DATASETS)
        mutation(rng, file, name, canary)
    return f"{mutation.__name__.strip('_')} of {name} in {path.name}"


def _replaced(file: Any, name: str, **how: Any) -> Any:
    """Put another dataset of that name in a dataset's place, with its attributes."""
    made = file.create_dataset("new", **how)
    for key, value in file[name].attrs.items():
        made.attrs[key] = value
    del file[name]
    file.move("new", name)
    return made


def _other_type(rng: Random, file: Any, name: str, canary: Path) -> None:
    dtype = rng.choice(
        ("u1", "i1", ">i4", "<i8", "<f2", "<f4", ">f8", "<f8", "c8", "?", "S3", [("a", "i4"), ("b", "f8")])
    )
    _replaced(file, name, data=np.zeros(file[name].shape, dtype))


def _objects(rng: Random, file: Any, name: str, canary: Path) -> None:
    shape = file[name].shape
    dtype = rng.choice((h5py.string_dtype(), h5py.vlen_dtype("i4"), h5py.ref_dtype, h5py.enum_dtype({"a": 1})))
    _replaced(file, name, shape=shape, dtype=dtype)


def _other_shape(rng: Random, file: Any, name: str, canary: Path) -> None:
    values = file[name][()]
    other = rng.choice(
        (
            values[None],
            np.zeros((0, *values.shape[1:]), values.dtype),
            values.reshape(-1),
            np.repeat(values[None], 3, 0),
        )
    )
    _replaced(file, name, data=other)


def _transposed(rng: Random, file: Any, name: str, canary: Path) -> None:
    _replaced(file, name, data=np.ascontiguousarray(file[name][()].T))


def _huge(rng: Random, file: Any, name: str, canary: Path) -> None:
    shape, dtype = list(file[name].shape) or [1], file[name].dtype
    shape[rng.randrange(len(shape))] = rng.choice(_HUGE)
    chunks = rng.choice((None, tuple(min(length, 1 << 10) or 1 for length in shape)))
    try:
        _replaced(file, name, shape=tuple(shape), dtype=dtype, chunks=chunks)
    except (ValueError, OSError):  # larger than HDF5 writes
        _replaced(file, name, shape=(2**40,), dtype="u1", chunks=chunks and (2**20,))


def _huge_chunks(rng: Random, file: Any, name: str, canary: Path) -> None:
    _replaced(file, name, shape=(2**33,), dtype="u1", chunks=(2**31,), compression=rng.choice((None, "gzip")))


def _compressed(rng: Random, file: Any, name: str, canary: Path) -> None:
    values = np.atleast_1d(file[name][()])
    more = rng.choice(
        (
            {"compression": "gzip"},
            {"compression": "lzf"},
            {"shuffle": True, "compression": "gzip"},
            {"fletcher32": True},
            {},
        )
    )
    _replaced(file, name, data=values, chunks=tuple(max(length // 2, 1) for length in values.shape), **more)


def _bomb(rng: Random, file: Any, name: str, canary: Path) -> None:
    shape = (1 << 28, *(1 for _ in file[name].shape[1:]))
    made = _replaced(file, name, shape=shape, dtype="u1", chunks=(1 << 24, *shape[1:]), compression="gzip")
    made[: 1 << 24] = 0


def _never_written(rng: Random, file: Any, name: str, canary: Path) -> None:
    _replaced(file, name, shape=file[name].shape, dtype=file[name].dtype)


def _external_storage(rng: Random, file: Any, name: str, canary: Path) -> None:
    place = rng.choice((str(canary), "/etc/passwd", "/dev/zero"))
    values = file[name]
    _replaced(file, name, shape=values.shape, dtype=values.dtype, external=[(place, 0, max(values.nbytes, 1))])


def _external_link(rng: Random, file: Any, name: str, canary: Path) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(str(canary), CANARY_NAME)


def _soft_link(rng: Random, file: Any, name: str, canary: Path) -> None:
    del file[name]
    file[name] = h5py.SoftLink(rng.choice(("/nowhere", f"/{name}", "/")))


def _virtual(rng: Random, file: Any, name: str, canary: Path) -> None:
    layout = h5py.VirtualLayout(file[name].shape, file[name].dtype)
    if layout.shape and layout.shape[0]:
        source = rng.choice((str(canary), ".", "missing.h5"))
        layout[:1] = h5py.VirtualSource(source, CANARY_NAME, (1, *layout.shape[1:]))
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_virtual_dataset(name, layout).attrs.update(attributes)


def _gone(rng: Random, file: Any, name: str, canary: Path) -> None:
    del file[name]


def _group(rng: Random, file: Any, name: str, canary: Path) -> None:
    del file[name]
    group = file.create_group(name, track_order=rng.random() < 0.3)
    for link in ("a", "b", "c"):
        group[link] = rng.choice((group, file["/"]))


def _many(rng: Random, file: Any, name: str, canary: Path) -> None:
    for number in range(rng.choice((50, 700))):
        file[f"{name}-{number}"] = 0


def _attribute(rng: Random, file: Any, name: str, canary: Path) -> None:
    where = rng.choice((file, file[name]))
    key = rng.choice([*where.attrs, "x"])
    value = rng.choice(
        (-1, 2**63, 0.5, float("nan"), "x", "a\nb", "\x1b[31m", "y" * 60_000, b"\xff", (1, 2), (-1,), [[1, 2], [3, 4]],
         ["a", "b"], np.zeros(7000), h5py.Empty("f4"), True)
    )  # fmt: skip
    where.attrs[key] = value


def _no_attribute(rng: Random, file: Any, name: str, canary: Path) -> None:
    where = rng.choice((file, file[name]))
    if len(where.attrs):
        del where.attrs[rng.choice([*where.attrs])]


def _other_values(rng: Random, file: Any, name: str, canary: Path) -> None:
    values = file[name][()]
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf" and values.size:
        flat = values.reshape(-1)
        odd = (0, 1, 127) if values.dtype.kind != "f" else (np.nan, np.inf, -np.inf, 1e38, 0)
        if values.dtype.kind == "i":
            odd = (*odd, -1, np.iinfo(values.dtype).max, np.iinfo(values.dtype).min)
        flat[rng.randrange(flat.size)] = rng.choice(odd)
        file[name][...] = values


_OF_DATASETS: tuple[Callable[[Random, Any, str, Path], None], ...] = (
    _other_type, _objects, _other_shape, _transposed, _huge, _huge_chunks, _compressed, _bomb, _never_written,
    _external_storage, _external_link, _soft_link, _virtual, _gone, _group, _many, _attribute, _attribute,
    _no_attribute, _other_values, _other_values,
)  # fmt: skip


def _rewritten(rng: Random, path: Path) -> str:
    """Write the file anew in another form."""
    options: dict[str, Any] = rng.choice(({"libver": "latest"}, {"userblock_size": 512}, {"track_order": True}))
    old = path.with_name("old.h5")
    shutil.move(path, old)
    with h5py.File(old, "r") as source, h5py.File(path, "w", **options) as target:
        target.attrs.update(source.attrs)
        for name in source:
            source.copy(name, target)
    old.unlink()
    return f"{options}"


def _text(rng: Random, path: Path) -> str:
    path.write_text(rng.choice(("", "not HDF5", "{}", "\x89HDF\r\n\x1a\n" * 20)), encoding="latin-1")
    return "text"


_OF_FILES: tuple[Callable[[Random, Path], str], ...] = (_rewritten, _rewritten, _text)
