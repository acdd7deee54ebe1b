"""Which oneDNN primitive computes which operation: one function an operation, from its geometry to a Primitive.

Logical shapes are oneDNN's (n, c, h, w) throughout; the tag says that the arrays lie in memory as n, h, w, c.
"""

from typing import NamedTuple

from owt_mpi.backends import onednn_api as api
from owt_mpi.backends.base import Pair, Shape
from owt_mpi.backends.onednn_api import Handle, sizes
from owt_mpi.backends.onednn_primitive import Context, Primitive


class Conv(NamedTuple):
    """What a convolution's primitives are built for."""

    x: Shape
    w: Shape
    y: Shape
    stride: Pair
    pad: Pair
    bias: bool
    relu: bool = False  # of the result, in the forward direction


class Pool(NamedTuple):
    """What a pooling's primitives are built for."""

    x: Shape
    y: Shape
    kernel: Pair
    stride: Pair
    pad: Pair


class Lrn(NamedTuple):
    """What an LRN's primitives are built for; `alpha` as in base.py."""

    x: Shape
    size: int
    alpha: float
    beta: float
    k: float


def conv2d(context: Context, geometry: Conv) -> Primitive:
    """Arguments: SRC, WEIGHTS, DST and, with a bias, BIAS."""
    x, w, y, b = _conv_layouts(context, geometry)
    inputs = {api.SRC: x, api.WEIGHTS: w}
    if b is not None:
        inputs[api.BIAS] = b
    library = context.library
    attributes = library.attributes_with_relu if geometry.relu else library.attributes
    return Primitive(context, _conv_forward_desc(context, geometry, attributes), inputs, outputs={api.DST: y})


def conv2d_grad_x(context: Context, geometry: Conv) -> Primitive:
    """Arguments: DIFF_DST, WEIGHTS, DIFF_SRC."""
    x, w, y, _ = _conv_layouts(context, geometry)
    primitive_desc = context.library.create(
        "convolution_backward_data_primitive_desc_create",
        context.library.engine,
        api.CONVOLUTION_DIRECT,
        x,
        _any_weights(context, geometry),
        y,
        *_conv_windows(geometry),
        _conv_forward_desc(context, geometry, context.library.attributes),
        context.library.attributes,
    )
    return Primitive(context, primitive_desc, {api.DIFF_DST: y, api.WEIGHTS: w}, {api.DIFF_SRC: x})


def conv2d_grad_w(context: Context, geometry: Conv) -> Primitive:
    """Arguments: SRC, DIFF_DST, DIFF_WEIGHTS and, with a bias, DIFF_BIAS."""
    x, w, y, b = _conv_layouts(context, geometry)
    primitive_desc = context.library.create(
        "convolution_backward_weights_primitive_desc_create",
        context.library.engine,
        api.CONVOLUTION_DIRECT,
        x,
        _any_weights(context, geometry),
        b,
        y,
        *_conv_windows(geometry),
        _conv_forward_desc(context, geometry, context.library.attributes),
        context.library.attributes,
    )
    outputs = {api.DIFF_WEIGHTS: w}
    if b is not None:
        outputs[api.DIFF_BIAS] = b
    return Primitive(context, primitive_desc, {api.SRC: x, api.DIFF_DST: y}, outputs)


def rounding(context: Context, num_elements: int) -> Primitive:
    """Arguments: SRC, in float32, DST."""
    library, narrow = context.library, context.descriptor((num_elements,), api.TAG_VECTOR)
    wide = library.descriptor((num_elements,), api.TAG_VECTOR, api.FLOAT32)
    primitive_desc = library.create(
        "reorder_primitive_desc_create", wide, library.engine, narrow, library.engine, library.attributes
    )
    return Primitive(context, primitive_desc, {api.SRC: wide}, {api.DST: narrow})


def relu(context: Context, num_elements: int) -> Primitive:
    """Arguments: SRC, DST."""
    x = context.descriptor((num_elements,), api.TAG_VECTOR)
    return Primitive(context, _relu_desc(context, x, api.ELTWISE_RELU), {api.SRC: x}, {api.DST: x})


def relu_grad(context: Context, num_elements: int) -> Primitive:
    """Arguments: DIFF_DST, DST (the result of relu), DIFF_SRC."""
    library, y = context.library, context.descriptor((num_elements,), api.TAG_VECTOR)
    primitive_desc = library.create(
        "eltwise_backward_primitive_desc_create",
        library.engine,
        api.ELTWISE_RELU_BY_DST,
        y,
        y,
        y,
        0.0,
        0.0,
        _relu_desc(context, y, api.ELTWISE_RELU_BY_DST),
        library.attributes,
    )
    return Primitive(context, primitive_desc, {api.DIFF_DST: y, api.DST: y}, {api.DIFF_SRC: y})


def max_pool2d(context: Context, geometry: Pool) -> Primitive:
    """Arguments: SRC, DST, WORKSPACE (bytes; where each maximum was)."""
    x, y = _images(context, geometry.x), _images(context, geometry.y)
    primitive_desc = _pool_forward_desc(context, geometry, api.POOLING_MAX)
    return Primitive(context, primitive_desc, {api.SRC: x}, {api.DST: y, api.WORKSPACE: None})


def max_pool2d_grad(context: Context, geometry: Pool) -> Primitive:
    """Arguments: DIFF_DST, WORKSPACE, DIFF_SRC."""
    x, y = _images(context, geometry.x), _images(context, geometry.y)
    primitive_desc = _pool_backward_desc(context, geometry, api.POOLING_MAX)
    return Primitive(context, primitive_desc, {api.DIFF_DST: y, api.WORKSPACE: None}, {api.DIFF_SRC: x})


