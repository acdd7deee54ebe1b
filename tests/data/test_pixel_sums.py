import numpy as np
import pytest

from owt_mpi.data.pixel_sums import PixelSums


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def test_pixel_sums_give_the_moments_of_all_pixels_in_any_order() -> None:
    images = [random_pixels(4, 6, 3), 255 - random_pixels(3, 3, 3) // 2]
    parts = [PixelSums.zero(3, None) for _ in images]
    for part, image in zip(parts, images, strict=True):
        part.add_images([image])
    together, backwards = PixelSums.zero(3, None), PixelSums.zero(3, None)
    together.add_images(images)
    for part in reversed(parts):
        backwards.add(part)
    assert together.statistics() == backwards.statistics()
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    statistics = together.statistics()
    np.testing.assert_allclose(statistics.mean, pixels.mean(axis=0))
    np.testing.assert_allclose(statistics.std, pixels.std(axis=0))
    vectors, values = np.array(statistics.pca_eigenvectors), np.array(statistics.pca_eigenvalues)
    np.testing.assert_allclose(vectors.T @ np.diag(values) @ vectors, np.cov(pixels.T, bias=True))
    assert together.mean_image(2) is None


@pytest.mark.parametrize("shape", [(61, 47, 3), (1, 1, 3), (64, 64, 1), (33, 5, 1)])
def test_sums_are_exact_whatever_the_size_of_the_image(shape: tuple[int, int, int]) -> None:
    images = random_pixels(5, *shape)
    sums = PixelSums.zero(shape[2], shape[:2])
    sums.add_images(list(images))
    pixels = images.reshape(-1, shape[2]).astype(np.int64)
    assert sums.count == len(pixels)
    np.testing.assert_array_equal(sums.total, pixels.sum(axis=0))
    np.testing.assert_array_equal(sums.products, pixels.T @ pixels)
    np.testing.assert_array_equal(sums.mean_image(5), images.mean(axis=0))


def test_sums_are_exact_at_the_largest_values_they_meet() -> None:
    white = np.full((40, 256, 3), 255, np.uint8)  # 40 * 256 pixels: float32 would round sums over all of them
    sums = PixelSums.zero(3, white.shape[:2])
    sums.add_images([white] * 300)  # more than 16 bits hold
    assert sums.image is not None
    assert (sums.image == 300 * 255).all()
    assert sums.products.tolist() == [[300 * 40 * 256 * 255**2] * 3] * 3
