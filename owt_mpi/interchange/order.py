"""How a parameter's numbers are ordered in files for other programs, and how a part of it is read from there.

Filters are (c_out, c_in, kh, kw) there and (c_out, kh, kw, c_in) here. Images are flattened as c, h, w there and as
h, w, c here, so that the columns of a fully connected layer that reads one are others. All else is as it is here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from owt_mpi.autograd import Parameter
from owt_mpi.backends.base import Shape
from owt_mpi.interchange.graph import scoring_graph
from owt_mpi.nn.model import Model
from owt_mpi.ops.conv2d import Conv2dOp
from owt_mpi.ops.flatten import FlattenOp
from owt_mpi.ops.linear import LinearOp
from owt_mpi.ops.relu import ReluOp

_BLOCK_BYTES = 1 << 24  # of a file that are in memory at once, while a part of their columns is taken
Where = tuple[slice, ...]


@dataclass(frozen=True)
class Order:
    """The same order there as here."""

    def file_shape(self, shape: Shape) -> Shape:
        """Return the shape in the file of a parameter of `shape`."""
        return shape

    def to_file(self, values: np.ndarray) -> np.ndarray:
        """Return the parameter as it is in the file; perhaps a view."""
        return values

    def read(self, tensor: Any, shape: Shape, where: Where) -> np.ndarray:
        """Return the part `where` of the parameter of `shape` from what is in the file, which reads when sliced."""
        return np.asarray(tensor[where])


@dataclass(frozen=True)
class FilterOrder(Order):
    """Of filters, (c_out, kh, kw, c_in) here."""

    def file_shape(self, shape: Shape) -> Shape:
        return (shape[0], shape[3], shape[1], shape[2])

    def to_file(self, values: np.ndarray) -> np.ndarray:
        return np.transpose(values, (0, 3, 1, 2))

    def read(self, tensor: Any, shape: Shape, where: Where) -> np.ndarray:
        filters = np.transpose(tensor[where[:1]], (0, 2, 3, 1))
        inner = (slice(None), *where[1:])
        return filters[inner]


@dataclass(frozen=True)
class ImageColumnsOrder(Order):
    """Of weights (outputs, h w c) that read flattened images (h, w, c)."""

    image: Shape

    def to_file(self, values: np.ndarray) -> np.ndarray:
        return np.transpose(values.reshape(-1, *self.image), (0, 3, 1, 2)).reshape(values.shape)

    def read(self, tensor: Any, shape: Shape, where: Where) -> np.ndarray:
        """Return the part: of columns that lie scattered in the file, whole rows are read, some at a time."""
        h, w, c = self.image
        columns = np.arange(shape[1]).reshape(c, h, w).transpose(1, 2, 0).reshape(-1)[where[1]]
        start, stop, _ = where[0].indices(shape[0])
        rows: np.ndarray | None = None
        step = max(1, _BLOCK_BYTES // (8 * shape[1]))
        for first in range(start, stop, step):
            last = min(first + step, stop)
            block = np.asarray(tensor[slice(first, last), slice(None)])
            if rows is None:
                rows = np.empty((stop - start, len(columns)), block.dtype)
            rows[first - start : last - start] = block[:, columns]
        assert rows is not None, "no rows are asked for"
        return rows


@dataclass(frozen=True)
class FileArray:
    """A parameter in a file, ordered as here: it has its `shape` here, and the part that a slice names is read."""

    tensor: Any
    order: Order
    shape: Shape

    def __getitem__(self, where: Where) -> np.ndarray:
        return self.order.read(self.tensor, self.shape, where)


def orders_of(model: Model) -> dict[str, Order]:
    """Return the order of every parameter of `model`, by name.

    A Linear layer has the columns of an image where nothing but ReLU and Dropout is between it and the Flatten.
    ValueError if a parameter is used in two ways that need two orders.
    """
    orders: dict[str, Order] = {parameter.name: Order() for parameter in model.parameters()}
    found: dict[str, Order] = {}
    for y in scoring_graph(model).made:
        op = y.creator
        if isinstance(op, Conv2dOp):
            order: Order = FilterOrder()
        elif isinstance(op, LinearOp) and (image := _flattened_image(op)) is not None:
            order = ImageColumnsOrder(image)
        else:
            continue
        weight = op.inputs[1]
        if isinstance(weight, Parameter) and found.setdefault(weight.name, order) != order:
            raise ValueError(
                f"{weight.name} reads images of different shapes, whose order other programs could not tell; use two "
                "layers"
            )
    return orders | found


def _flattened_image(op: LinearOp) -> Shape | None:
    """Return the shape (h, w, c) of the image whose flattened numbers `op` reads, None if it does not."""
    x = op.inputs[0]
    while isinstance(x.creator, ReluOp):
        x = x.creator.inputs[0]
    if not isinstance(x.creator, FlattenOp):
        return None
    shape = x.creator.inputs[0].shape[1:]
    return shape if len(shape) == 3 else None


def whole(values: Any) -> np.ndarray:
    """Return all of an array that reads when it is sliced."""
    return np.asarray(values[(slice(None),) * len(values.shape)])
