import numpy as np
import pytest

from owt_mpi.data.augment import CentreView, RandomViews, TenViews, Views, check_crop, colour_noise
from owt_mpi.data.manifest import Statistics

CROP = (6, 5)


def sizes_of(n: int, size: tuple[int, int] = (9, 7)) -> np.ndarray:
    return np.tile(np.array(size, np.int64), (n, 1))


def random_views(seed: int, epoch: int, indices: np.ndarray, crop: tuple[int, int] = CROP) -> Views:
    return RandomViews(seed, crop).views(epoch, indices, sizes_of(len(indices)))


def test_random_crops_reach_every_place_and_no_other() -> None:
    views = random_views(1, 2, np.arange(500))
    assert set(views.windows[:, 0].tolist()) == {0, 1, 2, 3}
    assert set(views.windows[:, 1].tolist()) == {0, 1, 2}
    assert set(map(tuple, views.windows[:, 2:].tolist())) == {CROP}
    assert 200 < views.flips.sum() < 300


def test_random_crops_fit_into_images_of_many_sizes() -> None:
    sizes = np.array([[6, 5], [6, 50], [60, 5], [7, 6], [30, 20]] * 100)
    views = RandomViews(1, CROP).views(0, np.arange(500), sizes)
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
    views = RandomViews(1, (8, 8)).views(2, np.arange(400), sizes_of(400, (9, 9)))
    together = np.bincount(4 * views.windows[:, 0] + 2 * views.windows[:, 1] + views.flips, minlength=8)
    assert together.min() > 25  # all eight combinations, 50 expected


def test_without_flip_nothing_is_mirrored() -> None:
    assert not RandomViews(1, CROP, flip=False).views(0, np.arange(50), sizes_of(50)).flips.any()


def test_centre_crops_are_in_the_middle() -> None:
    views = CentreView(CROP).views(0, np.arange(2), np.array([[9, 7], [6, 10]]))
    assert views.windows.tolist() == [[1, 1, 6, 5], [0, 2, 6, 5]]
    assert views.flips.tolist() == [False, False]


@pytest.mark.parametrize("crop", [(10, 5), (6, 8), (0, 5)])
def test_crop_that_does_not_fit_is_refused_with_both_sizes(crop: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"crop of {crop[0]}x{crop[1]} does not fit into images of 9x7; .*--size"):
        check_crop(np.array([[20, 7], [9, 30]]), crop)


# resized windows


def resized_views(seed: int, epoch: int, indices: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return RandomViews(seed, CROP, resized=True).views(epoch, indices, sizes).windows


def test_resized_windows_are_within_the_image_and_of_the_shares_and_ratios_that_are_said() -> None:
    sizes = np.array([[300, 200], [150, 420]] * 1000)
    windows = resized_views(1, 0, np.arange(2000), sizes)
    assert (windows >= [0, 0, 1, 1]).all()
    assert (windows[:, :2] + windows[:, 2:] <= sizes).all()
    shares = windows[:, 2:].prod(axis=1) / sizes.prod(axis=1)
    ratios = windows[:, 3] / windows[:, 2]
    assert 0.078 < shares.min() < 0.1
    assert shares[0::2].max() > 0.85
    assert 0.74 < ratios.min() < 0.77
    assert 1.3 < ratios.max() < 1.35
    room = (sizes - windows[:, 2:])[:, 0]
    assert (windows[:, 0] == 0).any()
    assert (windows[:, 0] == room).any()


def test_shares_and_logarithms_of_ratios_are_evenly_spread() -> None:
    sizes = np.full((4000, 2), 4000)
    windows = resized_views(1, 0, np.arange(4000), sizes)
    few = windows[windows[:, 2:].prod(axis=1) < 0.5 * 4000**2]  # of which the first try fits in any case
    shares, ratios = few[:, 2:].prod(axis=1) / 4000**2, np.log(few[:, 3] / few[:, 2])
    np.testing.assert_allclose(np.histogram(shares, 4, (0.08, 0.5))[0] / len(few), 0.25, atol=0.03)
    np.testing.assert_allclose(np.histogram(ratios, 4, (-np.log(4 / 3), np.log(4 / 3)))[0] / len(few), 0.25, atol=0.03)


def test_what_does_not_fit_is_tried_again_with_other_numbers() -> None:
    windows = resized_views(1, 0, np.arange(1000), np.full((1000, 2), (20, 40)))  # every other try fits
    in_the_middle = (windows == [0, 6, 20, 27]).all(axis=1)
    assert 0 < in_the_middle.sum() < 30


@pytest.mark.parametrize(
    ("size", "window"), [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10)), ((1, 1), (0, 0, 1, 1))]
)
def test_images_that_no_try_fits_give_the_largest_window_in_the_middle(
    size: tuple[int, int], window: tuple[int, ...]
) -> None:
    windows = resized_views(1, 0, np.arange(200), np.tile(size, (200, 1)))
    assert window in set(map(tuple, windows.tolist()))
    assert (windows[:, 2:] <= size).all()


