import gzip
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from data_prep.images import Recipe, prepare
from data_prep.sources import open_source
from owt_mpi.data.decode import ImageError
from owt_mpi.data.manifest import DataError
from tests.data_prep.conftest import tar_of

pytest.importorskip("scipy")

from tests.data_prep.ilsvrc import CLASSES, Made, devkit_tar, make_ilsvrc

TRAIN, VAL, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
REAL_KIT = os.environ.get("OWT_MPI_ILSVRC2012_DEVKIT", "")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_ilsvrc(tmp_path_factory.mktemp("ilsvrc") / "tars")


def copy(made: Made, path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        shutil.copy(made.path / name, path / name)
    return path


@pytest.mark.parametrize("form", ["tars", "folders"])
def test_images_and_labels_are_those_that_were_made(form: Literal["tars", "folders"], tmp_path: Path) -> None:
    made = make_ilsvrc(tmp_path / "source", form)
    with open_source(made.path, spool_folder=tmp_path) as listing:
        assert listing.layout == "imagenet"
        assert listing.class_names == tuple(sorted(CLASSES)) != tuple(CLASSES)
        assert listing.class_titles == CLASSES
        for split in ("train", "val"):
            expected = made.with_fate("kept", split) | made.with_fate("unusable", split)
            found = {str(image): listing.reader.read(image) for image in listing.splits[split]}
            assert found == {name: file.content for name, file in expected.items()}
            assert list(found) == sorted(expected)
        assert [line.rpartition("/")[2] for line in listing.ignored] == ["n02119789_110.txt is not an image file"]
        assert (listing.miscounts(), listing.empty_classes) == ([], ())


def test_the_made_files_have_the_fates_that_are_said(original: Made) -> None:
    recipe = Recipe("raw", 3, 16, square=True, quality=90)
    for file in original.with_fate("kept", "train").values():
        assert prepare(file.content, file.name, recipe).pixels.shape == (16, 16, 3)
    for file in original.with_fate("unusable", "train").values():
        with pytest.raises(ImageError):
            prepare(file.content, file.name, recipe)


def test_labels_do_not_depend_on_the_order_of_the_tar_nor_on_missing_images(original: Made, tmp_path: Path) -> None:
    path = copy(original, tmp_path / "source", KIT)
    val = [file for file in original.files if file.split == "val"]
    left = sorted(val, key=lambda file: file.name)[2:]
    (path / VAL).write_bytes(tar_of([(file.name, file.content) for file in left]))
    listing = open_source(path, spool_folder=tmp_path)
    assert {image.name: image.class_name for image in listing.splits["val"]} == {file.name: file.wnid for file in left}
    with_fewer = sorted({file.wnid for file in val if file not in left})
    assert len(with_fewer) == 2
    assert listing.miscounts() == [f"val: class {wnid} has 2 images instead of 3" for wnid in with_fewer]


def test_missing_training_images_and_classes_are_counted(original: Made, tmp_path: Path) -> None:
    path = copy(original, tmp_path / "source", TRAIN)
    (path / KIT).write_bytes(devkit_tar([], {"n02100735": 1300}))
    assert open_source(path, spool_folder=tmp_path).miscounts() == [
        "train: class n02100735 has 4 images instead of 1300"
    ]


def test_classes_keep_their_labels_when_they_have_no_images(tmp_path: Path) -> None:
    made = make_ilsvrc(tmp_path / "source", "folders")
    shutil.rmtree(made.path / "train/n02012849")
    listing = open_source(made.path)
    assert listing.class_names == tuple(sorted(CLASSES))
    assert listing.miscounts() == ["train: class n02012849 has 0 images instead of 4"]


def test_the_training_tar_alone_needs_no_kit(original: Made, tmp_path: Path) -> None:
    path = copy(original, tmp_path / "source", TRAIN)
    for source in (path, path / TRAIN):
        (images,) = open_source(source).splits.values()
        expected = Counter(file.wnid for file in original.files if file.split == "train" and file.kind != "notes")
        assert images.class_counts() == expected


@pytest.mark.parametrize("names", [(TRAIN, VAL), (VAL,)])
def test_validation_images_without_the_kit_are_an_error_that_names_it(
    original: Made, tmp_path: Path, names: tuple[str, ...]
) -> None:
    path = copy(original, tmp_path / "source", *names)
    for source in (path, path / VAL):
        with pytest.raises(
            DataError, match=r"labels of .*ILSVRC2012_val_0\S+ and the others are in ILSVRC2012_devkit_t12"
        ):
            open_source(source)


def test_validation_images_beside_the_kit_are_a_source(original: Made, tmp_path: Path) -> None:
    path = copy(original, tmp_path / "source", KIT)
    val = [file for file in original.files if file.split == "val"]
    for file in val:
        (path / file.name).write_bytes(file.content)
    listing = open_source(path, spool_folder=tmp_path)
    assert {image.name: image.class_name for image in listing.splits["val"]} == {file.name: file.wnid for file in val}


def test_validation_images_in_class_folders_have_their_class(original: Made, tmp_path: Path) -> None:
    path = copy(original, tmp_path / "source", KIT)
    val = [file for file in original.files if file.split == "val"]
    other = {wnid: next(name for name in CLASSES if name != wnid) for wnid in CLASSES}
    for file in val:
        folder = path / "val" / other[file.wnid]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.name).write_bytes(file.content)
    listing = open_source(path, "imagenet", tmp_path)
    found = {image.name: image.class_name for image in listing.splits["val"]}
    assert found == {file.name: other[file.wnid] for file in val}


