"""Files of torchvision's networks, made without torchvision: names and shapes as recorded, values by a formula."""

import json
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

RECORD = Path(__file__).parent / "torchvision.json"
NUM_CLASSES, NUM_IMAGES, CROP = 20, 2, 224  # of the logits that are recorded
Shapes = Mapping[str, list[int]]


def recorded_shapes(network: str) -> Shapes:
    """Return the shapes of a network's tensors, by torchvision's names, for 1000 classes."""
    return {name: [int(n) for n in shape.split("x")] for name, shape in record()["shapes"][network].items()}


def record() -> dict[str, Any]:
    """Return what `record_torchvision.py` wrote."""
    content: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return content


def tensors(shapes: Shapes) -> dict[str, np.ndarray]:
    """Return float32 values for tensors of `shapes`, such that a network of them neither fades nor explodes."""
    return {name: _values(name, shape) for name, shape in shapes.items()}


def images() -> np.ndarray:
    """Return images as torchvision's networks take them, (n, c, h, w) float32."""
    return _values("images", [NUM_IMAGES, 3, CROP, CROP], bound=2.0)


def with_classes(shapes: Shapes, num_classes: int) -> dict[str, list[int]]:
    """Return the shapes for another number of classes: that of the last two tensors."""
    return {
        name: [num_classes, *shape[1:]] if name.startswith("classifier.6.") else shape for name, shape in shapes.items()
    }


def _values(name: str, shape: list[int], bound: float = 0.0) -> np.ndarray:
    numbers = np.random.RandomState(zlib.crc32(name.encode())).randint(0, 1 << 16, prod(shape), np.uint16)
    bound = bound or ((6.0 / prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1)
    return ((numbers.astype(np.float32) - 32767.5) * np.float32(bound / 32768)).reshape(shape)
