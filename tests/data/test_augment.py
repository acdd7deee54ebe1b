import numpy as np
import pytest

from owt_mpi.data.augment import CentreCrop, RandomCrops, Views, check_crop

CROP = (6, 5)


def sizes_of(n: int, size: tuple[int, int] = (9, 7)) -> np.ndarray:
    return np.tile(np.array(size, np.int64), (n, 1))


def random_views(seed: int, epoch: int, indices: np.ndarray, crop: tuple[int, int] = CROP) -> Views:
    return RandomCrops(seed, crop).views(epoch, indices, sizes_of(len(indices)))


def test_random_crops_reach_every_place_and_no_other() -> None:
    views = random_views(1, 2, np.arange(500))
    assert set(views.windows[:, 0].tolist()) == {0, 1, 2, 3}
    assert set(views.windows[:, 1].tolist()) == {0, 1, 2}
    assert set(map(tuple, views.windows[:, 2:].tolist())) == {CROP}
    assert 200 < views.flips.sum() < 300


def test_random_crops_fit_into_images_of_many_sizes() -> None:
    sizes = np.array([[6, 5], [6, 50], [60, 5], [7, 6], [30, 20]] * 100)
    views = RandomCrops(1, CROP).views(0, np.arange(500), sizes)
    room = (sizes - CROP).reshape(100, 5, 2)
    np.testing.assert_array_equal(views.windows[:, :2].reshape(100, 5, 2).min(axis=0)[:4], 0)
    np.testing.assert_array_equal(views.windows[:, :2].reshape(100, 5, 2).max(axis=0)[[0, 3]], room[0][[0, 3]])
    assert (views.windows[:, :2].reshape(100, 5, 2) <= room).all()


def test_random_crops_depend_on_the_sample_alone_and_not_on_its_position() -> None:
    every, some = random_views(1, 2, np.arange(50)), random_views(1, 2, np.array([40, 3]))
    np.testing.assert_array_equal(some.windows, every.windows[[40, 3]])
    np.testing.assert_array_equal(some.flips, every.flips[[40, 3]])


@pytest.mark.parametrize("what", ["top", "left", "flip"])
def test_random_crops_differ_by_epoch_and_seed(what: str) -> None:
    drawn = []
    for seed, epoch in ((1, 0), (1, 1), (2, 0)):
        views = random_views(seed, epoch, np.arange(50))
        drawn.append({"top": views.windows[:, 0], "left": views.windows[:, 1], "flip": views.flips}[what].tolist())
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_tops_lefts_and_flips_are_drawn_apart() -> None:
    views = RandomCrops(1, (8, 8)).views(2, np.arange(400), sizes_of(400, (9, 9)))
    together = np.bincount(4 * views.windows[:, 0] + 2 * views.windows[:, 1] + views.flips, minlength=8)
    assert together.min() > 25  # all eight combinations, 50 expected


def test_without_flip_nothing_is_mirrored() -> None:
    assert not RandomCrops(1, CROP, flip=False).views(0, np.arange(50), sizes_of(50)).flips.any()


def test_centre_crops_are_in_the_middle() -> None:
    views = CentreCrop(CROP).views(0, np.arange(2), np.array([[9, 7], [6, 10]]))
    assert views.windows.tolist() == [[1, 1, 6, 5], [0, 2, 6, 5]]
    assert views.flips.tolist() == [False, False]


@pytest.mark.parametrize("crop", [(10, 5), (6, 8), (0, 5)])
def test_crop_that_does_not_fit_is_refused_with_both_sizes(crop: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"crop of {crop[0]}x{crop[1]} does not fit into images of 9x7; .*--size"):
        check_crop(np.array([[20, 7], [9, 30]]), crop)
