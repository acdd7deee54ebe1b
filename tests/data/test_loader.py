import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owt_mpi.backends.reference import ReferenceBackend
from owt_mpi.data.augment import CentreView, RandomViews, TenViews
from owt_mpi.data.block_shuffle import BlockShuffle
from owt_mpi.data.loader import Batch, Loader
from owt_mpi.data.readers import Reader, SyntheticReader
from owt_mpi.data.sampler import BatchPlan, TrainPlan, ValidationPlan
from owt_mpi.data.shard_format import ShardReader

CROP = (5, 4)
MEAN = np.array([120.0, 110.0, 100.0])
SCALE = np.array([0.5, 0.25, 0.125])


def make_loader(reader: Reader, plan: BatchPlan, **changes: Any) -> Loader:
    options: dict[str, Any] = {"augmentation": RandomViews(9, CROP), "dtype": np.dtype(np.float32)}
    return Loader(reader, plan, **{"backend": ReferenceBackend(), **options, "mean": MEAN, "scale": SCALE, **changes})


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "loader"]


def joined(per_rank: tuple[Batch, ...], name: str) -> np.ndarray:
    return np.concatenate([getattr(batch, name) for batch in per_rank])


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_together_get_the_batches_of_one_rank(folder: Path, size: int) -> None:
    reader = ShardReader(folder, "train")
    plan = TrainPlan(reader.num_samples, 8, seed=9)
    ranks = [make_loader(reader, plan, rank=rank, size=size).epoch(1) for rank in range(size)]
    steps = 0
    for whole, *parts in zip(make_loader(reader, plan).epoch(1), *ranks, strict=True):
        for name in ("images", "labels", "rows", "indices"):
            np.testing.assert_array_equal(joined(tuple(parts), name), getattr(whole, name))
        assert whole.rows.tolist() == list(range(8))
        assert whole.valid is None
        steps += 1
    assert steps == 3


