"""A part of the graph that the tape does not keep: one operation stands for its steps until the backward pass."""

from collections.abc import Callable, Sequence

from owt_mpi.autograd import Op, Parameter, Tensor, is_recording, no_tape, recording, tensor


class _Recomputed(Op):
    """A function of its first input that also reads the others, parameters; `backward` puts its steps on the tape."""

    stands_for_steps = True

    def __init__(self, function: Callable[[Tensor], Tensor], inputs: tuple[Tensor, ...]) -> None:
        self.function, self.inputs = function, inputs

    def record(self) -> Tensor:
        with recording(True):
            return self.function(self.inputs[0])


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Parameter]) -> Tensor:
    """Return function(x), of which the tape holds the input alone: `backward` computes the steps again.

    `function` gives the same bits whenever it is called, and reads no tensors but x, `parameters`, all of them, and
    such as need no gradient. Where there is no tape, or x is symbolic, it is called as if it stood alone.
    """
    inputs = (x, *parameters)
    if not is_recording() or x.data is None or not any(each.requires_grad for each in inputs):
        return function(x)
    with no_tape():
        y = function(x)
    if y is x:
        return x
    assert y.data is not None
    assert y.backend is not None
    out = tensor(y.data, y.backend, requires_grad=True)
    out.creator = _Recomputed(function, inputs)
    return out
