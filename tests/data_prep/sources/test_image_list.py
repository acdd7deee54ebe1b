import pickle

import pytest

from data_prep.sources import ImageList, SourceImage

IMAGES = [
    SourceImage("pear", "b.png", "/data/train.tar", 1 << 40, 1 << 33, 17),
    SourceImage("apple", "\udcff é.png", "/data/apple/\udcff é.png", 0, 5),
    SourceImage("pear", "a.png", "name alone", 512, 0),
    SourceImage("fig", "a.png", "/a.png", 3, 2, 1),
]


def test_images_come_back_sorted_by_class_and_name() -> None:
    images = ImageList(iter(IMAGES))
    assert list(images) == sorted(IMAGES) == images[:]
    assert (len(images), images[-1], images[1:4:2]) == (4, IMAGES[0], [sorted(IMAGES)[1], IMAGES[0]])
    with pytest.raises(IndexError):
        images[4]


def test_classes_are_counted() -> None:
    assert ImageList(IMAGES).class_counts() == {"apple": 1, "fig": 1, "pear": 2}
    assert (len(ImageList([])), ImageList([]).class_counts()) == (0, {})


def test_an_image_in_an_archive_takes_less_than_a_hundred_bytes_pickled() -> None:
    many = ImageList(SourceImage(f"n{i % 7:08d}", f"n{i:08d}_{i}.JPEG", "/data/train.tar", i, i) for i in range(20_000))
    pickled = pickle.dumps(many)
    assert len(pickled) < 100 * len(many)
    assert list(pickle.loads(pickled)) == list(many)