def avg_pool2d(context: Context, geometry: Pool) -> Primitive:
    """Arguments: SRC, DST."""
    x, y = _images(context, geometry.x), _images(context, geometry.y)
    primitive_desc = _pool_forward_desc(context, geometry, api.POOLING_AVG_EXCLUDE_PADDING)
    return Primitive(context, primitive_desc, {api.SRC: x}, {api.DST: y})


def avg_pool2d_grad(context: Context, geometry: Pool) -> Primitive:
    """Arguments: DIFF_DST, DIFF_SRC."""
    x, y = _images(context, geometry.x), _images(context, geometry.y)
    primitive_desc = _pool_backward_desc(context, geometry, api.POOLING_AVG_EXCLUDE_PADDING)
    return Primitive(context, primitive_desc, {api.DIFF_DST: y}, {api.DIFF_SRC: x})


def lrn(context: Context, geometry: Lrn) -> Primitive:
    """Arguments: SRC, DST, WORKSPACE (bytes; none for some beta)."""
    x = _images(context, geometry.x)
    return Primitive(context, _lrn_forward_desc(context, geometry), {api.SRC: x}, {api.DST: x, api.WORKSPACE: None})


def lrn_grad(context: Context, geometry: Lrn) -> Primitive:
    """Arguments: SRC, DIFF_DST, WORKSPACE, DIFF_SRC."""
    library, x = context.library, _images(context, geometry.x)
    primitive_desc = library.create(
        "lrn_backward_primitive_desc_create",
        library.engine,
        api.LRN_ACROSS_CHANNELS,
        x,
        x,
        x,
        *_lrn_parameters(geometry),
        _lrn_forward_desc(context, geometry),
        library.attributes,
    )
    inputs = {api.SRC: x, api.DIFF_DST: x, api.WORKSPACE: None}
    return Primitive(context, primitive_desc, inputs, {api.DIFF_SRC: x})


def _images(context: Context, shape: Shape) -> Handle:
    """Return the layout of an array of that (n, h, w, c) or (c_out, kh, kw, c_in) shape."""
    n, h, w, c = shape
    return context.descriptor((n, c, h, w), api.TAG_CHANNELS_LAST)


def _any_weights(context: Context, geometry: Conv) -> Handle:
    """Return the layout that lets the primitive choose: 2.3 times as fast as with the weights as they lie."""
    c_out, kh, kw, c_in = geometry.w
    return context.descriptor((c_out, c_in, kh, kw), api.TAG_ANY)


def _conv_layouts(context: Context, geometry: Conv) -> tuple[Handle, Handle, Handle, Handle | None]:
    """Return the layouts of the caller's x, w, y and b."""
    x, w, y = (_images(context, shape) for shape in (geometry.x, geometry.w, geometry.y))
    return x, w, y, context.descriptor(geometry.w[:1], api.TAG_VECTOR) if geometry.bias else None


def _conv_windows(geometry: Conv) -> tuple[object, ...]:
    """Return strides, dilation (0: none) and the padding before and after."""
    return sizes(geometry.stride), sizes((0, 0)), sizes(geometry.pad), sizes(geometry.pad)


def _conv_forward_desc(context: Context, geometry: Conv, attributes: Handle) -> Handle:
    x, _, y, b = _conv_layouts(context, geometry)
    return context.library.create(
        "convolution_forward_primitive_desc_create",
        context.library.engine,
        api.FORWARD_TRAINING,
        api.CONVOLUTION_DIRECT,
        x,
        _any_weights(context, geometry),
        b,
        y,
        *_conv_windows(geometry),
        attributes,
    )


def _relu_desc(context: Context, layout: Handle, algorithm: int) -> Handle:
    library = context.library
    return library.create(
        "eltwise_forward_primitive_desc_create",
        library.engine,
        api.FORWARD_TRAINING,
        algorithm,
        layout,
        layout,
        0.0,
        0.0,
        library.attributes,
    )


def _pool_windows(geometry: Pool) -> tuple[object, ...]:
    """Return strides, kernel, dilation (0: none) and the padding before and after."""
    pad = sizes(geometry.pad)
    return sizes(geometry.stride), sizes(geometry.kernel), sizes((0, 0)), pad, pad


def _pool_forward_desc(context: Context, geometry: Pool, algorithm: int) -> Handle:
    return context.library.create(
        "pooling_forward_primitive_desc_create",
        context.library.engine,
        api.FORWARD_TRAINING,
        algorithm,
        _images(context, geometry.x),
        _images(context, geometry.y),
        *_pool_windows(geometry),
        context.library.attributes,
    )


def _pool_backward_desc(context: Context, geometry: Pool, algorithm: int) -> Handle:
    return context.library.create(
        "pooling_backward_primitive_desc_create",
        context.library.engine,
        algorithm,
        _images(context, geometry.x),
        _images(context, geometry.y),
        *_pool_windows(geometry),
        _pool_forward_desc(context, geometry, algorithm),
        context.library.attributes,
    )


def _lrn_parameters(geometry: Lrn) -> tuple[int, float, float, float]:
    """Return size, alpha, beta and k as oneDNN wants them: it divides alpha by the size."""
    return geometry.size, geometry.alpha * geometry.size, geometry.beta, geometry.k


def _lrn_forward_desc(context: Context, geometry: Lrn) -> Handle:
    x = _images(context, geometry.x)
    return context.library.create(
        "lrn_forward_primitive_desc_create",
        context.library.engine,
        api.FORWARD_TRAINING,
        api.LRN_ACROSS_CHANNELS,
        x,
        x,
        *_lrn_parameters(geometry),
        context.library.attributes,
    )
