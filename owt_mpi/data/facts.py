"""What a trained network's user must know of its images: names of classes, and what is done to pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from owt_mpi.data.manifest import Manifest
from owt_mpi.input_file import listed, number, text, truth, whole

_LARGEST_SIZE = 1 << 14


@dataclass(frozen=True)
class DataFacts:
    """A data set without its images: small enough to lie in every checkpoint.

    `mean` and `std` are the training set's, a number for each channel, in units of 0..255. Image files are brought to a
    short side of `size` pixels, None: left as they are, and of these the centre is cut out where `square`.
    """

    class_names: tuple[str, ...]
    class_titles: tuple[str, ...]  # for people; none, or one for each class
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | None
    square: bool

    @property
    def num_channels(self) -> int:
        """The number of channels of every image."""
        return len(self.mean)

    @property
    def titles(self) -> tuple[str, ...]:
        """What to call the classes before people."""
        return self.class_titles or self.class_names

    @classmethod
    def of(cls, manifest: Manifest) -> "DataFacts":
        """Return the facts of a data set."""
        height, width, _ = manifest.image_shape
        square = height is not None and height == width
        size = height if square else manifest.options.get("size")
        statistics = manifest.statistics
        return cls(manifest.class_names, manifest.class_titles, statistics.mean, statistics.std, size, square)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], source: str) -> "DataFacts":
        """Return the facts that asdict turned into JSON. ValueError, which begins with `source`, if they are not."""
        try:
            size = content["size"]
            facts = cls(
                class_names=tuple(text(name, "a class") for name in listed(content["class_names"], "class_names")),
                class_titles=tuple(text(title, "a title") for title in listed(content["class_titles"], "class_titles")),
                mean=tuple(number(each, "mean") for each in listed(content["mean"], "mean")),
                std=tuple(number(each, "std") for each in listed(content["std"], "std")),
                size=None if size is None else whole(size, "size", 1, _LARGEST_SIZE),
                square=truth(content["square"], "square"),
            )
        except KeyError as error:
            raise ValueError(f"{source}: its data set is malformed (it has no {error})") from error
        except ValueError as error:
            raise ValueError(f"{source}: its data set is malformed ({error})") from error
        if len(facts.std) != len(facts.mean) or len(facts.mean) not in (1, 3) or not facts.class_names:
            raise ValueError(
                f"{source}: its data set has {len(facts.mean)} means, {len(facts.std)} standard deviations and "
                f"{len(facts.class_names)} classes, not one or three for the channels, and some classes"
            )
        if len(facts.class_titles) not in (0, len(facts.class_names)):
            raise ValueError(
                f"{source}: its data set has {len(facts.class_titles)} titles of classes, not one for each"
            )
        return facts


def mean_and_std(mean: Sequence[float], std: Sequence[float], normalise: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what is taken off each channel, and what that is divided by, as --normalise says."""
    deviations = np.array(std)
    deviations[deviations == 0] = 1.0  # a channel that never changes stays 0
    return np.array(mean), np.ones_like(deviations) if normalise == "mean" else deviations


def mean_and_scale(mean: Sequence[float], std: Sequence[float], normalise: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what is taken off each channel, and what that is multiplied by, as --normalise says."""
    taken, deviations = mean_and_std(mean, std, normalise)
    return taken, 1.0 / deviations
