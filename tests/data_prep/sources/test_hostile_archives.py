"""Archives that lie, point elsewhere or are damaged: refused or reported, never followed, never silently short."""

import gzip
import io
import os
import resource
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.sources import WHOLE, open_source, spool
from owt_mpi.data.manifest import DataError
from tests.data_prep.conftest import add, tar_of

Files = dict[str, dict[str, bytes]]
Writers = dict[str, Callable[[Files, Path], Path]]


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: str) -> bytes:
    """Return the blocks of a member's header, without its data."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    member.linkname = fields.get("linkname", "")
    return member.tobuf(tarfile.GNU_FORMAT)


def with_size_field(block: bytes, field: bytes) -> bytes:
    """Return a header with another size field and the right checksum."""
    block = block[:124] + field + block[136:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def negative(size: int) -> bytes:
    """Return a size field with -`size`, as GNU tar would write it."""
    return (-size).to_bytes(12, "big", signed=True)


def write_tar(path: Path, *blocks: bytes, end: bytes = b"\0" * 1024) -> Path:
    good = header("pear/good.png", 4) + b"good" + b"\0" * 508
    path.write_bytes(good + b"".join(blocks) + end)
    return path


def listed(path: Path) -> tuple[list[str], tuple[str, ...]]:
    listing = open_source(path, spool_folder=path.parent)
    return [str(image) for image in listing.splits[WHOLE]], listing.ignored


@pytest.mark.parametrize(
    ("block", "ignored"),
    [
        (header("pear/a.png", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), "pear/a.png is a link or a device"),
        (header("pear/a.png", kind=tarfile.LNKTYPE, linkname="pear/a.png"), "pear/a.png is a link or a device"),
        (header("pear/a.png", kind=tarfile.CHRTYPE), "pear/a.png is a link or a device"),
        (header("pear/a.png", kind=tarfile.FIFOTYPE), "pear/a.png is a link or a device"),
        (header("pear/a.png", kind=tarfile.GNUTYPE_SPARSE), "pear/a.png is a sparse file"),
        (header("/etc/pear/a.png"), "etc/pear/a.png has an absolute name"),
        (header("pear/../../a.png"), "pear/../../a.png has .. in its name"),
        (header("pear/../"), "pear/.. has .. in its name"),
        (header("pear/" + "a" * 300 + ".png"), f"pear/{'a' * 35}... has a name of 309 characters"),
        (header("a/" * 3000 + "b.png"), f"{'a/' * 20}... has a name of 6005 characters"),
        (header("a.png"), "a.png is in no class folder"),
        (header(""), "a member without a name"),
        (header("pear/a\x1b[2J.txt"), r"pear/a\x1b[2J.txt is not an image file"),
    ],
)
def test_members_that_are_no_plain_files_are_ignored_and_reported(tmp_path: Path, block: bytes, ignored: str) -> None:
    before = sorted(tmp_path.iterdir())
    assert listed(write_tar(tmp_path / "source.tar", block)) == (["pear/good.png"], (ignored,))
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "source.tar"]


def test_control_characters_in_a_member_name_are_escaped(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "source.tar", header("./pear//\x1b[31m\udcff.png"))
    assert listed(path) == ([r"pear/\x1b[31m\udcff.png", "pear/good.png"], ())


def test_long_names_of_both_kinds_are_read(tmp_path: Path) -> None:
    name = "pear/" + "é" * 100 + ".png"
    for tar_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / f"{tar_format}.tar", "w", format=tar_format) as archive:
            add(archive, name, b"long")
            add(archive, "pear/b.png", b"b")
        listing = open_source(tmp_path / f"{tar_format}.tar")
        assert [(str(image), listing.reader.read(image)) for image in listing.splits[WHOLE]] == [
            ("pear/b.png", b"b"),
            (name, b"long"),
        ]


@pytest.mark.parametrize("second", ["pear/./good.png", "elsewhere/pear/good.png", "pear/a\x01.png"])
def test_names_that_are_the_same_after_cleaning_are_an_error_with_both_places(tmp_path: Path, second: str) -> None:
    path = write_tar(tmp_path / "source.tar", header(r"pear/a\x01.png"), header(second))
    with pytest.raises(DataError, match=r"has pear/\S+\.png twice, in \S+source\.tar at byte \d+ and .*; remove or"):
        open_source(path)


NEGATIVE = "source.tar: pear/a.png has a negative size|source.tar is damaged"  # newer Pythons refuse the header


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (header("pear/a.png", 1 << 40), "cut short: of the 1099511627776 bytes of pear/a.png it has 1024"),
        (with_size_field(header("pear/a.png"), negative(256)), NEGATIVE),
        (with_size_field(header("pear/a.png"), negative(1536)), NEGATIVE),
        (
            header("pear/b.png") + with_size_field(header("pear/a.png", kind=tarfile.GNUTYPE_SPARSE), negative(1024)),
            NEGATIVE,
        ),
        (with_size_field(header("x", kind=tarfile.GNUTYPE_LONGNAME), negative(256)), "source.tar is damaged"),
        (with_size_field(header("pear/a.png", kind=b"Z"), b"\x80" + b"\x7f" * 11), "source.tar is damaged"),
        (header("x", 1 << 33, tarfile.GNUTYPE_LONGNAME), "source.tar is damaged .*a header of 8589934592 bytes"),
        (header("x", 1 << 33, tarfile.XHDTYPE), "source.tar is damaged .*a header of 8589934592 bytes"),
        (header("x", 0, tarfile.GNUTYPE_LONGNAME) * 20_000, "source.tar is damaged"),
        (b"\x80" * 512, "source.tar is damaged: at byte 1024 is no header of a member"),
    ],
)
def test_lying_and_damaged_headers_are_errors(tmp_path: Path, block: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(write_tar(tmp_path / "source.tar", block))


@pytest.mark.parametrize("end", [b"", b"\0" * 511, header("pear/a.png")[:300]])
def test_a_tar_without_its_end_is_cut_short(tmp_path: Path, end: bytes) -> None:
    with pytest.raises(DataError, match="cut short: it ends without the blocks of zeros"):
        open_source(write_tar(tmp_path / "source.tar", end=end))


@pytest.mark.parametrize("cut", [1 / 3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["source.tar", "source.tar.gz", "source.tar.xz", "source.zip"])
def test_a_truncated_archive_is_an_error_and_leaves_nothing(
    name: str, cut: float, files: Files, writers: Writers, tmp_path: Path
) -> None:
    layout = "zip of class folders" if name.endswith("zip") else "tar of class folders"
    path = writers[layout](files, tmp_path / name)
    end = path.read_bytes().rstrip(b"\0")
    path.write_bytes(end[: int(len(end) * cut)])
    with pytest.raises(DataError, match=f"{name} is (damaged|cut short)"):
        open_source(path, spool_folder=tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("cut", "message"), [(800, r"of the \d+ bytes of pear_4\.PNG"), (1024, "it ends without the blocks of zeros")]
)
@pytest.mark.parametrize("nested", [True, False])
def test_a_truncated_class_tar_is_named_and_does_not_take_its_neighbours_images(
    nested: bool, cut: int, message: str, files: Files, writers: Writers, tmp_path: Path
) -> None:
    folder = writers["folder of class tars"](files, tmp_path / "source")
    os.truncate(folder / "pear.tar", cut)
    path = folder
    if nested:
        path = tmp_path / "source.tar"
        with tarfile.open(path, "w") as archive:
            for name in ("quince", "pear", "apple"):
                archive.add(folder / f"{name}.tar", f"{name}.tar")
    with pytest.raises(DataError, match=rf"source(\.tar)?: pear\.tar is cut short: {message}"):
        open_source(path)


def test_no_archive_at_all_is_an_error(tmp_path: Path) -> None:
    for content in (b"x" * 2000, b"", b"\x1f\x8b nothing", b"PK\3\4 nothing"):
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.tar is (damaged|cut short)"):
            open_source(tmp_path / "x.tar", spool_folder=tmp_path)


def test_a_class_tar_that_is_there_twice_is_reported(files: Files, writers: Writers, tmp_path: Path) -> None:
    folder = writers["folder of class tars"](files, tmp_path / "folder")
    with tarfile.open(tmp_path / "source.tar", "w") as archive:
        for name in ("pear", "apple", "quince"):
            archive.add(folder / f"{name}.tar", "pear.tar" if name == "quince" else f"{name}.tar")
    names, ignored = listed(tmp_path / "source.tar")
    assert names == sorted(f"{folder}/{name}" for folder in ("apple", "pear") for name in files[folder])
    assert ignored == ("pear.tar is there twice, and left out the second time",)


def test_archives_of_one_name_but_for_their_suffix_hide_nothing_of_each_other(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for suffix in ("tar", "tgz"):
        files = [(f"{suffix}.png", b"image"), ("more.tar", tar_of([(f"{suffix}.png", b"inner")]))]
        (tmp_path / f"source/pear.{suffix}").write_bytes(tar_of(files, "w:gz" if suffix == "tgz" else "w"))
    names, ignored = listed(tmp_path / "source")
    assert names == ["more/tar.png", "pear/tar.png", "pear/tgz.png"]
    assert ignored == ("pear/more.tar is there twice, and left out the second time",)


def test_archives_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    content = b""
    for depth in range(5):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            add(archive, f"{depth}.png", b"image")
            if content:
                add(archive, f"{depth}.tar", content)
        content = buffer.getvalue()
    (tmp_path / "source.tar").write_bytes(content)
    names, ignored = listed(tmp_path / "source.tar")
    assert names == ["3/2.png", "4/3.png"]
    assert ignored[0] == "4/3/2.tar is an archive too deep in others"


def test_a_compressed_bomb_is_refused_and_its_remains_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "SMALL_BYTES", 1 << 21)
    path = tmp_path / "source.tar.gz"
    path.write_bytes(gzip.compress(header("pear/a.png", 1 << 24) + b"\0" * (1 << 24)))
    with pytest.raises(DataError, match="unpacks to more than 2097152 bytes, too many for images"):
        open_source(path, spool_folder=tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_with_a_way_out_and_leaves_nothing(
    files: Files, writers: Writers, tmp_path: Path
) -> None:
    path = writers["tar of class folders"](files, tmp_path / "source.tar.gz")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(
            DataError, match=r"spool\.tmp cannot be written \(File too large\): .* make room, or unpack"
        ):
            open_source(path, spool_folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]


def zip_member(
    name: str, content: bytes = b"", mode: int = 0o100644, method: int = zipfile.ZIP_STORED
) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr, member.compress_type = mode << 16, method
    return member


def test_members_of_a_zip_that_are_no_plain_files_are_ignored_and_reported(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        for member in (
            zip_member("pear/good.png"),
            zip_member("pear/link.png", mode=0o120777),
            zip_member("/pear/absolute.png"),
            zip_member("../pear/up.png"),
            zip_member("pear/lzma.png", method=zipfile.ZIP_LZMA),
        ):
            archive.writestr(member, b"/etc/passwd")
    assert listed(tmp_path / "source.zip") == (
        ["pear/good.png"],
        (
            "pear/link.png is a link or a device",
            "pear/absolute.png has an absolute name",
            "../pear/up.png has .. in its name",
            "pear/lzma.png is compressed by method 14, not stored or deflated",
        ),
    )


def test_a_zip_with_an_undecodable_name_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pear/é.png", b"content")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match=r"source\.zip is damaged or cut short \('utf-8' codec"):
        open_source(path)


def test_encrypted_and_lying_members_of_a_zip_are_ignored_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("good", "encrypted", "lying"):
            archive.writestr(zip_member(f"pear/{name}.png"), b"content")
    content = bytearray(path.read_bytes())
    for name, offset, field in (("encrypted", 8, struct.pack("<H", 1)), ("lying", 24, struct.pack("<L", 9))):
        start = content.rindex(f"pear/{name}.png".encode()) - 46 + offset  # in the central directory
        content[start : start + len(field)] = field
    path.write_bytes(content)
    assert listed(path) == (
        ["pear/good.png"],
        ("pear/encrypted.png is encrypted", "pear/lying.png is stored, but 7 bytes are said to hold 9"),
    )
