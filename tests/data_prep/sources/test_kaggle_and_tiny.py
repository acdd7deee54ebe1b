import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.sources import open_source
from owt_mpi.data.manifest import DataError
from tests.data_prep.conftest import tar_of

Contents = dict[str, bytes]

KAGGLE: Contents = {
    "ILSVRC/Data/CLS-LOC/train/n02100735/n02100735_7.JPEG": b"setter",
    "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG": b"tench 10026",
    "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_9.JPEG": b"tench 9",
    "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG": b"val 2",
    "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG": b"val 1",
    "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000003.JPEG": b"val 3, without a label",
    "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG": b"test 1",
    "ILSVRC/ImageSets/CLS-LOC/train_cls.txt": (
        b"n01440764/n01440764_10026 1\nn01440764/n01440764_9 2\nn02100735/n02100735_7 3\n"
    ),
    "LOC_val_solution.csv": (
        b"ImageId,PredictionString\n"
        b"ILSVRC2012_val_00000002,n01440764 85 1 499 272 n02100735 1 2 3 4\n"
        b"ILSVRC2012_val_00000001,n02100735 1 2 3 4\n"
    ),
    "LOC_synset_mapping.txt": b"n01440764 tench, Tinca tinca\nn02100735 English setter\n",
}

TINY: Contents = {
    "tiny-imagenet-200/wnids.txt": b"n02100735\nn01440764\n",
    "tiny-imagenet-200/words.txt": b"n00001740\tentity\nn01440764\ttench, Tinca tinca\nn02100735\tEnglish setter\n",
    "tiny-imagenet-200/train/n02100735/images/n02100735_0.JPEG": b"setter 0",
    "tiny-imagenet-200/train/n01440764/images/n01440764_0.JPEG": b"tench 0",
    "tiny-imagenet-200/train/n01440764/images/n01440764_1.JPEG": b"tench 1",
    "tiny-imagenet-200/train/n01440764/n01440764_boxes.txt": b"n01440764_0.JPEG\t0\t32\t44\t62\n",
    "tiny-imagenet-200/val/images/val_0.JPEG": b"val 0",
    "tiny-imagenet-200/val/images/val_1.JPEG": b"val 1",
    "tiny-imagenet-200/val/images/val_2.JPEG": b"val 2, without a label",
    "tiny-imagenet-200/val/val_annotations.txt": (
        b"val_0.JPEG\tn02100735\t0\t32\t44\t62\nval_1.JPEG\tn01440764\t5\t0\t9\t9\n"
    ),
    "tiny-imagenet-200/test/images/test_0.JPEG": b"test 0",
}


def as_folder(contents: Contents, path: Path) -> Path:
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def as_tar(contents: Contents, path: Path) -> Path:
    path.write_bytes(tar_of(list(contents.items()), "w:gz"))
    return path


def as_zip(contents: Contents, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(params=[as_folder, as_tar, as_zip])
def write(request: pytest.FixtureRequest) -> Callable[[Contents, Path], Path]:
    return request.param  # type: ignore[no-any-return]


Write = Callable[[Contents, Path], Path]


def images_of(path: Path, layout: str, spool_folder: Path) -> dict[str, dict[str, bytes]]:
    with open_source(path, spool_folder=spool_folder) as listing:
        assert listing.layout == layout
        assert listing.class_names == ("n01440764", "n02100735")
        assert listing.class_titles == {"n01440764": "tench, Tinca tinca", "n02100735": "English setter"}
        return {
            split: {str(image): listing.reader.read(image) for image in images}
            for split, images in listing.splits.items()
        }


def test_kaggles_images_have_the_labels_of_its_tables(write: Write, tmp_path: Path) -> None:
    assert images_of(write(KAGGLE, tmp_path / "source"), "kaggle", tmp_path) == {
        "train": {
            "n01440764/n01440764_10026.JPEG": b"tench 10026",
            "n01440764/n01440764_9.JPEG": b"tench 9",
            "n02100735/n02100735_7.JPEG": b"setter",
        },
        "val": {
            "n01440764/ILSVRC2012_val_00000002.JPEG": b"val 2",
            "n02100735/ILSVRC2012_val_00000001.JPEG": b"val 1",
        },
    }


def test_what_kaggle_gives_no_label_is_ignored_and_reported(tmp_path: Path) -> None:
    listing = open_source(as_folder(KAGGLE, tmp_path / "source"))
    assert listing.ignored == (
        "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000003.JPEG has no label",
        "ILSVRC/Data/CLS-LOC/test: 1 images without labels",
    )


def test_kaggles_lists_tell_what_is_missing(tmp_path: Path) -> None:
    lost = ("n01440764_9.JPEG", "val_00000001.JPEG")
    contents = {name: content for name, content in KAGGLE.items() if not name.endswith(lost)}
    assert open_source(as_folder(contents, tmp_path / "source")).miscounts() == [
        "val: class n02100735 has 0 images instead of 1",
        "train: class n01440764 has 1 images instead of 2",
    ]


def test_kaggles_validation_images_without_their_table_are_an_error(tmp_path: Path) -> None:
    contents = {name: content for name, content in KAGGLE.items() if not name.endswith(".csv")}
    with pytest.raises(DataError, match=r"has ILSVRC/Data/CLS-LOC/val, but not its labels, LOC_val_solution\.csv"):
        open_source(as_folder(contents, tmp_path / "source"))


@pytest.mark.parametrize(
    "table", [b"", b"a,b\n1,2\n", b"ImageId,PredictionString\nx\n", b"ImageId,PredictionString\nx,\n"]
)
def test_a_damaged_table_of_kaggles_is_an_error(tmp_path: Path, table: bytes) -> None:
    path = as_folder({**KAGGLE, "LOC_val_solution.csv": table}, tmp_path / "source")
    if table:
        with pytest.raises(DataError, match=r"LOC_val_solution\.csv is not a table of ImageId and PredictionString"):
            open_source(path)
    else:
        assert list(open_source(path).splits) == ["train"]


def test_tiny_imagenets_images_have_the_labels_of_its_tables(write: Write, tmp_path: Path) -> None:
    assert images_of(write(TINY, tmp_path / "source"), "tiny-imagenet", tmp_path) == {
        "train": {
            "n01440764/n01440764_0.JPEG": b"tench 0",
            "n01440764/n01440764_1.JPEG": b"tench 1",
            "n02100735/n02100735_0.JPEG": b"setter 0",
        },
        "val": {"n01440764/val_1.JPEG": b"val 1", "n02100735/val_0.JPEG": b"val 0"},
    }


def test_what_tiny_imagenet_gives_no_label_is_ignored_and_missing_images_counted(tmp_path: Path) -> None:
    contents = {name: content for name, content in TINY.items() if not name.endswith("val_0.JPEG")}
    listing = open_source(as_folder(contents, tmp_path / "source"))
    assert listing.ignored == (
        "tiny-imagenet-200/val/images/val_2.JPEG has no label",
        "tiny-imagenet-200/test: 1 images without labels",
    )
    assert listing.miscounts() == ["val: class n02100735 has 0 images instead of 1"]


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt"])
def test_tiny_imagenet_without_one_of_its_tables_is_an_error(tmp_path: Path, name: str) -> None:
    contents = {path: content for path, content in TINY.items() if not path.endswith(name)}
    with pytest.raises(DataError, match=f"has no {name}; expected is tiny-imagenet-200/ with"):
        open_source(as_folder(contents, tmp_path / "source"))
