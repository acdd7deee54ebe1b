"""What the user asks of build_shards, and what it means for the images."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from data_prep.images import Recipe

DEFAULT_SIZE = 256
DEFAULT_QUALITY = 90
NOT_CONTENT = ("out", "workers", "overwrite", "json", "progress")  # these do not change the data set


@dataclass(frozen=True)
class Options:
    """Build the shards of a data set from folders or archives of images."""

    source: Annotated[Path, tyro.conf.arg(metavar="SOURCE")]
    """The images as they are handed out: a folder or an archive; data_prep/README.md lists the layouts."""
    out: Annotated[Path, tyro.conf.arg(metavar="OUT")]
    """The folder to write."""
    layout: str | None = None
    """The layout of SOURCE, where it is not found out rightly."""
    val: Path | None = None
    """The validation images, in any layout."""
    val_fraction: float | None = None
    """Take this part of each class of the training images for validation instead."""
    storage: Literal["raw", "jpeg"] = "raw"
    """Store pixels, or JPEG files: a tenth of the space, but decoded whenever they are read."""
    size: int | None = None
    """The short side of the stored images in pixels; by default 256."""
    crop: Literal["centre", "none"] | None = None
    """Cut out the centre square (the default), or keep the long side; "none" needs --storage jpeg."""
    quality: int | None = None
    """Of JPEG files, 1 to 100; by default 90."""
    keep_original: bool = False
    """Store the original files untouched; needs --storage jpeg, and neither --size nor --crop."""
    channels: Literal[1, 3] = 3
    """Store gray (1) or RGB (3) images."""
    shards: int | None = None
    """Number of files of each split; by default files of about 1 GiB of pixels."""
    images_per_shard: int | None = None
    """Number of images of a file instead."""
    seed: int = 0
    """Decides the order of the images and which of them --val-fraction takes."""
    workers: int | None = None
    """Number of decoding processes of each rank; by default one for each CPU that the rank has."""
    on_error: Literal["fail", "skip"] = "fail"
    """What to do with images that cannot be decoded; skipped ones are listed in the manifest."""
    overwrite: bool = False
    """Replace the data set in OUT."""
    progress: Literal["auto", "bar", "lines"] = "auto"
    """How progress is shown; by default as a bar on a terminal."""
    json: Path | None = None
    """Write a summary to this file."""

    def check(self) -> None:
        """Raise ValueError for options that are wrong, or wrong together."""
        for name in ("size", "shards", "images_per_shard", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {value}; choose 1 or more")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise ValueError(f"--val-fraction is {self.val_fraction}; choose a number between 0 and 1")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"--quality is {self.quality}; choose 1 to 100")
        if self.val is not None and self.val.resolve() == self.source.resolve():
            raise ValueError(
                f"--val is SOURCE itself, {self.source}; leave it out where SOURCE has validation images, or give "
                "--val-fraction"
            )
        exclusive = [("val", "val_fraction"), ("shards", "images_per_shard")]
        exclusive += [("keep_original", name) for name in ("size", "crop", "quality")]
        for first, second in exclusive:
            if getattr(self, first) and getattr(self, second) is not None:
                names = [f"--{name.replace('_', '-')}" for name in (first, second)]
                raise ValueError(f"{names[0]} and {names[1]} exclude each other; leave one out")
        if self.storage == "raw":
            self._check_raw()

    def _check_raw(self) -> None:
        wrong = {"--keep-original": self.keep_original, "--crop none": self.crop == "none",
                 "--quality": self.quality is not None}  # fmt: skip
        for name, given in wrong.items():
            if given:
                raise ValueError(f"{name} needs --storage jpeg: raw images are pixels of one size; give it, or leave "
                                 f"{name} out")  # fmt: skip

    def recipe(self) -> Recipe:
        """Return how images are made."""
        return Recipe(
            storage=self.storage,
            channels=self.channels,
            size=None if self.keep_original else self.size or DEFAULT_SIZE,
            square=self.crop != "none",
            quality=self.quality or DEFAULT_QUALITY,
        )

    def identity(self) -> dict[str, Any]:
        """Return what decides the data set's content, as it is kept in the manifest."""
        identity = {name: value for name, value in asdict(self).items() if name not in NOT_CONTENT}
        return {
            **identity,
            "source": _source_identity(self.source),
            "val": self.val and _source_identity(self.val),
            "size": self.recipe().size,
        }


def _source_identity(path: Path) -> str:
    return f"{path.name}, {path.stat().st_size} bytes" if path.is_file() else str(path.resolve())
