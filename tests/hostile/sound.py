"""Sound inputs of every kind, small: what is mutated."""

import gzip
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from owt_mpi.comm.threads import run_ranks
from owt_mpi.config import BatchOptions, Config, ModelOptions, RunOptions
from owt_mpi.data_options import DataOptions
from owt_mpi.parallel_options import ParallelOptions
from owt_mpi.preset_files import to_toml
from owt_mpi.training.run import run_training
from tests.data_prep.data_sets import write_data_set
from tests.data_prep.sources import test_bare_pixels as bare

CLASSES = ("ant", "bee", "cat", "dog")
CROP, STEPS = 4, 2


def images(count: int, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (7, 6, 3), dtype=np.uint8) for _ in range(count)]


def write_shards(folder: Path, storage: str) -> None:
    """Write a data set of 24 images, in two shards a split."""
    write_data_set(folder, {"train": images(16, 1), "val": images(8, 2)}, CLASSES, storage=storage)


def config_for(shards: Path, run_dir: Path) -> Config:
    """Return the options of a run of two steps."""
    return Config(
        model=ModelOptions(model="small", crop=CROP),
        data=DataOptions(data=str(shards)),
        batch=BatchOptions(images_per_rank=0, global_batch=8, epochs=2, max_steps=STEPS),
        parallel=ParallelOptions(backend="reference", threads=1, stall_seconds=0.0),
        run=RunOptions(run_dir=str(run_dir), log_every=1, ignore_memory=True),
    )


def write_run(folder: Path) -> None:
    """Write shards and the run of two ranks on them, with one checkpoint, and an image file."""
    write_shards(folder / "shards", "raw")
    config = config_for(folder / "shards", folder / "run")
    run_ranks(2, lambda world: run_training(config, world, 2))
    (folder / "image.png").write_bytes(encoded(images(1, 3)[0], "PNG"))


def write_preset(folder: Path) -> None:
    """Write a preset with all options, and the shards that it names."""
    write_shards(folder / "shards", "raw")
    config = config_for(folder / "shards", folder / "run")
    config = replace(config, run=replace(config.run, dry_run=True, run_dir=""))
    (folder / "preset.toml").write_text(to_toml(config), encoding="utf-8")


def encoded(pixels: np.ndarray, form: str, mode: str = "RGB", **options: object) -> bytes:
    """Return pixels as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def write_images(folder: Path) -> None:
    """Write an image in every format and many of their forms."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(4).integers(0, 256, (33, 40, 3), dtype=np.uint8)
    pixels[8:] = np.linspace(0, 255, 40, dtype=np.uint8)[:, None]  # compresses well
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    forms = {
        "plain.jpg": ("JPEG", "RGB", {"quality": 80}),
        "exif.jpg": ("JPEG", "RGB", {"exif": exif, "dpi": (72, 72), "comment": b"hello"}),
        "progressive.jpg": ("JPEG", "RGB", {"progressive": True, "optimize": True}),
        "cmyk.jpg": ("JPEG", "CMYK", {}),
        "gray.jpg": ("JPEG", "L", {"restart_marker_rows": 1}),
        "plain.png": ("PNG", "RGB", {}),
        "palette.png": ("PNG", "P", {"transparency": 3}),
        "alpha.png": ("PNG", "RGBA", {"dpi": (72, 72)}),
        "bits.png": ("PNG", "1", {}),
        "plain.gif": ("GIF", "P", {"comment": b"hello"}),
        "plain.bmp": ("BMP", "RGB", {}),
        "palette.bmp": ("BMP", "P", {}),
        "plain.ppm": ("PPM", "RGB", {}),
        "gray.pgm": ("PPM", "L", {}),
        "plain.tif": ("TIFF", "RGB", {}),
        "lzw.tif": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        "deflate.tif": ("TIFF", "P", {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": ("TIFF", "RGB", {"compression": "jpeg"}),
        "fax.tif": ("TIFF", "1", {"compression": "group4"}),
        "plain.webp": ("WEBP", "RGB", {"quality": 80}),
        "alpha.webp": ("WEBP", "RGBA", {"lossless": True, "exif": exif}),
    }
    for name, (form, mode, options) in forms.items():
        (folder / name).write_bytes(encoded(pixels, form, mode, **options))


def write_archives(folder: Path) -> None:
    """Write class folders as a tar, a compressed tar, a tar of tars, and a zip."""
    folder.mkdir(exist_ok=True)
    files = {f"{name}/{number}.png": encoded(images(1, number)[0], "PNG") for name in CLASSES[:2] for number in (1, 2)}
    plain = bare.tar_of([*files.items()])
    inner = {
        f"{name}.tar": bare.tar_of([(key, value) for key, value in files.items() if name in key])
        for name in CLASSES[:2]
    }
    (folder / "plain.tar").write_bytes(plain)
    (folder / "plain.tar.gz").write_bytes(gzip.compress(plain, mtime=0))
    (folder / "tars.tar").write_bytes(bare.tar_of([*inner.items()]))
    with tarfile.open(folder / "pax.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{'é' * 80}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(folder / name, "w", method) as target:
            for member_name, content in files.items():
                target.writestr(zipfile.ZipInfo(member_name), content, method)


def write_pixel_files(folder: Path) -> None:
    """Write CIFAR in both its versions, and MNIST plain and gzipped, each in a folder of its own."""
    for name, files in (
        ("cifar-binary", bare.cifar_10_binary()),
        ("cifar-python", bare.cifar_10_python()),
        ("cifar-100", bare.cifar_100_binary()),
        ("mnist", bare.mnist("")),
        ("mnist-gz", bare.mnist(".gz")),
    ):
        bare.unpacked(files, folder / name)