@pytest.mark.parametrize("size", [1, 2, 4])
def test_validation_counts_every_sample_once_on_any_number_of_ranks(folder: Path, size: int) -> None:
    reader = ShardReader(folder, "val")
    plan = ValidationPlan(reader.num_samples, 4)
    seen = []
    for rank in range(size):
        batches = list(make_loader(reader, plan, augmentation=CentreView(CROP), rank=rank, size=size).epoch(0))
        assert [batch.images.shape for batch in batches] == [(4 // size, *CROP, 3)] * 3
        for batch in batches:
            valid = np.ones(len(batch.rows), np.bool_) if batch.valid is None else batch.valid
            seen += batch.indices[valid].tolist()
            np.testing.assert_allclose(batch.images[~valid], np.broadcast_to(-MEAN * SCALE, batch.images[~valid].shape))
            np.testing.assert_array_equal(batch.labels[valid], reader.labels[batch.indices[valid]])
    assert sorted(seen) == list(range(11))


def views_of(reader: Reader, rank: int, size: int, start_step: int = 0) -> list[Batch]:
    """Return a rank's batches of an epoch with all that can be random, and a last batch that is not full."""
    plan = TrainPlan(29, 8, seed=9, last_batch="pad")
    augmentation = RandomViews(9, CROP, resized=True, colours=np.eye(3) * 5)
    return list(make_loader(reader, plan, augmentation=augmentation, rank=rank, size=size).epoch(3, start_step))


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("start_step", [0, 2])
def test_any_number_of_ranks_from_any_step_on_gets_the_same_rows_and_pixels(
    folder: Path, size: int, start_step: int
) -> None:
    reader = ShardReader(folder, "train")
    expected = views_of(reader, 0, 1)[start_step:]
    ranks = [views_of(reader, rank, size, start_step) for rank in range(size)]
    assert len(expected) == 4 - start_step
    for whole, *parts in zip(expected, *ranks, strict=True):
        for name in ("images", "labels", "rows", "indices"):
            np.testing.assert_array_equal(joined(tuple(parts), name), getattr(whole, name), strict=True)
    assert expected[-1].labels[-3:].tolist() == [-1, -1, -1]
    assert (expected[-1].labels[:-3] >= 0).all()


def test_validation_batches_are_normalised_centre_crops(folder: Path, pixels: np.ndarray) -> None:
    reader = ShardReader(folder, "val")
    options = {"augmentation": CentreView(CROP), "dtype": np.dtype(np.float64)}
    batch = next(make_loader(reader, ValidationPlan(11, 4), **options).epoch(0))
    expected = ((255 - pixels[:4])[:, 1:6, 1:5] - MEAN) * SCALE
    np.testing.assert_array_equal(batch.images, expected)


def test_training_batches_are_crops_of_their_samples_and_differ_by_epoch(folder: Path, pixels: np.ndarray) -> None:
    loader = make_loader(ShardReader(folder, "train"), TrainPlan(29, 8, seed=9), dtype=np.dtype(np.float64))
    for epoch in (0, 1):
        for batch in loader.epoch(epoch):
            for image, index in zip(batch.images, batch.indices, strict=True):
                restored = image / SCALE + MEAN
                windows = [pixels[index, t : t + 5, e : e + 4] for t in range(3) for e in range(3)]
                assert any(np.array_equal(restored, w) or np.array_equal(restored, w[:, ::-1]) for w in windows)
    first, second = (np.concatenate([b.indices for b in loader.epoch(epoch)]).tolist() for epoch in (0, 1))
    assert first != second


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_comes_once_for_each_view(folder: Path, pixels: np.ndarray, size: int) -> None:
    reader, plan = ShardReader(folder, "val"), ValidationPlan(11, 4)
    options = {"augmentation": TenViews(CROP), "dtype": np.dtype(np.float64), "size": size, "rank": size - 1}
    batches = list(make_loader(reader, plan, **options).epoch(0))
    assert len(batches) == 3 * 10
    first, mirrored = batches[10 + 3], batches[10 + 8]  # of the second batch, lower right
    for batch in (first, mirrored):
        np.testing.assert_array_equal(batch.indices, np.arange(4, 8)[-(4 // size) :])
    np.testing.assert_array_equal(first.images, ((255 - pixels[first.indices])[:, 2:7, 2:6] - MEAN) * SCALE)
    np.testing.assert_array_equal(mirrored.images, first.images[:, :, ::-1])


def test_colours_are_added_to_the_pixels_of_their_sample(folder: Path) -> None:
    reader, plan, dtype = ShardReader(folder, "train"), TrainPlan(29, 8, seed=9), np.dtype(np.float64)
    plain = make_loader(reader, plan, dtype=dtype)
    augmentation = RandomViews(9, CROP, colours=np.diag([3.0, 2.0, 1.0]))
    for batch, other in zip(
        make_loader(reader, plan, augmentation=augmentation, dtype=dtype).epoch(1), plain.epoch(1), strict=True
    ):
        colours = augmentation.views(1, batch.indices, reader.sizes(batch.indices)).colours
        assert colours is not None
        np.testing.assert_allclose(batch.images, other.images + (colours * SCALE)[:, None, None], atol=1e-12)


def test_start_step_gives_the_rest_of_the_epoch() -> None:
    loader = make_loader(SyntheticReader(29, (7, 6, 3), 4, seed=0), TrainPlan(29, 8, seed=9))
    whole, rest = list(loader.epoch(2)), list(loader.epoch(2, start_step=1))
    assert len(rest) == 2
    for expected, batch in zip(whole[1:], rest, strict=True):
        np.testing.assert_array_equal(batch.images, expected.images)


def test_batches_own_their_arrays() -> None:
    loader = make_loader(SyntheticReader(29, (7, 6, 3), 4, seed=0), TrainPlan(29, 8, seed=9))
    batches = list(loader.epoch(0))
    copies = [batch.images.copy() for batch in batches]
    list(loader.epoch(1))
    for batch, copy in zip(batches, copies, strict=True):
        np.testing.assert_array_equal(batch.images, copy)
    assert not np.shares_memory(batches[0].images, batches[1].images)


@pytest.mark.parametrize("prefetch", [1, 2])
def test_stopping_early_leaves_no_thread(prefetch: int) -> None:
    loader = make_loader(SyntheticReader(200, (7, 6, 3), 4, seed=0), TrainPlan(200, 2, seed=9), prefetch=prefetch)
    for step, _ in enumerate(loader.epoch(0)):
        if step == 1:
            break
    assert loader_threads() == []
    assert len(list(loader.epoch(1))) == 100  # and the loader goes on to work
    assert loader_threads() == []


class NotingReader(SyntheticReader):
    """Notes in which order samples are announced and read."""

    def __init__(self, num_samples: int) -> None:
        super().__init__(num_samples, (7, 6, 3), 4, seed=0)
        self.noted: list[tuple[str, list[int]]] = []

    def will_need(self, indices: np.ndarray) -> None:
        self.noted.append(("announced", sorted(indices.tolist())))

    def read_windows(self, indices: np.ndarray, windows: np.ndarray, out: np.ndarray) -> np.ndarray:
        self.noted.append(("read", sorted(indices.tolist())))
        return super().read_windows(indices, windows, out)


@pytest.mark.parametrize("start_step", [0, 3])
def test_samples_of_the_steps_that_are_mixed_are_announced_together_and_in_time(start_step: int) -> None:
    reader = NotingReader(50)
    plan = TrainPlan(50, 6, seed=9, blocks=BlockShuffle(block=3, buffer=12))
    assert plan.steps_together == 2
    order = plan.order(4).reshape(8, 6)[:, 3:]
    list(make_loader(reader, plan, rank=1, size=2).epoch(4, start_step))
    announced = [samples for kind, samples in reader.noted if kind == "announced"]
    first = order[0:4] if start_step == 0 else order[3:6]
    others = [order[4:6], order[6:8], order[8:]] if start_step == 0 else [order[6:8], order[8:]]
    assert announced == [sorted(steps.reshape(-1).tolist()) for steps in (first, *others)]
    so_far: set[int] = set()
    for kind, samples in reader.noted:
        if kind == "announced":
            so_far.update(samples)
        assert so_far.issuperset(samples)


def test_padding_is_not_announced() -> None:
    reader = NotingReader(7)
    list(make_loader(reader, ValidationPlan(7, 4)).epoch(0))
    assert [samples for kind, samples in reader.noted if kind == "announced"] == [list(range(7)), []]


class FailingReader(SyntheticReader):
    def read_windows(self, indices: np.ndarray, windows: np.ndarray, out: np.ndarray) -> np.ndarray:
        if 5 in indices:
            raise OSError("disk on fire")
        return super().read_windows(indices, windows, out)


def test_errors_of_the_thread_are_raised_in_the_consumer() -> None:
    loader = make_loader(FailingReader(20, (7, 6, 3), 4, seed=0), ValidationPlan(20, 2))
    taken = []
    with pytest.raises(OSError, match="disk on fire"):
        taken.extend(batch.indices.tolist() for batch in loader.epoch(0))
    assert taken == [[0, 1], [2, 3]]
    assert loader_threads() == []


def test_time_spent_waiting_adds_up_over_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("owt_mpi.data.loader.time.perf_counter", lambda: float(next(ticks)))
    loader = make_loader(SyntheticReader(29, (7, 6, 3), 4, seed=0), TrainPlan(29, 8, seed=9))
    waited = [loader.data_wait_seconds]
    for epoch in (0, 1):
        list(loader.epoch(epoch))
        waited.append(loader.data_wait_seconds)
    assert waited == [0, 4, 8]  # one tick for each of 3 batches and for the end


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": CentreView((8, 4))}, "crop of 8x4 does not fit into images of 7x6"),
        ({"mean": np.zeros(1)}, r"mean has shape \(1,\), but images have 3 channels"),
        ({"scale": np.zeros(())}, r"scale has shape \(\), but images have 3 channels"),
        ({"prefetch": 0}, "prefetch is 0"),
        ({"size": 3}, "cannot be shared equally by 3 ranks"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_loader(SyntheticReader(29, (7, 6, 3), 4, seed=0), TrainPlan(29, 8, seed=9), **changes)
