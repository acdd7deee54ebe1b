import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.build_shards import build
from data_prep.images import prepare
from data_prep.options import Options
from owt_mpi.data.manifest import Manifest
from owt_mpi.data.shard_format import ShardReader, read_mean_image
from owt_mpi.data.shard_record import read_record

Files = dict[str, dict[str, bytes]]


@pytest.fixture
def source(files: Files, writers: dict[str, Callable[[Files, Path], Path]], tmp_path: Path) -> Path:
    return writers["tar of class tars"](files, tmp_path / "train.tar")


def names(out: Path, manifest: Manifest) -> list[str]:
    return [name for shard in manifest.splits["train"].shards for name in read_record(out / shard.file).names]


def test_original_files_are_kept_untouched(source: Path, files: Files, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = build(Options(source, out, storage="jpeg", keep_original=True, shards=2, workers=1))
    reader = ShardReader(out, "train")
    contents = [files[name.split("/")[0]][name.split("/")[1]] for name in names(out, manifest)]
    assert [reader.encoded(index) for index in range(12)] == contents
    sizes = [Image.open(io.BytesIO(content)).size[::-1] for content in contents]
    assert reader.sizes(np.arange(12)).tolist() == [list(size) for size in sizes]
    pixels = np.concatenate([np.asarray(Image.open(io.BytesIO(content))).reshape(-1, 3) for content in contents])
    np.testing.assert_allclose(manifest.statistics.mean, pixels.mean(axis=0))
    np.testing.assert_allclose(manifest.statistics.std, pixels.std(axis=0))
    assert manifest.image_shape == (None, None, 3)
    assert manifest.mean_image is None


@pytest.mark.parametrize("crop", ["centre", "none"])
def test_jpeg_storage_holds_the_prepared_images_as_jpeg_files(
    source: Path, files: Files, tmp_path: Path, crop: str
) -> None:
    out = tmp_path / "out"
    options = Options(source, out, storage="jpeg", size=8, crop=crop, quality=70, workers=1)  # type: ignore[arg-type]
    manifest = build(options)
    reader = ShardReader(out, "train")
    for index, name in enumerate(names(out, manifest)):
        class_name, file = name.split("/")
        expected = prepare(files[class_name][file], file, options.recipe())
        assert reader.encoded(index) == expected.encoded
        assert tuple(reader.sizes(np.array([index]))[0]) == expected.pixels.shape[:2]
        buffer = io.BytesIO()
        Image.fromarray(expected.pixels).save(buffer, "JPEG", quality=70)
        assert expected.encoded == buffer.getvalue()
    assert manifest.image_shape == ((8, 8, 3) if crop == "centre" else (None, None, 3))


def test_the_mean_image_is_that_of_the_training_images(source: Path, tmp_path: Path) -> None:
    manifest = build(Options(source, tmp_path / "out", size=8, val_fraction=0.3, shards=2, workers=1))
    images, _ = ShardReader(tmp_path / "out", "train").read(np.arange(manifest.splits["train"].count))
    mean = read_mean_image(tmp_path / "out", manifest)
    assert mean is not None
    assert mean.dtype == np.float64
    np.testing.assert_array_equal(mean, images.sum(axis=0) / len(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "none"}, "--crop none needs --storage jpeg"),
        ({"keep_original": True}, "--keep-original needs --storage jpeg"),
        ({"quality": 90}, "--quality needs --storage jpeg"),
        ({"storage": "jpeg", "quality": 101}, "--quality is 101; choose 1 to 100"),
        ({"storage": "jpeg", "keep_original": True, "size": 8}, "--keep-original and --size exclude each other"),
        ({"storage": "jpeg", "keep_original": True, "crop": "centre"}, "--keep-original and --crop exclude each other"),
    ],
)
def test_storage_options_that_contradict_each_other_are_refused(
    source: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(Options(source, tmp_path / "out", **options))  # type: ignore[arg-type]
