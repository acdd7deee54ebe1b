"""What an exported file says of its network besides the weights, as text that any program can read."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from math import isfinite
from typing import Any

from owt_mpi.input_file import text as text_in
from owt_mpi.interchange.tensor_file import InterchangeError

FORMAT_VERSION = 1
_VERSION_KEY = "owt_mpi_format"
_LARGEST_SIDE = 1 << 14


@dataclass(frozen=True)
class NetworkFacts:
    """The network in a file. What is empty or 0 the file does not say.

    It takes pixels (0..255) as (pixel - mean) / std, a number a channel, and its outputs are logits for `loss`.
    Images are brought to a short side of `size` (0: left as they are), the centre of that is cut out where `square`,
    and of that the network sees `crop` x `crop`.
    """

    model: str = ""
    layout: str = ""
    loss: str = ""
    crop: int = 0
    num_classes: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: int = 0
    square: bool = False
    fc_crosstalk: float = 1.0
    fc_blocks: int = 0
    class_names: tuple[str, ...] = ()
    class_titles: tuple[str, ...] = ()
    program: str = ""
    trained: str = ""

    def to_metadata(self) -> dict[str, str]:
        """Return the facts as text: strings as they are, all else in JSON. `format` tells PyTorch's order."""
        said = {name: value for name, value in asdict(self).items() if value or isinstance(value, bool | float)}
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items()}
        return {"format": "pt", _VERSION_KEY: str(FORMAT_VERSION), **texts}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> "NetworkFacts":
        """Return the facts in a file of ours, none of another's. InterchangeError, naming `source`, if malformed."""
        if _VERSION_KEY not in metadata:
            return cls()
        if metadata[_VERSION_KEY] != str(FORMAT_VERSION):
            raise InterchangeError(
                f"{source} says {_VERSION_KEY} {metadata[_VERSION_KEY][:20]!r}, this program reads {FORMAT_VERSION}"
            )
        facts = cls(**{f.name: _read(f.name, f.default, metadata, source) for f in fields(cls) if f.name in metadata})
        wrong = facts._first_wrong()
        if wrong:
            raise InterchangeError(f"{source}: its {wrong} cannot be; get it anew")
        return facts

    def _first_wrong(self) -> str | None:
        """Return the name of a fact that cannot be, None if there is none."""
        numbers = {"crop": self.crop, "size": self.size}
        sound = {
            "loss": self.loss in ("", "softmax", "logistic"),
            "layout": self.layout in ("", "torchvision", "owt_mpi"),
            **{name: 0 <= side <= _LARGEST_SIDE for name, side in numbers.items()},
            "num_classes": self.num_classes >= 0,
            "fc_crosstalk": 0 <= self.fc_crosstalk <= 1,
            "fc_blocks": self.fc_blocks >= 0,
            "mean": all(map(isfinite, self.mean)),
            "std": len(self.std) == len(self.mean) and all(isfinite(each) and each > 0 for each in self.std),
            "class_names": len(self.class_names) in (0, self.num_classes),
            "class_titles": len(self.class_titles) in (0, len(self.class_names)),
        }
        return next((name for name, is_sound in sound.items() if not is_sound), None)


# of torchvision's weights for ImageNet, which files of its tensors do not say: 255 times what torchvision states
TORCHVISION = NetworkFacts(crop=224, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), size=256)


def _read(name: str, default: Any, metadata: Mapping[str, str], source: str) -> Any:
    """Return the value of one fact, which is of the type of `default`."""
    text = metadata[name]
    if isinstance(default, str):
        return text
    try:
        value = json.loads(text)
        if isinstance(default, tuple):
            kind: Callable[[Any], Any] = partial(text_in, name=name) if name.startswith("class") else float
            if not isinstance(value, list):
                raise TypeError(f"{type(value).__name__} in place of a list")
            return tuple(kind(each) for each in value)
        if isinstance(value, bool) is not isinstance(default, bool):
            raise TypeError(f"{type(value).__name__} in place of {type(default).__name__}")
        return type(default)(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InterchangeError(f"{source}: its {name} is malformed ({type(error).__name__}); get it anew") from error
