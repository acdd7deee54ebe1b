"""Shape checks that several operations share."""

from owt_mpi.backends.base import Pair, Shape, pooled_size


def check_rank(op: str, argument: str, shape: Shape, axes: str) -> None:
    """Raise ValueError unless `shape` has one length for each word of `axes`, such as "n h w c"."""
    if len(shape) != len(axes.split()):
        raise ValueError(f"{op}: {argument} has shape {shape}, but needs the axes ({axes.replace(' ', ', ')})")


def window_output(op: str, x: Shape, kernel: Pair, stride: Pair, pad: Pair) -> Pair:
    """Return (h, w) of a sliding window's output over images of shape x, or raise ValueError where none fits."""
    h = pooled_size(x[1], kernel[0], stride[0], pad[0])
    w = pooled_size(x[2], kernel[1], stride[1], pad[1])
    if h < 1 or w < 1:
        raise ValueError(
            f"{op}: a {kernel[0]}x{kernel[1]} window does not fit into a {x[1]}x{x[2]} image padded by "
            f"{pad[0]}x{pad[1]}; use larger images, a smaller window, or more padding"
        )
    return h, w
