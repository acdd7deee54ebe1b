import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.sources import SPOOL_SUFFIX, WHOLE, Listing, open_source
from data_prep.sources import listing as listing_module
from owt_mpi.data.manifest import DataError
from tests.data_prep.conftest import tar_of_tars

Files = dict[str, dict[str, bytes]]
Writers = dict[str, Callable[[Files, Path], Path]]
LAYOUTS = [
    "folder of class folders",
    "tar of class folders",
    "tar of class tars",
    "folder of class tars",
    "zip of class folders",
]


def names(listing: Listing, split: str = WHOLE) -> list[str]:
    return [str(image) for image in listing.splits[split]]


def content(listing: Listing) -> dict[str, bytes]:
    return {str(image): listing.reader.read(image) for images in listing.splits.values() for image in images}


@pytest.mark.parametrize(
    ("layout", "name"),
    [(layout, "source") for layout in LAYOUTS]
    + [(LAYOUTS[2], f"source.tar.{suffix}") for suffix in ("gz", "bz2", "xz")],
)
def test_every_layout_gives_the_same_images_sorted_and_their_bytes(
    layout: str, name: str, files: Files, writers: Writers, tmp_path: Path
) -> None:
    with open_source(writers[layout](files, tmp_path / name), spool_folder=tmp_path / "spool") as listing:
        assert (listing.layout, listing.class_names) == ("class-folders", ("apple", "pear", "quince"))
        assert names(listing) == sorted(f"{folder}/{name}" for folder in files for name in files[folder])
        assert content(listing) == {
            f"{folder}/{name}": files[folder][name] for folder in files for name in files[folder]
        }
        assert (listing.ignored, listing.empty_classes, listing.class_titles) == ((), (), {})


def test_a_compressed_source_is_spooled_until_it_is_closed(files: Files, writers: Writers, tmp_path: Path) -> None:
    path = writers["tar of class folders"](files, tmp_path / "source.tar.gz")
    with open_source(path, spool_folder=tmp_path / "spool") as listing:
        (spooled,) = (tmp_path / "spool").iterdir()
        assert spooled.name.endswith(SPOOL_SUFFIX)
        assert {image.file for image in listing.splits[WHOLE]} == {str(spooled)}
    assert list((tmp_path / "spool").iterdir()) == []


