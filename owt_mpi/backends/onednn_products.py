"""The oneDNN primitives of matrix products, as onednn_builders.py has those of the other operations."""

from typing import NamedTuple

from owt_mpi.backends import onednn_api as api
from owt_mpi.backends.onednn_api import Handle
from owt_mpi.backends.onednn_primitive import Context, Primitive


class Linear(NamedTuple):
    """What the primitives of a product of rows with a weight matrix are built for."""

    rows: int
    inputs: int
    outputs: int
    bias: bool = False
    wide: bool = False  # the forward direction's result is float32, whatever the operands are


def linear(context: Context, geometry: Linear) -> Primitive:
    """Arguments: SRC, WEIGHTS, DST and, with a bias, BIAS. A matmul: it takes w', as it lies, faster than others."""
    library, (rows, num_inputs, num_outputs, bias, wide) = context.library, geometry
    x = _matrix(context, rows, num_inputs)
    w = library.strided_descriptor((num_inputs, num_outputs), (1, num_inputs), context.data_type)
    b = _matrix(context, 1, num_outputs) if bias else None
    result_type = api.FLOAT32 if wide else context.data_type
    y = library.strided_descriptor((rows, num_outputs), (num_outputs, 1), result_type)
    inputs = {api.SRC: x, api.WEIGHTS: w}
    if b is not None:
        inputs[api.BIAS] = b
    primitive_desc = library.create("matmul_primitive_desc_create", library.engine, x, w, b, y, library.attributes)
    return Primitive(context, primitive_desc, inputs, {api.DST: y})


def linear_grad_x(context: Context, geometry: Linear) -> Primitive:
    """Arguments: DIFF_DST, WEIGHTS, DIFF_SRC. An inner product: matmul takes up to twice as long."""
    library, (x, w, y) = context.library, _linear_layouts(context, geometry)
    creator = "inner_product_backward_data_primitive_desc_create"
    forward = _inner_product_desc(context, geometry)
    primitive_desc = library.create(creator, library.engine, x, w, y, forward, library.attributes)
    return Primitive(context, primitive_desc, {api.DIFF_DST: y, api.WEIGHTS: w}, {api.DIFF_SRC: x})


def linear_grad_w(context: Context, geometry: Linear) -> Primitive:
    """Arguments: SRC, DIFF_DST, DIFF_WEIGHTS. See linear_grad_x."""
    library, (x, w, y) = context.library, _linear_layouts(context, geometry)
    creator = "inner_product_backward_weights_primitive_desc_create"
    forward = _inner_product_desc(context, geometry)
    primitive_desc = library.create(creator, library.engine, x, w, None, y, forward, library.attributes)
    return Primitive(context, primitive_desc, {api.SRC: x, api.DIFF_DST: y}, {api.DIFF_WEIGHTS: w})


def _matrix(context: Context, rows: int, columns: int) -> Handle:
    """Return the layout of a C-contiguous matrix."""
    return context.library.strided_descriptor((rows, columns), (columns, 1), context.data_type)


def _linear_layouts(context: Context, geometry: Linear) -> tuple[Handle, Handle, Handle]:
    """Return the layouts of x, w and y: all as they lie, since reordering w takes as long as the product."""
    rows, num_inputs, num_outputs, *_ = geometry
    shapes = ((rows, num_inputs), (num_outputs, num_inputs), (rows, num_outputs))
    x, w, y = (_matrix(context, *shape) for shape in shapes)
    return x, w, y


def _inner_product_desc(context: Context, geometry: Linear) -> Handle:
    library, (x, w, y) = context.library, _linear_layouts(context, geometry)
    creator = "inner_product_forward_primitive_desc_create"
    return library.create(creator, library.engine, api.FORWARD_TRAINING, x, w, None, y, library.attributes)
