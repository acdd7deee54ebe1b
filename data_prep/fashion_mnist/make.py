"""Make train.tar.gz and test.tar.gz, the small data set of the demonstration, from Fashion-MNIST's four idx files.

    python data_prep/fashion_mnist/make.py FOLDER OUT

FOLDER holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and
t10k-labels-idx1-ubyte.gz (https://github.com/zalandoresearch/fashion-mnist). The archives have the layout of
ImageNet's training archive: a tar of one tar a class. The same input and library versions give the same bytes.
"""

import gzip
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASS_NAMES = (  # in the order of Fashion-MNIST's labels
    "t_shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot",
)  # fmt: skip
IMAGES_PER_CLASS = {"train": 1200, "test": 200}
IDX_NAMES = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """Return the array of a gzipped idx file of bytes (http://yann.lecun.com/exdb/mnist)."""
    content = gzip.decompress(path.read_bytes())
    assert content[:3] == b"\0\0\x08", f"{path} is not an idx file of unsigned bytes"
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def png(pixels: np.ndarray) -> bytes:
    """Return a gray image (h, w) uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    """Return a tar of `files` in the order of their names, without times and owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)  # mtime 0, owner 0, mode 644
            member.size = len(files[name])
            archive.addfile(member, io.BytesIO(files[name]))
    return buffer.getvalue()


def archive_of(images: np.ndarray, labels: np.ndarray, images_per_class: int) -> bytes:
    """Return the gzipped tar of class tars with the first `images_per_class` images of each class."""
    classes = {}
    for label, name in enumerate(CLASS_NAMES):
        chosen = images[labels == label][:images_per_class]
        classes[f"{name}.tar"] = tar({f"{name}_{number:04d}.png": png(image) for number, image in enumerate(chosen)})
    return gzip.compress(tar(classes), compresslevel=9, mtime=0)


def main() -> None:
    """Write both archives."""
    folder, out = (Path(argument) for argument in sys.argv[1:])
    for split, idx_name in IDX_NAMES.items():
        images = read_idx(folder / f"{idx_name}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{idx_name}-labels-idx1-ubyte.gz")
        (out / f"{split}.tar.gz").write_bytes(archive_of(images, labels, IMAGES_PER_CLASS[split]))


if __name__ == "__main__":
    main()
