"""Counter-based random numbers: element i of a stream is a pure function of (key, i).

Initial weights, dropout masks, sample order and augmentation are drawn from here, each keyed by what it is for and
indexed by its global position. A rank that holds a slice of an array draws that slice and gets the very numbers that
one rank holding all of it would get, so nothing depends on the number of ranks.

The generator is SplitMix64 (Steele, Lea, Flood 2014) in its indexed form: element i is mix(key + (i + 1) * GOLDEN).
Only 64-bit integer arithmetic is used, so NumPy, CuPy and CUDA kernels produce the same bits.
"""

import hashlib
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray

GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK_64 = (1 << 64) - 1


def stream_key(seed: int, *names: str | int) -> int:
    """Return the 64-bit key of the stream for `names` (what the numbers are for, the step, ...) under `seed`."""
    text = "\0".join([str(int(seed)), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def random_bits(key: int, indices: Array) -> Array:
    """Return 64 random bits (uint64) for each element of `indices` (any integer array; values >= 0)."""
    z = indices.astype(np.uint64)  # a copy: the rest works in place
    z *= np.uint64(GOLDEN)
    z += np.uint64((key + GOLDEN) & _MASK_64)
    z ^= z >> np.uint64(30)
    z *= _MIX_1
    z ^= z >> np.uint64(27)
    z *= _MIX_2
    z ^= z >> np.uint64(31)
    return z


def uniform(key: int, indices: Array) -> Array:
    """Return float64 numbers in [0, 1), 53 random bits each."""
    return (random_bits(key, indices) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(key: int, indices: Array, high: int | Array) -> Array:
    """Return int64 numbers in [0, high), 1 <= high < 2**32 (multiply-shift on the upper 32 bits).

    `high` may be an array with a limit for each element.
    """
    return (((random_bits(key, indices) >> np.uint64(32)) * np.uint64(high)) >> np.uint64(32)).astype(np.int64)


def bernoulli(key: int, indices: Array, probability: float) -> Array:
    """Return a boolean array, True with `probability` (resolution 2**-32), compared as integers."""
    threshold = np.uint64(round(probability * 2.0**32))
    return (random_bits(key, indices) >> np.uint64(32)) < threshold


def normal(key: int, indices: np.ndarray) -> np.ndarray:
    """Return standard normal float64 numbers (Box-Muller on elements 2i and 2i + 1 of the stream).

    Host only: logarithm and cosine may differ in the last bit between libraries, so ranks that must agree draw here
    and copy to the device.
    """
    twice = indices.astype(np.uint64) * np.uint64(2)
    radius = np.sqrt(-2.0 * np.log1p(-uniform(key, twice)))
    return np.asarray(radius * np.cos(2.0 * np.pi * uniform(key, twice + np.uint64(1))))


def permutation(key: int, length: int) -> np.ndarray:
    """Return a permutation of range(length), int64: the order of the indices sorted by their random bits."""
    return np.argsort(random_bits(key, np.arange(length, dtype=np.uint64)), kind="stable")