def test_resized_windows_depend_on_the_sample_alone() -> None:
    sizes = np.random.default_rng(0).integers(20, 60, (50, 2))
    every = resized_views(1, 2, np.arange(50), sizes)
    np.testing.assert_array_equal(resized_views(1, 2, np.array([40, 3]), sizes[[40, 3]]), every[[40, 3]])
    assert (resized_views(1, 3, np.arange(50), sizes) != every).any()
    assert (resized_views(2, 2, np.arange(50), sizes) != every).any()


def test_any_image_can_be_resized_but_not_every_one_cropped() -> None:
    sizes = np.array([[5, 4]])
    RandomViews(1, CROP, resized=True).check(sizes)
    with pytest.raises(ValueError, match="crop of 6x5 does not fit into images of 5x4"):
        RandomViews(1, CROP).check(sizes)


# colours


STATISTICS = Statistics.from_moments(
    np.zeros(3), np.array([[90.0, 50.0, 20.0], [50.0, 80.0, 30.0], [20.0, 30.0, 40.0]])
)


def coloured(strength: float, indices: np.ndarray, seed: int = 1, epoch: int = 0) -> np.ndarray:
    augmentation = RandomViews(seed, CROP, colours=colour_noise(STATISTICS, strength))
    colours = augmentation.views(epoch, indices, sizes_of(len(indices))).colours
    assert colours is not None
    return colours


def test_colours_vary_as_those_of_the_training_set_do() -> None:
    covariance = np.cov(coloured(0.1, np.arange(20000)).T)
    expected = 0.01 * np.array([[90.0, 50.0, 20.0], [50.0, 80.0, 30.0], [20.0, 30.0, 40.0]])
    np.testing.assert_allclose(covariance, expected, atol=0.02)


def test_colours_depend_on_the_sample_alone_to_the_last_bit() -> None:
    every = coloured(0.1, np.arange(50))
    np.testing.assert_array_equal(coloured(0.1, np.array([40, 3])), every[[40, 3]])
    assert (coloured(0.1, np.arange(50), epoch=1) != every).all()
    assert (coloured(0.1, np.arange(50), seed=2) != every).all()


def test_without_noise_there_are_no_colours() -> None:
    assert colour_noise(STATISTICS, 0.0) is None
    assert random_views(1, 2, np.arange(3)).colours is None


# several views


def test_ten_views_are_corners_centre_and_their_mirror_images() -> None:
    augmentation, sizes = TenViews(CROP), np.array([[9, 7], [6, 10]])
    views = [augmentation.views(0, np.arange(2), sizes, view) for view in range(augmentation.num_views)]
    corners = [(0, 0), (0, 2), (3, 0), (3, 2), (1, 1)]
    assert [tuple(view.windows[0].tolist()) for view in views] == [(*place, *CROP) for place in corners * 2]
    assert [tuple(view.windows[1, :2].tolist()) for view in views[:5]] == [(0, 0), (0, 5), (0, 0), (0, 5), (0, 2)]
    assert [view.flips.tolist() for view in views] == [[False, False]] * 5 + [[True, True]] * 5