def test_class_tars_in_a_folder_may_be_compressed(files: Files, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for suffix, (class_name, images) in zip(("gz", "bz2", "xz"), files.items(), strict=True):
        tar_of_tars({class_name: images}, tmp_path / f"source/{class_name}.tar.{suffix}")
    with open_source(tmp_path / "source", spool_folder=tmp_path) as listing:
        assert content(listing) == {
            f"{folder}/{name}": files[folder][name] for folder in files for name in files[folder]
        }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pickled_listing_reads_in_another_process(
    layout: str, files: Files, writers: Writers, tmp_path: Path
) -> None:
    listing = open_source(writers[layout](files, tmp_path / "source"))
    before = content(listing)
    pickled = pickle.dumps(listing)  # while its files are open
    listing.close()
    assert content(pickle.loads(pickled)) == before


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_folders_of_splits_are_told_apart_at_any_depth(
    layout: str, files: Files, writers: Writers, tmp_path: Path
) -> None:
    folders = {"train": "train", "Validation": "val", "test": "test"}
    images = {f"top/{folder}/{name}": {f"{folder}.png": b"x"} for folder in folders for name in files}
    listing = open_source(writers[layout](images, tmp_path / "source"))
    assert {split: names(listing, split) for split in listing.splits} == {
        split: [f"{name}/{folder}.png" for name in sorted(files)] for folder, split in folders.items()
    }


def test_tars_named_by_their_split_hold_its_classes(files: Files, writers: Writers, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for split in ("train", "val"):
        writers["tar of class tars"](files, tmp_path / f"source/{split}.tar")
    listing = open_source(tmp_path / "source")
    assert {split: len(images) for split, images in listing.splits.items()} == {"train": 12, "val": 12}
    assert names(listing, "val") == sorted(f"{folder}/{name}" for folder in files for name in files[folder])


@pytest.mark.parametrize("layout", ["folder of class folders", "tar of class tars"])
def test_empty_classes_are_reported_and_have_no_label(
    layout: str, files: Files, writers: Writers, tmp_path: Path
) -> None:
    listing = open_source(writers[layout]({**files, "medlar": {}}, tmp_path / "source"))
    assert listing.empty_classes == ("medlar",)
    assert listing.class_names == ("apple", "pear", "quince")


def test_links_of_the_user_in_a_folder_are_followed_but_not_in_circles(
    files: Files, writers: Writers, tmp_path: Path
) -> None:
    writers["folder of class folders"](files, tmp_path / "there")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/fruit").symlink_to(tmp_path / "there/pear")
    (tmp_path / "there/pear/broken.png").symlink_to("nowhere")
    (tmp_path / "there/pear/again").symlink_to(tmp_path / "here")
    os.mkfifo(tmp_path / "there/pear/pipe.png")
    listing = open_source(tmp_path / "here")
    assert len(listing.splits[WHOLE]) == 5
    assert listing.ignored == (
        "fruit/again is a link to a folder that it is in",
        "fruit/broken.png is not a file, or a broken link",
        "fruit/pipe.png is not a file, or a broken link",
    )


def test_files_that_are_no_images_are_ignored_and_reported(files: Files, writers: Writers, tmp_path: Path) -> None:
    path = writers["folder of class folders"](files, tmp_path / "source")
    for name in ("pear/notes.txt", "pear/._x.png", "lost.png", "pear/huge.png"):
        (path / name).touch()
    os.truncate(path / "pear/huge.png", (1 << 28) + 1)
    assert open_source(path).ignored == (
        "pear/huge.png has 268435457 bytes, too many for an image",
        "lost.png is in no class folder",
        "pear/._x.png is not an image file",
        "pear/notes.txt is not an image file",
    )


def test_a_long_list_of_ignored_files_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "MOST_IGNORED", 2)
    (tmp_path / "pear").mkdir()
    for name in ("a.png", "b.xml", "c.xml", "d.xml", "e.xml"):
        (tmp_path / "pear" / name).touch()
    assert open_source(tmp_path).ignored == (
        "pear/b.xml is not an image file",
        "pear/c.xml is not an image file",
        "2 files more",
    )


def test_names_with_control_and_undecodable_characters_are_made_printable(tmp_path: Path) -> None:
    folder = tmp_path / "source/pe\nar"
    folder.mkdir(parents=True)
    (folder / "\udcff\x1b.png").write_bytes(b"content")
    listing = open_source(tmp_path / "source")
    (image,) = listing.splits[WHOLE]
    assert str(image) == r"pe\nar/\udcff\x1b.png"
    assert listing.reader.read(image) == b"content"


def test_files_named_by_their_class_need_no_folders(files: Files, writers: Writers, tmp_path: Path) -> None:
    images = {"n02093256_dog.JPEG": b"dog", "n01440764_10026.JPEG": b"tench", "cat.JPEG": b"cat"}
    listing = open_source(writers["tar of class folders"]({".": images}, tmp_path / "photos.tar"))
    assert listing.layout == "named-files"
    assert content(listing) == {"n01440764/n01440764_10026.JPEG": b"tench", "n02093256/n02093256_dog.JPEG": b"dog"}
    assert listing.ignored == ("cat.JPEG is not named by its class, as n01440764_1.JPEG is",)


def test_a_source_of_no_known_layout_is_an_error_that_names_what_is_there_and_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "data/pictures").mkdir(parents=True)
    (tmp_path / "data/notes.txt").touch()
    (tmp_path / "data/lost.png").touch()
    with pytest.raises(DataError, match=r"it has lost\.png, notes\.txt, pictures/; expected .* class-folders: class"):
        open_source(tmp_path / "data")


def test_a_named_layout_that_does_not_fit_is_an_error(files: Files, writers: Writers, tmp_path: Path) -> None:
    path = writers["tar of class folders"](files, tmp_path / "source.tar")
    with pytest.raises(
        DataError, match=r"no images in the layout 'named-files' \(ignored 12 files, such as: pear/pear_4"
    ):
        open_source(path, "named-files")
    with pytest.raises(ValueError, match="no layout 'tars'; choose kaggle, "):
        open_source(path, "tars")


def test_splits_beside_classes_are_an_error(files: Files, writers: Writers, tmp_path: Path) -> None:
    both = {**files, "val/pear": files["pear"]}
    with pytest.raises(DataError, match=r"has both pear/pear_4\.PNG and train/, val/ or test/"):
        open_source(writers["tar of class folders"](both, tmp_path / "source.tar"))


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "does not exist"), ("pipe", "is neither a file nor a folder")]
)
def test_a_source_that_is_no_file_or_folder_is_a_wrong_argument(tmp_path: Path, name: str, message: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=f"{name} {message}") as caught:
        open_source(tmp_path / name)
    assert not isinstance(caught.value, DataError)
