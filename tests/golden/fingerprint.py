"""A large array told in forty numbers, and how far another array is from what they say."""

import numpy as np

from owt_mpi import rng

SEED = 7
NUM_ELEMENTS = 32

Fingerprint = dict[str, float | list[int] | list[float]]


def fingerprint(name: str, array: np.ndarray) -> Fingerprint:
    """Return what an array's values add up to in several ways, and some of its elements.

    `name` decides the random direction d of "dot" = <d, array> and the flat places of the elements.
    """
    flat = array.astype(np.float64).reshape(-1)
    direction = 2.0 * rng.uniform(rng.stream_key(SEED, "direction", name), np.arange(flat.size)) - 1.0
    places = rng.integers(rng.stream_key(SEED, "places", name), np.arange(NUM_ELEMENTS), flat.size)
    return {
        "shape": list(array.shape),
        "l2": float(np.sqrt(flat @ flat)),
        "l1": float(np.abs(flat).sum()),
        "largest": float(np.abs(flat).max()),
        "sum": float(flat.sum()),
        "dot": float(direction @ flat),
        "elements": flat[places].tolist(),
    }


def largest_error(measured: Fingerprint, expected: Fingerprint) -> float:
    """Return the largest relative difference of two fingerprints of one name; infinity if the shapes differ.

    Each number is taken relative to what it can be for arrays of that size: a sum to the sum of the magnitudes, the
    product with a random direction to the array's norm, an element to the largest one.
    """
    if measured["shape"] != expected["shape"]:
        return float("inf")
    scales = {"l2": "l2", "l1": "l1", "largest": "largest", "sum": "l1", "dot": "l2", "elements": "largest"}
    return max(
        float(np.abs(np.subtract(measured[key], expected[key])).max()) / expected[scale]
        for key, scale in scales.items()
    )
