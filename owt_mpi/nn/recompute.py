"""Less memory for one more forward pass: of most layers only blocks' inputs are kept, and backward runs them again."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from owt_mpi.autograd import Tensor, symbolic
from owt_mpi.nn.kept import Step, backward_peak_bytes, kept_bytes, steps_of
from owt_mpi.nn.model import Model
from owt_mpi.nn.module import Context, Module, Sequential, run_in_turn
from owt_mpi.recomputed import recomputed


class RecomputedSequential(Sequential):
    """A Sequential cut into blocks; what all but the last keep for the backward pass is their input.

    Blocks begin at the layers numbered 0 and `cuts`, which rise. Values, gradients and names are those of the
    Sequential; where somebody watches, it is one.
    """

    def __init__(self, whole: Sequential, cuts: Sequence[int]) -> None:
        super().__init__(whole.layers)
        self.name = whole.name
        layers = list(self.layers.values())
        assert list(cuts) == sorted(set(cuts) & set(range(1, len(layers)))), cuts
        self.blocks = [layers[start:stop] for start, stop in zip((0, *cuts), (*cuts, len(layers)), strict=True)]

    @property
    def layers_run_twice(self) -> list[Module]:
        """The layers whose forward pass is made again: of all blocks but the last, and those without a gradient."""
        blocks = self.blocks[:-1]
        while blocks and not any(layer.parameters() for layer in blocks[0]):
            blocks = blocks[1:]
        return [layer for block in blocks for layer in block]

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        if ctx.watch is not None:
            return super().forward(x, ctx)
        for block in self.blocks[:-1]:
            parameters = [parameter for layer in block for parameter in layer.parameters()]
            x = recomputed(partial(run_in_turn, block, ctx=ctx), x, list(dict.fromkeys(parameters)))
        return run_in_turn(self.blocks[-1], x, ctx)


@dataclass(frozen=True)
class Block:
    """A block of layers in memory: its steps, and the bytes of the input that it leaves on the tape (0: the images)."""

    input_bytes: int
    steps: tuple[Step, ...]


def blocks_of(trunk: Module, x: Tensor, itemsize: int, backend: str) -> list[Block]:
    """Return the blocks of `trunk` on the symbolic `x`: a single one unless it recomputes."""
    if not isinstance(trunk, RecomputedSequential):
        return [Block(0, tuple(steps_of(trunk, x, itemsize, backend)[0]))]
    blocks, input_bytes = [], 0
    for layers in trunk.blocks:
        steps, x = _steps_of_layers(layers, x, itemsize, backend)
        blocks.append(Block(input_bytes, tuple(steps)))
        input_bytes = prod(x.shape) * itemsize
    return blocks


def kept_by(blocks: Sequence[Block]) -> int:
    """Return the bytes that are kept between forward and backward."""
    return sum(block.input_bytes for block in blocks) + kept_bytes(blocks[-1].steps)


def kept_while_backward(blocks: Sequence[Block]) -> int:
    """Return the most bytes that the tape holds at once while the blocks run backward, gradients not counted."""
    held = most = 0
    for block in blocks:
        held += block.input_bytes
        most = max(most, held + kept_bytes(block.steps))
    return most


def backward_peak_of(blocks: Sequence[Block], weight_grads: int) -> int:
    """Return the most bytes that are held at once while the blocks run backward, kept ones included."""
    held = peak = 0
    for block in blocks:
        held += block.input_bytes
        peak = max(peak, held + backward_peak_bytes(block.steps, weight_grads))
    return peak


def recompute_trunk(model: Model, itemsize: int, backend: str) -> Model:
    """Return `model` with its trunk cut into the blocks that need the least memory. ValueError if it has no layers.

    The time is the same wherever the cuts are: one forward pass of all blocks but the last.
    """
    if not isinstance(model.trunk, Sequential):
        raise ValueError(
            f"--recompute trunk cuts a Sequential into blocks, but the trunk of {model.name} is a "
            f"{type(model.trunk).__name__}; make it a Sequential of its parts, or give --recompute none"
        )
    spec = model.spec
    x = symbolic((1, spec.crop, spec.crop, spec.channels))
    cuts = best_cuts(list(model.trunk.layers.values()), x, itemsize, backend)
    return Model(model.name, spec, RecomputedSequential(model.trunk, cuts), model.head, model.loss)


def best_cuts(layers: Sequence[Module], x: Tensor, itemsize: int, backend: str) -> list[int]:
    """Return where to cut `layers`, applied to the symbolic `x`, so that the peak of backward is lowest.

    No cut parts a ReLU from what is before it. Of equal peaks the one with the longest first block is taken.
    Gradients of parameters count nothing: they are made wherever the cuts are.
    """
    inputs = [x]
    for layer in layers:
        inputs.append(_steps_of_layers([layer], inputs[-1], itemsize, backend)[1])
    count = len(layers)
    # from the last layer to the first: the lowest peak of layers i.., and where the block that starts at i ends
    lowest, end = [0] * (count + 1), [count] * (count + 1)
    for i in reversed(range(count)):
        peaks: list[tuple[int, int]] = []
        for j in range(count, i, -1):
            if j == count or not layers[j].is_relu:
                steps, _ = _steps_of_layers(layers[i:j], inputs[i], itemsize, backend)
                later = prod(inputs[j].shape) * itemsize + lowest[j] if j < count else 0
                peaks.append((max(backward_peak_bytes(steps, weight_grads=0), later), j))
        lowest[i], end[i] = min(peaks, key=lambda peak: peak[0])
    cuts, start = [], end[0]
    while start < count:
        cuts.append(start)
        start = end[start]
    return cuts


def _steps_of_layers(layers: Sequence[Module], x: Tensor, itemsize: int, backend: str) -> tuple[list[Step], Tensor]:
    """Return the steps of layers applied one after the other, and the output, a tensor with no past."""
    part = Sequential({layer.name: layer for layer in layers})
    steps, y = steps_of(part, x, itemsize, backend)
    return steps, Tensor(None, None, y.shape, y.dtype, y.requires_grad)
