"""CIFAR and MNIST: data sets of pixels without image files."""

import gzip
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.build_shards import build
from data_prep.options import Options
from data_prep.sources import Listing, open_source
from owt_mpi.data.manifest import DataError
from owt_mpi.data.shard_format import ShardReader
from tests.data_prep.conftest import tar_of

NAMES_10 = ["airplane", "automobile", "bird"]
NAMES_100 = ["apple", "aquarium_fish", "baby", "bear"]


def pixels_of(listing: Listing, split: str) -> dict[str, np.ndarray]:
    return {
        str(image): np.asarray(Image.open(io.BytesIO(listing.reader.read(image)))) for image in listing.splits[split]
    }


class Batches:
    """Batches of a few images in CIFAR's formats, the labels counting up."""

    def __init__(self, files: list[str], num_classes: int) -> None:
        generator = np.random.default_rng(num_classes)
        self.pixels = {name: generator.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8) for name in files}
        self.labels = {name: [(i + number) % num_classes for i in range(3)] for number, name in enumerate(files)}

    def planes(self, name: str) -> np.ndarray:
        """Return the pixels one channel after the other."""
        return self.pixels[name].transpose(0, 3, 1, 2).reshape(3, -1)

    def binary(self, name: str, coarse: bool) -> bytes:
        return b"".join(
            bytes([9] * coarse + [label]) + planes.tobytes()
            for label, planes in zip(self.labels[name], self.planes(name), strict=True)
        )

    def expected(self, names: list[str], files: list[str]) -> dict[str, np.ndarray]:
        return {
            f"{names[label]}/{name}_{i:06d}.ppm": self.pixels[name][i]
            for name in files
            for i, label in enumerate(self.labels[name])
        }


def python2_string(value: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(value)) + value


def python2_pickle(value: object) -> bytes:
    """Return what Python 2 pickles by protocol 2 for dictionaries, lists, strings, small integers and byte arrays."""
    if isinstance(value, dict):
        items = b"".join(python2_string(key.encode()) + python2_pickle(item) for key, item in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(python2_pickle, value)) + b"e"
    if isinstance(value, int):
        return b"K" + bytes([value])
    if isinstance(value, str):
        return python2_string(value.encode())
    assert isinstance(value, np.ndarray)
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    shape = b"".join(b"M" + struct.pack("<H", size) for size in value.shape) + b"\x86"
    return array + b"(K\x01" + shape + dtype + b"\x89" + python2_string(value.tobytes()) + b"tb"


def pickled(value: object) -> bytes:
    return b"\x80\x02" + python2_pickle(value) + b"."


TRAIN_10 = [f"data_batch_{number}" for number in range(1, 6)]
CIFAR_10 = Batches([*TRAIN_10, "test_batch"], 3)
CIFAR_100 = Batches(["train", "test"], 4)


def cifar_10_binary() -> dict[str, bytes]:
    files = {f"{name}.bin": CIFAR_10.binary(name, coarse=False) for name in CIFAR_10.pixels}
    return files | {"batches.meta.txt": "\n".join(NAMES_10).encode() + b"\n\n"}


def cifar_10_python() -> dict[str, bytes]:
    files = {
        name: pickled({"batch_label": "a batch", "labels": CIFAR_10.labels[name], "data": CIFAR_10.planes(name)})
        for name in CIFAR_10.pixels
    }
    return files | {"batches.meta": pickled({"label_names": NAMES_10, "num_vis": 255}), "readme.html": b""}


def cifar_100_binary() -> dict[str, bytes]:
    files = {f"{name}.bin": CIFAR_100.binary(name, coarse=True) for name in CIFAR_100.pixels}
    return files | {"fine_label_names.txt": "\n".join(NAMES_100).encode(), "coarse_label_names.txt": b"no\n"}


def cifar_100_python() -> dict[str, bytes]:
    files = {
        name: pickled({"fine_labels": CIFAR_100.labels[name], "coarse_labels": [9] * 3, "data": CIFAR_100.planes(name)})
        for name in CIFAR_100.pixels
    }
    return files | {"meta": pickled({"fine_label_names": NAMES_100, "coarse_label_names": ["no"]})}


