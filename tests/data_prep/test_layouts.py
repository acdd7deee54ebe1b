import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.layouts import WHOLE, Sample, scan, stream
from owt_mpi.data.manifest import DataError

Files = dict[str, dict[str, bytes]]
Writers = dict[str, Callable[[Files, Path], Path]]
LAYOUTS = ["folder of class folders", "tar of class folders", "tar of class tars"]


def add(path: Path, member: tarfile.TarInfo, content: bytes = b"") -> None:
    member.size = len(content)
    with tarfile.open(path, "a") as archive:
        archive.addfile(member, io.BytesIO(content))


@pytest.fixture(params=[*LAYOUTS, "compressed tar of class tars"])
def source(request: pytest.FixtureRequest, files: Files, writers: Writers, tmp_path: Path) -> Path:
    layout = request.param.removeprefix("compressed ")
    return writers[layout](files, tmp_path / ("source.tar" if layout == request.param else "source.tar.gz"))


def test_every_layout_lists_the_same_samples_sorted(source: Path, files: Files) -> None:
    listing = scan(source)
    expected = sorted(Sample(class_name, name) for class_name in files for name in files[class_name])
    assert listing.samples == {WHOLE: expected}
    assert listing.samples[WHOLE][0] == Sample("apple", "apple_1.PNG")
    assert (listing.ignored, listing.empty_classes) == ((), ())


def test_every_layout_streams_the_bytes_of_the_wanted_samples(source: Path, files: Files) -> None:
    wanted = {Sample("quince", "quince_3.PNG"), Sample("apple", "apple_2.PNG"), Sample("apple", "no such")}
    streamed = dict(stream(source, WHOLE, wanted))
    assert streamed == {sample: files[sample.class_name][sample.name] for sample in wanted if sample.name != "no such"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_is_named(layout: str, files: Files, writers: Writers, tmp_path: Path) -> None:
    assert scan(writers[layout](files, tmp_path / "source")).layout == layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_of_splits_are_told_apart_at_any_depth(
    layout: str, files: Files, writers: Writers, tmp_path: Path
) -> None:
    folders = {"train": "train", "Validation": "val", "test": "test"}
    images = {f"top/{folder}/{name}": {f"{folder}.png": b"x"} for folder in folders for name in files}
    listing = scan(writers[layout](images, tmp_path / "source"))
    assert listing.samples == {
        role: [Sample(name, f"{folder}.png") for name in sorted(files)] for folder, role in folders.items()
    }


def test_links_devices_and_other_files_in_a_tar_are_ignored_and_reported(
    files: Files, writers: Writers, tmp_path: Path
) -> None:
    path = writers["tar of class folders"](files, tmp_path / "source.tar")
    for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.CHRTYPE)):
        member = tarfile.TarInfo(f"pear/{name}")
        member.type, member.linkname = kind, "/etc/passwd"
        add(path, member)
    for name in ("pear/notes.txt", "pear/._x.png", "lost.png"):
        add(path, tarfile.TarInfo(name), b"content")
    listing = scan(path)
    assert sum(map(len, listing.samples.values())) == 12
    assert listing.ignored == (
        "pear/a.png is a link or a device",
        "pear/b.png is a link or a device",
        "pear/c.png is a link or a device",
        "pear/notes.txt is not an image file",
        "pear/._x.png is not an image file",
        "lost.png is in no class folder",
    )
    assert len(list(stream(path, WHOLE, {Sample("pear", "a.png"), Sample("pear", "notes.txt")}))) == 0


def test_hostile_member_names_are_mere_labels(files: Files, writers: Writers, tmp_path: Path) -> None:
    path = writers["tar of class folders"](files, tmp_path / "source.tar")
    add(path, tarfile.TarInfo("/../../pear/\x1b[31m\udcff.png"), b"content")
    before = sorted(tmp_path.iterdir())
    sample = Sample("pear", "\\x1b[31m\\udcff.png")
    assert sample in scan(path).samples[WHOLE]
    assert dict(stream(path, WHOLE, {sample})) == {sample: b"content"}
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("layout", ["folder of class folders", "tar of class tars"])
def test_empty_classes_are_reported(layout: str, files: Files, writers: Writers, tmp_path: Path) -> None:
    listing = scan(writers[layout]({**files, "medlar": {}}, tmp_path / "source"))
    assert listing.empty_classes == ("medlar",)


def test_links_of_the_user_in_a_folder_are_followed(files: Files, writers: Writers, tmp_path: Path) -> None:
    writers["folder of class folders"](files, tmp_path / "there")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/fruit").symlink_to(tmp_path / "there/pear")
    (tmp_path / "here/fruit/broken.png").symlink_to("nowhere")
    listing = scan(tmp_path / "here")
    assert len(listing.samples[WHOLE]) == 5
    assert listing.ignored == ("fruit/broken.png is not a file, or a broken link",)


def test_a_file_too_large_for_an_image_is_not_read(files: Files, writers: Writers, tmp_path: Path) -> None:
    path = writers["folder of class folders"](files, tmp_path / "source")
    (path / "pear/huge.png").touch()
    os.truncate(path / "pear/huge.png", (1 << 28) + 1)
    assert scan(path).ignored == ("pear/huge.png has 268435457 bytes, too many for an image",)


def test_source_without_images_is_an_error_that_names_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no images \(ignored 1 files, such as: notes.txt.*expected are class folders"):
        scan(tmp_path)


def test_splits_beside_classes_are_an_error(files: Files, writers: Writers, tmp_path: Path) -> None:
    both = {**files, "val/pear": files["pear"]}
    with pytest.raises(DataError, match=r"has both pear/pear_4\.PNG and train/, val/ or test/"):
        scan(writers["tar of class folders"](both, tmp_path / "source.tar"))


def test_the_same_name_twice_is_an_error(files: Files, writers: Writers, tmp_path: Path) -> None:
    path = writers["tar of class folders"](files, tmp_path / "source.tar")
    add(path, tarfile.TarInfo("elsewhere/pear/pear_2.PNG"), b"content")
    with pytest.raises(DataError, match=r"has pear/pear_2\.PNG twice"):
        scan(path)


@pytest.mark.parametrize("name", ["source.tar", "source.tar.gz"])
@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_a_truncated_archive_is_an_error(
    layout: str, name: str, files: Files, writers: Writers, tmp_path: Path
) -> None:
    path = writers[layout](files, tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(DataError, match=f"{name} is damaged or not a tar archive"):
        scan(path)


def test_no_archive_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match="damaged or not a tar archive"):
        scan(tmp_path / "x.tar")


def test_a_missing_source_is_a_wrong_option(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist") as caught:
        scan(tmp_path / "nowhere")
    assert not isinstance(caught.value, DataError)
