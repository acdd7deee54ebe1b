"""The types in which gradients may cross the wire, to and from the arrays that communicators move.

16-bit numbers are moved as uint16. NumPy has no bfloat16, the upper half of a float32 (1 bit of sign, 8 of exponent,
7 of fraction): it is made and read here by its bits.
"""

from typing import Literal

import numpy as np

from owt_mpi.backends.base import Array
from owt_mpi.backends.precision import is_half

WireDtype = Literal["auto", "float32", "float16", "bfloat16"]


def crossing_type(wire_dtype: WireDtype, dtype: np.dtype) -> WireDtype:
    """Return what numbers of `dtype` cross as: halves that are to cross as they are are named, as none adds them up."""
    if wire_dtype != "auto" or not is_half(dtype):
        return wire_dtype
    return "float16" if dtype == np.float16 else "bfloat16"


def wire_itemsize(wire_dtype: WireDtype, dtype: np.dtype) -> int:
    """Return the bytes in which a number of `dtype` crosses."""
    return {"auto": dtype.itemsize, "float32": 4, "float16": 2, "bfloat16": 2}[wire_dtype]


def to_wire(x: Array, wire_dtype: WireDtype) -> Array:
    """Return `x` rounded to the nearest `wire_dtype`, ties to even, in a new array; its bits where that is its dtype.

    What is too large becomes infinite, as in any conversion; infinities and NaNs stay what they are.
    """
    if is_half(x.dtype) and x.dtype.name == wire_dtype:
        return x.view(np.uint16)
    with np.errstate(over="ignore"):
        if wire_dtype == "float16":
            return x.astype(np.float16).view(np.uint16)
        single = x.astype(np.float32)
    if wire_dtype == "float32":
        return single
    assert wire_dtype == "bfloat16", wire_dtype
    not_a_number = single != single  # noqa: PLR0124 - by an operator, which arrays of any library have
    bits = single.view(np.uint32)
    lowest_kept = (bits >> 16) & 1
    bits += 0x7FFF  # just under half of the lowest bit that is kept
    bits += lowest_kept  # ... and half of it, where the bit is odd: a tie goes to the even neighbour
    bits >>= 16
    bits[not_a_number] = 0x7FC0  # the carry may have made it a zero or an infinity
    return bits.astype(np.uint16)


def from_wire(sent: Array, wire_dtype: WireDtype, dtype: np.dtype) -> Array:
    """Return what `to_wire` made, exactly, in a new array of `dtype` (float32 or float64)."""
    if wire_dtype == "float16":
        return sent.view(np.float16).astype(dtype)
    if wire_dtype == "float32":
        return sent.astype(dtype)
    assert wire_dtype == "bfloat16", wire_dtype
    bits = sent.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32).astype(dtype, copy=False)
