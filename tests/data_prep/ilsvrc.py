"""ILSVRC2012 in small: tars and development kit of its structure, photographs of noise, and every odd file known."""

import io
import struct
import tarfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.data_prep.conftest import add, class_folders, tar_of

# WNID -> words, in the order of the IDs from 1, which is not that of the WNIDs; two have the same words, as in the kit
CLASSES = {
    "n02119789": "kit fox, Vulpes macrotis",
    "n02100735": "English setter",
    "n03126707": "crane",
    "n01440764": "tench, Tinca tinca",
    "n02012849": "crane",
}
ABOVE = {"n00001740": "entity", "n02083346": "canine, canid"}  # the kit has the synsets above too, with higher IDs
NUM_PHOTOS = 4  # of each class, to train on
NUM_VAL = 3  # of each class
# what becomes of each kind of file
FATES: dict[str, Literal["kept", "unusable", "ignored"]] = {
    "photo": "kept",
    "cmyk": "kept",
    "png": "kept",
    "gray": "kept",
    "rotated": "kept",  # as it is: the tag is not followed
    "corrupt": "kept",  # decoders do not notice
    "tiny": "kept",
    "duplicate": "kept",
    "truncated": "unusable",
    "empty": "unusable",
    "huge": "unusable",
    "text": "unusable",  # named as an image
    "notes": "ignored",  # not named as one
}


class MadeFile(NamedTuple):
    """A file that was made, and as what."""

    split: str
    wnid: str
    name: str
    content: bytes
    kind: str


@dataclass(frozen=True)
class Made:
    """What was made: the folder, and all its image files in the order of their tars."""

    path: Path
    files: tuple[MadeFile, ...]

    def with_fate(self, fate: str, split: str) -> dict[str, MadeFile]:
        """Return the files of a split which have that fate, by "WNID/name", sorted."""
        chosen = [file for file in self.files if (file.split, FATES[file.kind]) == (split, fate)]
        return {f"{file.wnid}/{file.name}": file for file in sorted(chosen, key=lambda file: file[1:3])}


