"""Every backend brings batches of uint8 to the device, mirrored and normalised, the same bits on all of them."""

import numpy as np
import pytest

from owt_mpi.backends.pixels import start_normalise_on_host
from owt_mpi.backends.precision import exact_dtype

MEAN = np.array([123.675, 116.28, 3.53])
SCALE = np.array([1 / 58.395, 1.7, 1.0])


def random_batch(backend, shape=(5, 7, 6, 3)):
    rng = np.random.default_rng(3)
    pixels = backend.host_empty(shape, np.uint8)
    pixels[...] = rng.integers(0, 256, shape)
    return pixels, np.array([True, False, False, True, True]), rng.normal(scale=20, size=(shape[0], shape[3]))


def error_bound(pixels, colours, dtype):
    """Return how far three rounded steps may be from exact ones, of rounded constants, and a last one to a half."""
    unit = np.finfo(exact_dtype(dtype)).eps / 2
    largest = (pixels + np.abs(MEAN) + np.abs(colours[:, None, None])) * SCALE
    half = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(np.dtype(dtype).name, 0.0)
    return largest * (5 * unit + half * (1 + 5 * unit))


@pytest.mark.parametrize("has_colours", [False, True])
def test_is_within_rounding_of_the_formula(backend, dtype, has_colours):
    pixels, flips, colours = random_batch(backend)
    seen = np.where(flips[:, None, None, None], pixels[:, :, ::-1], pixels).astype(np.float64)
    colours = colours if has_colours else np.zeros_like(colours)
    expected = (seen - MEAN + colours[:, None, None]) * SCALE
    images = backend.start_normalise(pixels, flips, MEAN, SCALE, colours if has_colours else None, dtype)()
    assert images.dtype == dtype
    assert images.flags.c_contiguous
    error = np.abs(backend.to_host(images).astype(np.float64) - expected)
    assert (error <= error_bound(seen, colours, dtype)).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_has_the_same_bits_on_every_backend(backend, dtype, channels, scale):
    pixels, flips, colours = random_batch(backend, (5, 4, 9, channels))
    mean, scales = np.linspace(90, 110, channels), np.linspace(scale, 1.0, channels)
    expected = start_normalise_on_host(pixels.copy(), flips, mean, scales, colours, dtype)()
    images = backend.start_normalise(pixels, flips, mean, scales, colours, dtype)()
    np.testing.assert_array_equal(backend.to_host(images), expected, strict=True)


def test_batches_under_way_do_not_disturb_one_another(backend, dtype):
    batches = [random_batch(backend) for _ in range(3)]
    taken = []
    for number, (pixels, flips, _) in enumerate(batches):
        np.add(pixels, np.uint8(number), out=pixels)
        taken.append(backend.start_normalise(pixels, flips, MEAN, SCALE, None, dtype))
    images = [backend.to_host(take()) for take in taken]
    for number, actual in enumerate(images):
        pixels, flips, _ = random_batch(backend)
        pixels += np.uint8(number)
        np.testing.assert_array_equal(actual, start_normalise_on_host(pixels, flips, MEAN, SCALE, None, dtype)())


def test_host_memory_has_shape_and_type(backend):
    memory = backend.host_empty((2, 3, 5), np.int32)
    memory[...] = 7
    assert (memory.shape, memory.dtype, memory.flags.c_contiguous) == ((2, 3, 5), np.int32, True)
    assert backend.host_empty((0, 4), np.uint8).shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pixels": np.zeros((2, 4, 3, 3), np.int32)}, TypeError, "pixels are int32 and flips bool; give uint8 and"),
        ({"flips": np.zeros(2, np.uint8)}, TypeError, "flips uint8"),
        ({"pixels": np.zeros((2, 4, 3), np.uint8)}, ValueError, r"shape \(2, 4, 3\) must be \(n, h, w, c\)"),
        ({"pixels": np.zeros((2, 4, 6, 3), np.uint8)[:, :, ::2]}, ValueError, "C-contiguous"),
        ({"flips": np.zeros(3, np.bool_)}, ValueError, r"flips has shape \(3,\), but \(2,\) fits"),
        ({"mean": np.zeros(1)}, ValueError, r"mean has shape \(1,\), but \(3,\) fits"),
        ({"scale": np.zeros(4)}, ValueError, r"scale has shape \(4,\)"),
        ({"colours": np.zeros(3)}, ValueError, r"colours has shape \(3,\), but \(2, 3\) fits"),
    ],
)
def test_what_does_not_fit_is_refused(backend, dtype, change, error, message):
    arguments = {
        "pixels": np.zeros((2, 4, 3, 3), np.uint8), "flips": np.zeros(2, np.bool_), "mean": MEAN, "scale": SCALE,
        "colours": None,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        backend.start_normalise(**{**arguments, **change}, dtype=dtype)
