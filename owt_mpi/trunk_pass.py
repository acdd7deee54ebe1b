"""The trunk's part of a training step, forward and backward, as it is or replayed by the backend."""

from collections.abc import Callable

from owt_mpi.autograd import Tensor, backward, tensor
from owt_mpi.backends.base import Array, Backend
from owt_mpi.nn.layers import Dropout
from owt_mpi.nn.module import Context, Module


class TrunkPass:
    """Runs `trunk` on a batch, then its backward pass; with `replayed`, both by Backend.replayable.

    What a step makes is good until the next step. One batch is under way at a time.
    """

    def __init__(self, trunk: Module, backend: Backend, replayed: bool) -> None:
        self._trunk, self._backend, self._parameters = trunk, backend, trunk.parameters()
        self._ctx: Context
        self._acts: Tensor
        self._run_forward: Callable[[Array], Tensor] = self._forward
        self._run_backward: Callable[[Array], list[Array]] = self._backward
        if replayed:
            self._run_forward = backend.replayable(self._forward)
            self._run_backward = backend.replayable(self._backward)

    def forward(self, images: Array, ctx: Context) -> Tensor:
        """Return the trunk's output."""
        self._ctx = ctx
        self._acts = self._run_forward(images)
        return self._acts

    def backward(self, grad: Array) -> None:
        """Give every parameter its gradient, given that of the output."""
        for parameter, own in zip(self._parameters, self._run_backward(grad), strict=True):
            parameter.grad = own  # as it is already, unless it was replayed

    def _forward(self, images: Array) -> Tensor:
        return self._trunk(tensor(images, self._backend), self._ctx)

    def _backward(self, grad: Array) -> list[Array]:
        backward(self._acts, grad)
        return [parameter.grad for parameter in self._parameters]


def describe_replay(backend: Backend, replayed: bool) -> str:
    """Return what is to be said behind the backend's name, nothing unless replay was asked for."""
    if not replayed:
        return ""
    return "; the trunk is replayed by CUDA graphs" if backend.device is not None else "; no CUDA graphs without a GPU"


def check_replayable(trunk: Module, virtual_ranks: int) -> None:
    """Raise ValueError if the trunk's work is known to differ from step to step, or others' would be recorded too."""
    if virtual_ranks > 1:
        raise ValueError(
            f"--cuda-graph records all that a GPU is given, and {virtual_ranks} virtual ranks share one; start the "
            "ranks with mpirun, or leave out --cuda-graph"
        )
    for module in trunk.modules():
        if isinstance(module, Dropout) and module.rate > 0:
            raise ValueError(
                f"--cuda-graph replays the trunk's work as it was in one step, but {module.name} drops others in each; "
                "leave out --cuda-graph, or keep dropout to the head"
            )
