"""What is trained in a proof: a network, random data, and the figures of the optimizer."""

from dataclasses import dataclass

import numpy as np

from owt_mpi import rng
from owt_mpi.config import OptimizerOptions
from owt_mpi.nn.model import Builder, InputSpec, Model
from owt_mpi.nn.restricted import restricted

CROPS = (16, 32, 64, 96, 128, 224)  # tried in this order where none is asked for


@dataclass(frozen=True)
class Problem:
    """A training of `num_steps` steps with `batch_size` images each; everything in it is a function of `seed`.

    Where `fc_crosstalk` is below 1, the FC layers are in `fc_blocks` blocks with that much cross-talk, for any number
    of ranks.
    """

    builder: Builder
    spec: InputSpec
    batch_size: int
    num_steps: int
    dtype: np.dtype
    seed: int
    lr: float
    fc_crosstalk: float = 1.0
    fc_blocks: int = 8

    @property
    def optimizer(self) -> OptimizerOptions:
        """The paper's, with a rate that is right for the whole batch; a part of the batch has its share of it."""
        return OptimizerOptions(self.lr, self.batch_size, trunk_lr_rule="linear", head_lr_rule="linear")

    def new_model(self) -> Model:
        """Return the network, without values yet. ValueError if its FC layers cannot be cut into the blocks."""
        return restricted(self.builder(self.spec), self.fc_crosstalk, self.fc_blocks)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images (batch_size, crop, crop, channels) and labels of a step: noise, brighter by its class."""
        spec = self.spec
        labels = rng.integers(
            rng.stream_key(self.seed, "prove labels", step), np.arange(self.batch_size), spec.num_classes
        )
        shape = (self.batch_size, spec.crop, spec.crop, spec.channels)
        noise = rng.normal(rng.stream_key(self.seed, "prove images", step), np.arange(np.prod(shape))).reshape(shape)
        return (noise + labels[:, None, None, None] / spec.num_classes).astype(self.dtype), labels


def smallest_crop(builder: Builder, channels: int, num_classes: int) -> int:
    """Return the smallest of CROPS that the network accepts. ValueError, its own, if it accepts none."""
    for crop in CROPS[:-1]:
        try:
            builder(InputSpec(crop, channels, num_classes))
        except ValueError:
            continue
        return crop
    builder(InputSpec(CROPS[-1], channels, num_classes))
    return CROPS[-1]