def test_the_kit_alone_is_an_error_that_says_what_is_expected(original: Made, tmp_path: Path) -> None:
    path = copy(original, tmp_path / "source", KIT)
    with pytest.raises(
        DataError, match=r"but no images of ILSVRC2012; expected are ILSVRC2012_img_train\.tar or train/"
    ):
        open_source(path, spool_folder=tmp_path)
    assert sorted(tmp_path.iterdir()) == [path]


TRUTH = "kit/ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize(
    ("kit", "message"),
    [
        (tar_of([("kit/meta.mat", b"no MATLAB file" * 30), (TRUTH, b"1\n")], "w:gz"), r"meta\.mat is damaged \("),
        (tar_of([("kit/readme.txt", b"")], "w:gz"), r"has 0 files meta\.mat instead of one"),
        (
            gzip.compress(gzip.decompress(devkit_tar(["n02100735"])).replace(b"2\n", b"6\n")),
            r"is no class's ID in meta.mat: 6",
        ),
        (devkit_tar([])[:500], r"ILSVRC2012_devkit_t12\.tar\.gz is (damaged|cut short)"),
    ],
)
def test_a_damaged_kit_is_an_error(original: Made, tmp_path: Path, kit: bytes, message: str) -> None:
    path = copy(original, tmp_path / "source", TRAIN)
    (path / KIT).write_bytes(kit)
    with pytest.raises(DataError, match=message):
        open_source(path, spool_folder=tmp_path)


def test_other_archives_and_unknown_classes_are_ignored_and_reported(original: Made, tmp_path: Path) -> None:
    path = copy(original, tmp_path / "source", KIT)
    (path / "ILSVRC2012_img_test.tar").write_bytes(b"not looked into")
    (path / "train/n00000001").mkdir(parents=True)
    (path / "train/n02100735").mkdir()
    for name in ("n00000001/a", "n02100735/b", "c"):
        (path / f"train/{name}.JPEG").touch()
    listing = open_source(path, spool_folder=tmp_path)
    assert [str(image) for image in listing.splits["train"]] == ["n02100735/b.JPEG"]
    assert listing.ignored == (
        f"train/c.JPEG is in no folder of a class of {KIT}",
        f"train/n00000001/a.JPEG is in no folder of a class of {KIT}",
        "ILSVRC2012_img_test.tar is not needed",
    )


@pytest.mark.skipif(not REAL_KIT, reason="OWT_MPI_ILSVRC2012_DEVKIT does not name ILSVRC2012_devkit_t12.tar.gz")
def test_the_real_kit_gives_the_known_labels(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(REAL_KIT, source / KIT)
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (3, 5, 1, 2, 4, 50_000)]
    (source / VAL).write_bytes(tar_of([(name, b"") for name in names]))
    (source / "train").mkdir()
    listing = open_source(source, spool_folder=tmp_path)
    labels = {image.name: listing.class_names.index(image.class_name) for image in listing.splits["val"]}
    assert [labels[name] for name in sorted(names)] == [65, 970, 230, 809, 516, 355]
    assert len(listing.class_names) == 1000
    assert sum(listing.expected["train"].values()) == 1_281_167
    assert set(listing.expected["val"].values()) == {50}
    assert listing.class_titles["n02012849"] == listing.class_titles["n03126707"] == "crane"
