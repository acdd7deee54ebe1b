import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.sources import WHOLE, Listing, open_source, reader
from owt_mpi.data.decode import ImageError
from owt_mpi.data.manifest import DataError
from tests.data_prep.conftest import add

Files = dict[str, dict[str, bytes]]
Writers = dict[str, Callable[[Files, Path], Path]]


def first(listing: Listing) -> bytes:
    return listing.reader.read(listing.splits[WHOLE][0])


def test_an_archive_that_changes_after_it_was_listed_is_an_error(
    files: Files, writers: Writers, tmp_path: Path
) -> None:
    path = writers["tar of class folders"](files, tmp_path / "source.tar")
    listing = open_source(path)
    with tarfile.open(path, "a") as archive:
        add(archive, "pear/late.png", b"late")
    with pytest.raises(DataError, match=r"source\.tar has changed since it was listed; leave it alone"):
        first(listing)


def test_an_archive_cut_or_gone_while_it_is_read_is_an_error(files: Files, writers: Writers, tmp_path: Path) -> None:
    path = writers["tar of class folders"](files, tmp_path / "source.tar")
    listing = open_source(path)
    assert first(listing) == files["apple"]["apple_1.PNG"]
    os.truncate(path, 1000)
    with pytest.raises(DataError, match=r"become shorter since it was listed \(apple/apple_1.PNG\)"):
        first(listing)
    listing.reader.close()
    path.unlink()
    with pytest.raises(DataError, match=r"source\.tar cannot be read .*No such file"):
        first(listing)


def test_a_file_that_changes_after_it_was_listed_is_an_unusable_image(
    files: Files, writers: Writers, tmp_path: Path
) -> None:
    path = writers["folder of class folders"](files, tmp_path / "source")
    listing = open_source(path)
    for change, message in (
        (lambda file: file.write_bytes(b"other"), "had 4.. bytes when it was listed, and now has not"),
        (lambda file: file.unlink(), "cannot be read .No such file"),
    ):
        change(path / "apple/apple_1.PNG")
        with pytest.raises(ImageError, match=message):
            first(listing)


def test_a_deflated_member_that_is_damaged_or_lies_is_an_unusable_image(tmp_path: Path) -> None:
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pear/a.png", bytes(1000))
    listing = open_source(path)
    (image,) = listing.splits[WHOLE]
    for wrong, message in (
        (image._replace(size=999), "does not hold 999 bytes as it says"),
        (image._replace(deflated=image.deflated - 3), "does not hold 1000 bytes as it says"),
        (image._replace(offset=0), "its zip member is damaged"),
    ):
        with pytest.raises(ImageError, match=message):
            listing.reader.read(wrong)


def test_few_files_are_open_at_once(
    files: Files, writers: Writers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_OPEN_FILES", 2)
    listing = open_source(writers["folder of class tars"](files, tmp_path / "source"))
    before = len(os.listdir("/proc/self/fd"))
    for image in [*listing.splits[WHOLE], *listing.splits[WHOLE]]:
        assert listing.reader.read(image) == files[image.class_name][image.name]
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    listing.close()
    assert len(os.listdir("/proc/self/fd")) == before
