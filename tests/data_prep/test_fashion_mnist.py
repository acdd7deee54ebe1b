from pathlib import Path

import numpy as np

import data_prep
from data_prep.build_shards import build
from data_prep.options import Options
from owt_mpi.data.shard_format import ShardReader

FOLDER = Path(data_prep.__file__).parent / "fashion_mnist"


def test_the_demonstration_data_builds_as_its_readme_says(tmp_path: Path) -> None:
    options = Options(FOLDER / "train.tar.gz", tmp_path, size=28, val=FOLDER / "test.tar.gz", channels=1)
    manifest = build(options)
    assert manifest.class_names[:2] == ("ankle_boot", "bag")
    assert manifest.image_shape == (28, 28, 1)
    assert manifest.splits["train"].shards[0].class_histogram == (1200,) * 10
    assert manifest.splits["val"].shards[0].class_histogram == (200,) * 10
    images, labels = ShardReader(tmp_path, "val").read(np.arange(2000))
    assert len(np.unique(images.reshape(2000, -1), axis=0)) == 2000
    # trousers are two legs: dark between them, unlike pullovers
    middle = images[:, 14:26, 13:15, 0].mean(axis=(1, 2))
    assert middle[labels == manifest.class_names.index("trouser")].mean() < 100
    assert middle[labels == manifest.class_names.index("pullover")].mean() > 150
