"""The operations of a model, layer by layer, found by running it on shapes alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from owt_mpi.autograd import Op, Parameter, Tensor
from owt_mpi.nn.module import Module, Sequential, symbolic_context


@dataclass(frozen=True)
class Visit:
    """One run of a leaf module: its output, and all tensors it made on the way there, in order."""

    module: Module
    output: Tensor
    made: tuple[Tensor, ...]

    @property
    def ops(self) -> tuple[Op, ...]:
        """The operations that made them."""
        return tuple(y.creator for y in self.made if y.creator is not None)


def walk(root: Module, x: Tensor) -> tuple[list[Visit], Tensor]:
    """Run `root` on the symbolic `x` in training mode; return the visits of its leaves in order, and the output."""
    visits: list[Visit] = []
    seen = {id(x)}
    by_name = {module.name: module for module in root.modules()}

    def watch(name: str, y: Tensor) -> None:
        module = by_name[name]
        if not isinstance(module, Sequential):
            visits.append(Visit(module, y, tuple(_new_tensors(y, seen))))

    return visits, root(x, symbolic_context(x.shape[0], watch))


def _new_tensors(y: Tensor, seen: set[int]) -> Iterator[Tensor]:
    """Yield the tensors that operations made for y and that were not seen before, y last."""
    if id(y) in seen or isinstance(y, Parameter):
        return
    seen.add(id(y))
    if y.creator is not None:
        for x in y.creator.inputs:
            yield from _new_tensors(x, seen)
        yield y
