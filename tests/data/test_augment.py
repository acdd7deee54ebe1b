import numpy as np
import pytest

from owt_mpi.data.augment import Crops, centre_crops, check_crop, crop_flip, normalise, random_crops

SHAPE = (9, 7, 3)
CROP = (6, 5)


@pytest.mark.parametrize("channels", [1, 3])
def test_crop_flip_equals_slicing(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 7, channels), dtype=np.uint8)
    crops = Crops(np.array([0, 3, 1]), np.array([2, 0, 1]), np.array([True, False, True]))
    out = np.empty((3, *CROP, channels), np.uint8)
    crop_flip(images, crops, out)
    np.testing.assert_array_equal(out[0], images[0, 0:6, 2:7][:, ::-1])
    np.testing.assert_array_equal(out[1], images[1, 3:9, 0:5])
    np.testing.assert_array_equal(out[2], images[2, 1:7, 1:6][:, ::-1])


def test_random_crops_reach_every_place_and_no_other() -> None:
    crops = random_crops(1, 2, np.arange(500), SHAPE, CROP)
    assert set(crops.tops.tolist()) == {0, 1, 2, 3}
    assert set(crops.lefts.tolist()) == {0, 1, 2}
    assert 200 < crops.flips.sum() < 300


def test_random_crops_depend_on_the_sample_alone_and_not_on_its_position() -> None:
    every = random_crops(1, 2, np.arange(50), SHAPE, CROP)
    some = random_crops(1, 2, np.array([40, 3]), SHAPE, CROP)
    for name in ("tops", "lefts", "flips"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name)[[40, 3]])


@pytest.mark.parametrize("name", ["tops", "lefts", "flips"])
def test_random_crops_differ_by_epoch_and_seed(name: str) -> None:
    drawn = [
        getattr(random_crops(seed, epoch, np.arange(50), SHAPE, CROP), name).tolist()
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    ]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_tops_lefts_and_flips_are_drawn_apart() -> None:
    crops = random_crops(1, 2, np.arange(400), (9, 9, 3), (8, 8))
    together = np.bincount(4 * crops.tops + 2 * crops.lefts + crops.flips, minlength=8)
    assert together.min() > 25  # all eight combinations, 50 expected


def test_centre_crops_are_in_the_middle() -> None:
    crops = centre_crops(2, SHAPE, CROP)
    assert (crops.tops.tolist(), crops.lefts.tolist(), crops.flips.tolist()) == ([1, 1], [1, 1], [False, False])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalise_subtracts_the_mean_and_scales_each_channel(dtype: type) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    mean, scale = np.array([100.5, 3.0, 77.25]), np.array([0.5, 2.0, 1 / 57])
    out = np.empty(images.shape, dtype)
    normalise(images, mean, scale, out)
    np.testing.assert_allclose(out, (images - mean) * scale, rtol=1e-5 if dtype is np.float32 else 1e-14, atol=1e-5)


@pytest.mark.parametrize("crop", [(10, 5), (6, 8), (0, 5)])
def test_crop_that_does_not_fit_is_refused_with_both_sizes(crop: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"crop of {crop[0]}x{crop[1]} does not fit into images of 9x7; .*--size"):
        check_crop(SHAPE, crop)