def unpacked(files: dict[str, bytes], path: Path) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def packed(files: dict[str, bytes], path: Path) -> Path:
    path.write_bytes(tar_of([(f"cifar/{name}", content) for name, content in files.items()], "w:gz"))
    return path


@pytest.mark.parametrize("write", [packed, unpacked])
@pytest.mark.parametrize("files", [cifar_10_binary, cifar_10_python])
def test_both_versions_of_cifar_10_give_the_same_pixels_and_labels(tmp_path: Path, files, write) -> None:  # type: ignore[no-untyped-def]
    with open_source(write(files(), tmp_path / "source"), spool_folder=tmp_path / "spool") as listing:
        assert (listing.layout, listing.class_names) == ("cifar", tuple(NAMES_10))
        for split, names in (("train", TRAIN_10), ("test", ["test_batch"])):
            found, expected = pixels_of(listing, split), CIFAR_10.expected(NAMES_10, names)
            assert list(found) == sorted(expected)
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("files", [cifar_100_binary, cifar_100_python])
def test_both_versions_of_cifar_100_give_the_fine_labels(tmp_path: Path, files) -> None:  # type: ignore[no-untyped-def]
    with open_source(packed(files(), tmp_path / "source"), spool_folder=tmp_path) as listing:
        assert (listing.layout, listing.class_names) == ("cifar", tuple(NAMES_100))
        for split in ("train", "test"):
            found, expected = pixels_of(listing, split), CIFAR_100.expected(NAMES_100, [split])
            assert list(found) == sorted(expected)
            assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_shards_of_cifar_hold_its_pixels_and_nothing_is_left_of_the_spool(tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = build(Options(packed(cifar_10_python(), tmp_path / "source"), out, size=32, workers=1))
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.json",
        "statistics.h5",
        "train-00000-of-00001.h5",
        "val-00000-of-00001.h5",
    ]
    images, labels = ShardReader(out, "val").read(np.arange(3))
    expected = CIFAR_10.pixels["test_batch"][np.argsort(CIFAR_10.labels["test_batch"])]
    np.testing.assert_array_equal(images[np.argsort(labels)], expected)
    assert manifest.splits["train"].odd_files == ()


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("hostile was here", "w"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_batch_3": b""}, "data_batch_3 is not a pickle as CIFAR's are"),
        ({"data_batch_3": pickle.dumps(Hostile())}, r"data_batch_3 is not a pickle .*\(it names \w+\.open\)"),
        (
            {"data_batch_3": b"Px\n."},
            r"data_batch_3 is not a pickle as CIFAR's are \([^\n]*but no [^\n]*$",
        ),
        ({"data_batch_3": pickled([1])}, "data_batch_3 is not a pickle as CIFAR's are"),
        ({"data_batch_3": b"cnumpy\nndarray\n)R."}, "it makes an array in an unknown way"),
        ({"data_batch_3": pickled({"data": "x", "labels": [1]})}, r"does not hold data \(n, 3072\) and n labels"),
        ({"data_batch_3": pickled({"data": CIFAR_10.planes("data_batch_3")[:2], "labels": [1]})}, "does not hold data"),
        (
            {"data_batch_3": pickled({"data": CIFAR_10.planes("data_batch_3"), "labels": [0, 1, 3]})},
            "data_batch_3 has the label 3 of 3 classes",
        ),
        ({"data_batch_3": cifar_10_python()["data_batch_3"][:5000]}, "data_batch_3 is not a pickle as CIFAR's are"),
        (
            {"data_batch_3": cifar_10_python()["data_batch_3"].replace(b"M\x03\x00M", b"M\x04\x00M")},
            "its array is not one of bytes",
        ),
        ({"batches.meta": pickled({"names": []})}, "batches.meta has no list label_names"),
    ],
)
def test_pickles_that_are_not_as_cifars_are_errors_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, bytes], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = unpacked(cifar_10_python() | changes, tmp_path / "source")
    with pytest.raises(DataError, match=message):
        open_source(path, spool_folder=tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_4.bin", None, r"has no data_batch_4\.bin; expected is cifar-10-binary"),
        ("data_batch_4.bin", b"\0" * 3074, r"data_batch_4\.bin has 3074 bytes, no multiple of 3073"),
        ("data_batch_4.bin", b"", r"data_batch_4\.bin has 0 bytes"),
        ("test_batch.bin", b"\3" * 3073, r"test_batch\.bin has the label 3 of 3 classes"),
    ],
)
def test_missing_and_damaged_binary_files_are_errors(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = unpacked(cifar_10_binary(), tmp_path / "source")
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(path, spool_folder=tmp_path)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES = {"train": np.random.default_rng(1).integers(0, 256, (5, 4, 6), dtype=np.uint8)}
IMAGES["t10k"] = IMAGES["train"][::-1].copy()[:2]
LABELS = {"train": np.array([9, 0, 3, 3, 7], np.uint8), "t10k": np.array([7, 0], np.uint8)}


def mnist(suffix: str = "") -> dict[str, bytes]:
    files = {f"{name}-images-idx3-ubyte{suffix}": idx(array) for name, array in IMAGES.items()}
    files |= {f"{name}-labels-idx1-ubyte{suffix}": idx(array) for name, array in LABELS.items()}
    return {name: gzip.compress(content) if suffix else content for name, content in files.items()}


@pytest.mark.parametrize("files", [mnist(), mnist(".gz"), mnist() | mnist(".gz")])
def test_mnists_pixels_and_labels_are_those_of_the_idx_files(tmp_path: Path, files: dict[str, bytes]) -> None:
    with open_source(unpacked(files, tmp_path / "raw"), spool_folder=tmp_path) as listing:
        assert (listing.layout, listing.class_names) == ("mnist", tuple("0123456789"))
        for split, name in (("train", "train"), ("test", "t10k")):
            found = pixels_of(listing, split)
            for i, (label, pixels) in enumerate(zip(LABELS[name], IMAGES[name], strict=True)):
                np.testing.assert_array_equal(found.pop(f"{label}/{split}_{i:06d}.pgm"), pixels)
            assert not found


def test_fashion_mnist_has_titles_and_must_be_named(tmp_path: Path) -> None:
    with open_source(unpacked(mnist(), tmp_path / "raw"), "fashion-mnist", tmp_path) as listing:
        titles = [listing.class_titles[name] for name in listing.class_names]
        assert (titles[0], titles[3], titles[9], len(titles)) == ("T-shirt/top", "Dress", "Ankle boot", 10)


def test_labels_of_more_than_ten_classes_are_ordered_as_numbers(tmp_path: Path) -> None:
    labels = {"train-labels-idx1-ubyte": idx(np.array([10, 2, 0, 9, 46], np.uint8))}
    with open_source(unpacked(mnist() | labels, tmp_path / "raw"), spool_folder=tmp_path) as listing:
        assert listing.class_names == tuple(f"{label:02d}" for label in range(47))
        assert [image.class_name for image in listing.splits["train"]] == ["00", "02", "09", "10", "46"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train-labels-idx1-ubyte": None}, "train-images-idx3-ubyte has no file of labels beside it"),
        ({"train-labels-idx1-ubyte": idx(LABELS["train"][:3])}, r"has the shape \(5, 4, 6\), but there are 3 labels"),
        ({"train-images-idx3-ubyte": idx(IMAGES["train"])[:-1]}, "is no idx file of bytes, or cut short"),
        ({"train-images-idx3-ubyte": b"\0\0\x0d\3" + bytes(40)}, "is no idx file of bytes, or cut short"),
        ({"train-images-idx3-ubyte": b"\0\0\x08\xff"}, "is no idx file of bytes, or cut short"),
        ({"train-images-idx3-ubyte": b"\0\0\x08\3" + b"\xff" * 12}, "is no idx file of bytes, or cut short"),
        (
            {"emnist-train-images-idx3-ubyte": b""},
            "has both emnist-train-images-idx3-ubyte and train-images-idx3-ubyte",
        ),
    ],
)
def test_missing_and_damaged_idx_files_are_errors(
    tmp_path: Path, changes: dict[str, bytes | None], message: str
) -> None:
    files = {name: content for name, content in (mnist() | changes).items() if content is not None}
    with pytest.raises(DataError, match=message):
        open_source(unpacked(files, tmp_path / "raw"), spool_folder=tmp_path)
