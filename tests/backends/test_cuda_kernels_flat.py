"""The CUDA kernels over flat arrays - the update of the weights, augmentation - give the bits that the CPU gives."""

import numpy as np
import pytest

from owt_mpi.backends.blocked_sgd import blocked_momentum_sgd
from owt_mpi.backends.pixels import start_normalise_on_host
from tests.backends.cuda_kernel_check import (
    ORDERS,
    TYPES,
    device,
    garbage,
    make_kernels,
    needs_gpp,
    normal,
    numbers,
    off_by_one,
    stored,
)

pytestmark = needs_gpp
SIZES = [1, 3, 4, 1023, 1024, 1026, 3073]
RULE = (0.03, 0.9, 0.2)  # lr, momentum, weight decay
NO_SKIP = np.zeros(1, np.int32)


@pytest.fixture(params=ORDERS, ids=lambda order: f"order{order}")
def kernels(request, monkeypatch):
    return make_kernels(monkeypatch, request.param)


def updated(w, v, g):
    """Return the new w and v by the CPU's update."""
    w, v = w.copy(), v.copy()
    blocked_momentum_sgd(w, v, g, *RULE)
    return w, v


@pytest.mark.parametrize("size", SIZES)
def test_momentum_sgd_gives_the_bits_of_the_cpu(kernels, size):
    w, v, g = (normal((size,), "float32", seed) for seed in (1, 2, 3))
    expected = updated(w, v, g)
    kernels.momentum_sgd(*device(w, v, g, NO_SKIP), *RULE)
    np.testing.assert_array_equal(w, expected[0])
    np.testing.assert_array_equal(v, expected[1])


@pytest.mark.parametrize("size", [3, 1026])
@pytest.mark.parametrize("copied", TYPES)
@pytest.mark.parametrize("kind", TYPES)
def test_momentum_sgd_scales_the_gradient_and_writes_a_rounded_copy(kernels, kind, copied, size):
    w, v, g = normal((size,), "float32", 1), normal((size,), "float32", 2), normal((size,), kind, 3)
    scaled = numbers(g).astype(np.float32) * np.float32(1 / 3)
    expected = updated(w, v, scaled)
    copy = garbage((size,), stored(w, copied).dtype)
    w_device, v_device, g_device, skip, copy_device = device(w, v, g, NO_SKIP, copy)
    kernels.momentum_sgd(w_device, v_device, g_device, skip, *RULE, scale=1 / 3, copy=copy_device)
    np.testing.assert_array_equal(w, expected[0])
    np.testing.assert_array_equal(v, expected[1])
    np.testing.assert_array_equal(copy, stored(expected[0], copied))


def test_parts_of_a_bucket_at_any_address_are_updated_and_nothing_beside_them(kernels):
    w, v, g = (normal((64,), "float32", seed) for seed in (1, 2, 3))
    whole = updated(w, v, g)
    before = w.copy()
    kernels.momentum_sgd(*device(w[3:24], v[3:24], g[3:24], NO_SKIP), *RULE)
    np.testing.assert_array_equal(w[3:24], whole[0][3:24])
    np.testing.assert_array_equal(v[3:24], whole[1][3:24])
    np.testing.assert_array_equal(np.delete(w, range(3, 24)), np.delete(before, range(3, 24)))


@pytest.mark.parametrize("size", [5, 1024])
def test_an_update_that_is_to_be_skipped_changes_nothing(kernels, size):
    w, v, g = (normal((size,), "float32", seed) for seed in (1, 2, 3))
    copy = np.zeros(size, np.float16)
    arrays = device(w, v, g, np.ones(1, np.int32), copy)
    kernels.momentum_sgd(*arrays[:4], *RULE, copy=arrays[4])
    np.testing.assert_array_equal(w, normal((size,), "float32", 1))
    np.testing.assert_array_equal(v, normal((size,), "float32", 2))
    np.testing.assert_array_equal(copy, 0)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_overflow_anywhere_is_found(kernels, kind, value):
    g = np.random.default_rng(0).normal(size=1030)
    flag = np.zeros(1, np.int32)
    kernels.find_overflow(*device(stored(g, kind), flag))
    assert flag[0] == 0
    for place in (0, 517, 1029):
        faulty = g.copy()
        faulty[place] = value
        flag = np.zeros(1, np.int32)
        kernels.find_overflow(*device(stored(faulty, kind), flag))
        assert flag[0] == 1


class Cropped:
    """Images of which windows (5, 9, 7) are cut, some mirrored: what the kernel takes, and the numbers of the CPU."""

    def __init__(self, channels):
        self.images = np.random.default_rng(0).integers(0, 256, (5, 13, 11, channels), dtype=np.uint8)
        self.tops, self.lefts = np.array([0, 4, 2, 3, 1]), np.array([4, 0, 1, 3, 2])
        self.flips = np.array([True, False, True, False, True])
        self.mean = np.linspace(100.3, 120.7, channels, dtype=np.float32)
        self.scale = np.linspace(0.7, 1.3, channels, dtype=np.float32)
        self.offsets = np.random.default_rng(1).normal(size=(5, channels)).astype(np.float32)
        self.shape = (5, 9, 7, channels)

    def arrays(self):
        return device(self.images, self.tops, self.lefts, self.flips, self.mean, self.scale)

    def expected(self, offsets=None):
        windows = zip(self.images, self.tops, self.lefts, strict=True)
        cut = np.stack([image[top : top + 9, left : left + 7] for image, top, left in windows])
        return start_normalise_on_host(cut, self.flips, self.mean, self.scale, offsets, np.dtype(np.float32))()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("channels", [3, 1, 4])
@pytest.mark.parametrize("has_offsets", [False, True])
def test_crop_normalise_gives_the_bits_of_the_cpu(kernels, has_offsets, channels, kind):
    cropped = Cropped(channels)
    offsets = cropped.offsets if has_offsets else None
    expected = stored(cropped.expected(offsets), kind)
    out = garbage(expected.shape, expected.dtype)
    kernels.crop_normalise(*cropped.arrays(), *device(out, *([] if offsets is None else [offsets])))
    np.testing.assert_array_equal(out, expected)


def test_a_batch_between_packs_is_written_one_number_at_a_time(kernels):
    cropped = Cropped(3)
    out = off_by_one(garbage(cropped.shape, np.float32))
    kernels.crop_normalise(*cropped.arrays(), *device(out))
    np.testing.assert_array_equal(out, cropped.expected())