def make_ilsvrc(path: Path, form: Literal["tars", "folders"] = "tars") -> Made:
    """Make the data set in the folder `path`, as handed out or unpacked; the same bytes each time."""
    path.mkdir(parents=True)
    train, val = _train_files(), _val_files()
    if form == "tars":
        with tarfile.open(path / "ILSVRC2012_img_train.tar", "w") as outer:
            for wnid in sorted(CLASSES):
                inner = tar_of([(file.name, file.content) for file in train if file.wnid == wnid])
                add(outer, f"{wnid}.tar", inner)
        (path / "ILSVRC2012_img_val.tar").write_bytes(tar_of([(file.name, file.content) for file in val]))
        (path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(devkit_tar([file.wnid for file in _sorted(val)]))
    else:
        class_folders(
            {w: {file.name: file.content for file in train if file.wnid == w} for w in CLASSES}, path / "train"
        )
        class_folders({".": {file.name: file.content for file in val}}, path / "val")
        content = io.BytesIO(devkit_tar([file.wnid for file in _sorted(val)]))
        with tarfile.open(fileobj=content) as archive:
            archive.extractall(path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return Made(path, (*train, *val))


def devkit_tar(val_wnids: list[str], num_train_images: dict[str, int] | None = None) -> bytes:
    """Return the kit's tar.gz for these validation images, given in the order of their names."""
    ids = {wnid: number for number, wnid in enumerate(CLASSES, 1)}
    truth = "".join(f"{ids[wnid]}\n" for wnid in val_wnids).encode()
    folder = "ILSVRC2012_devkit_t12"
    files = {
        "data/meta.mat": _meta(num_train_images or {}),
        "data/ILSVRC2012_validation_ground_truth.txt": truth,
        "readme.txt": b"Development kit",
    }
    return tar_of([(f"{folder}/{name}", content) for name, content in files.items()], "w:gz")


def photo(seed: int, height: int = 60, width: int = 80) -> Image.Image:
    """Return smooth coloured noise, which a photograph is to a JPEG encoder."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    """Return the image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **({} if exif is None else {"exif": exif}))
    return buffer.getvalue()


@cache
def _train_files() -> tuple[MadeFile, ...]:
    files = [
        MadeFile("train", wnid, f"{wnid}_{7 * i + c}.JPEG", jpeg(photo(10 * c + i, 50 + 7 * i, 90 - 11 * c)), "photo")
        for c, wnid in enumerate(sorted(CLASSES))
        for i in range(NUM_PHOTOS)
    ]
    fox, other = "n02119789", "n01440764"
    for number, (kind, content) in enumerate(_odd_files().items()):
        suffix = "txt" if kind == "notes" else "JPEG"
        files.append(
            MadeFile(
                "train", (fox, other)[number % 2], f"{(fox, other)[number % 2]}_{100 + number}.{suffix}", content, kind
            )
        )
    files.append(
        MadeFile("train", other, f"{other}_99.JPEG", files[0].content, "duplicate")
    )  # files[0] is of that class
    files.append(MadeFile("train", fox, f"{fox}_99.JPEG", files[0].content, "duplicate"))  # and this is another
    return tuple(files)


def _odd_files() -> dict[str, bytes]:
    image = photo(500)
    plain = jpeg(image)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    png = io.BytesIO()
    photo(501).save(png, "PNG")
    header = b"IHDR" + struct.pack(">2I5B", 20_000, 20_000, 8, 2, 0, 0, 0)  # of 20,000 x 20,000 pixels RGB
    huge = png.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + png.getvalue()[33:]
    middle = len(plain) // 2
    return {
        "cmyk": jpeg(photo(502).convert("CMYK")),
        "png": png.getvalue(),
        "gray": jpeg(photo(503).convert("L")),
        "rotated": jpeg(photo(504), exif),
        "truncated": jpeg(photo(505))[: len(plain) * 2 // 3],
        "corrupt": plain[:middle] + bytes(byte ^ 0x55 for byte in plain[middle : middle + 4]) + plain[middle + 4 :],
        "empty": b"",
        "tiny": jpeg(photo(506, 1, 1)),
        "huge": huge,
        "text": b"This photo is no longer available.\n",
        "notes": b"Notes on the class.\n",
    }


def _val_files() -> list[MadeFile]:
    """Return the validation files in the order of their tar, which is not that of their names."""
    wnids = [list(CLASSES)[(3 * i + i // 5) % 5] for i in range(NUM_VAL * len(CLASSES))]
    files = [
        MadeFile("val", wnid, f"ILSVRC2012_val_{i + 1:08d}.JPEG", jpeg(photo(1000 + i, 70 - i, 64 + i)), "photo")
        for i, wnid in enumerate(wnids)
    ]
    return [files[index] for index in np.random.default_rng(3).permutation(len(files))]


def _sorted(files: list[MadeFile]) -> list[MadeFile]:
    return sorted(files, key=lambda file: file.name)


def _meta(num_train_images: dict[str, int]) -> bytes:
    """Return meta.mat: an array of structures, of which those above the classes have children."""
    files = _train_files()
    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    synsets = np.empty((len(CLASSES) + len(ABOVE), 1), [(name, object) for name in names])
    for number, (wnid, words) in enumerate((CLASSES | ABOVE).items()):
        counts = sum(file.wnid == wnid and file.kind != "notes" for file in files)
        children = np.zeros((1, 0), np.uint8) if wnid in CLASSES else np.array([[1, 2]], np.uint16)
        count = num_train_images.get(wnid, counts)
        row = (number + 1, wnid, words, f"the gloss of {words}", children.size, children, 0, np.uint16(count))
        synsets[number, 0] = row
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets}, do_compression=True)
    return buffer.getvalue()
