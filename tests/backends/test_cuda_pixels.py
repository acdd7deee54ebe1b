"""Batches on their way to the GPU, on the stand-in for CuPy: what overlaps, what waits, what memory is used again."""

import numpy as np
import pytest

from owt_mpi.backends import cuda_pixels
from owt_mpi.backends.pixels import start_normalise_on_host
from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.data.augment import RandomViews
from owt_mpi.data.loader import Loader
from owt_mpi.data.readers import SyntheticReader
from owt_mpi.data.sampler import TrainPlan
from tests.fake_cupy import RACES, RaceError

MEAN, SCALE = np.array([100.0, 110.0, 120.0]), np.array([0.5, 0.25, 0.125])
FLOAT = np.dtype(np.float32)
SHAPE = (3, 5, 6, 3)


def pixels_of(number):
    return np.random.default_rng(number).integers(0, 256, SHAPE, dtype=np.uint8)


def flips_of(number):
    return np.arange(3) == number % 3


def start(backend, number):
    """Start batch `number` as the loader does: the host's memory is not kept."""
    pixels = backend.host_empty(SHAPE, np.uint8)
    pixels[...] = pixels_of(number)
    return backend.start_normalise(pixels, flips_of(number), MEAN, SCALE, None, FLOAT)


def expected(number):
    return start_normalise_on_host(pixels_of(number), flips_of(number), MEAN, SCALE, None, FLOAT)()


def uploads_of(backend):
    return backend._uploads._stream


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(cuda_pixels, "CHUNK_BYTES", 64)


def test_an_upload_is_over_before_the_step_that_it_crosses_under(cuda):
    images = start(cuda, 0)()
    step = images * 2
    start(cuda, 1)
    uploads_of(cuda).synchronize()
    assert not cuda._device.compute.done
    with pytest.raises(RaceError, match="on which work may still run"):
        assert step.__cuda_array_interface__


def test_a_step_does_not_wait_for_the_upload_that_crosses_under_it(cuda):
    images = start(cuda, 0)()
    start(cuda, 1)
    step = images * 2
    cuda._device.compute.synchronize()
    assert not uploads_of(cuda).done
    np.testing.assert_array_equal(step.get(), expected(0) * 2)


def test_the_steps_small_copies_do_not_wait_for_an_upload(cuda):
    start(cuda, 0)
    labels = cuda.from_host(np.arange(5))
    np.testing.assert_array_equal(cuda.to_host(labels), np.arange(5))
    assert not uploads_of(cuda).done


def train(backend, num_steps=6, ahead=2):
    """Take batches of which `ahead` are always under way, and use each in two operations; return what came of them."""
    under_way = [start(backend, number) for number in range(ahead)]
    results = []
    for number in range(num_steps):
        images = under_way.pop(0)()
        under_way.append(start(backend, number + ahead))
        results.append(images * 2 + images)
    return [backend.to_host(result) for result in results]


def check(results):
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result, expected(number) * 2 + expected(number))
    assert RACES == []


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_memory_is_used_again_behind_what_used_it(small_pieces, cuda, ahead):
    check(train(cuda, ahead=ahead))


def test_device_memory_is_that_of_the_batches_under_way(cuda):
    pool, totals, images = cuda.xp.get_default_memory_pool(), [], None
    under_way = [start(cuda, 0), start(cuda, 1)]
    for number in range(2, 20):
        images = under_way.pop(0)()
        images *= 2
        under_way.append(start(cuda, number))
        totals.append(pool.total_bytes())
    assert totals[1] == totals[-1]  # once two batches' images have lived side by side


def test_a_batch_that_nobody_takes_leaves_nothing_behind(cuda):
    for number in range(4):
        start(cuda, number)
    check(train(cuda))


def test_synchronize_waits_for_uploads(cuda):
    start(cuda, 0)
    cuda.synchronize()
    assert uploads_of(cuda).done


def test_a_batch_is_taken_once(cuda):
    take = start(cuda, 0)
    take()
    with pytest.raises(AssertionError, match="taken once"):
        take()


@pytest.mark.parametrize("prefetch", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_loader_gives_the_gpu_the_bits_that_it_gives_the_host(cuda, dtype, prefetch):
    """Its thread prepares batches while this one computes on them: all that is random, and rows without a sample."""

    def loader(backend):
        plan = TrainPlan(29, 8, seed=3, last_batch="pad")
        augmentation = RandomViews(3, (5, 4), resized=True, colours=np.diag([9.0, 6.0, 3.0]))
        options = {"dtype": np.dtype(dtype), "mean": MEAN, "scale": SCALE, "prefetch": prefetch}
        return Loader(SyntheticReader(29, (9, 8, 3), 4, seed=1), plan, backend, augmentation, **options)

    doubled = [batch.images * 2 for epoch in (0, 1) for batch in loader(cuda).epoch(epoch)]
    expected = [batch.images * 2 for epoch in (0, 1) for batch in loader(ReferenceBackend()).epoch(epoch)]
    assert len(doubled) == len(expected) == 8
    for images, others in zip(doubled, expected, strict=True):
        np.testing.assert_array_equal(cuda.to_host(images), others, strict=True)
    assert RACES == []


# mistakes: each is what the line that is taken out is for


class Deaf:
    """A stream that waits for no event."""

    def __init__(self, stream):
        self._stream = stream

    def wait_event(self, event):
        pass

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def __enter__(self):
        return self._stream.__enter__()

    def __exit__(self, *error):
        self._stream.__exit__(*error)


def test_a_step_that_does_not_wait_for_its_batch_is_noticed(cuda, monkeypatch):
    take = start(cuda, 0)
    monkeypatch.setattr(cuda._device, "compute", Deaf(cuda._device.compute))
    with pytest.raises(RaceError, match="a write on another may still run"):
        take()


def test_an_upload_that_does_not_wait_for_the_reader_of_its_memory_is_noticed(cuda, monkeypatch):
    monkeypatch.setattr(cuda._uploads, "_stream", Deaf(cuda._uploads._stream))
    with pytest.raises(RaceError, match="a read on another may still run"):
        train(cuda)


def test_host_memory_that_is_let_go_before_it_has_crossed_is_noticed(cuda, monkeypatch):
    class Forgetful(list):
        def append(self, crossing):
            pass

    monkeypatch.setattr(cuda._uploads, "_crossing", Forgetful())
    with pytest.raises(AssertionError):
        check(train(cuda))
