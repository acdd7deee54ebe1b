"""Where the members of a zip are: stored ones as they are, deflated ones as a range that is inflated when read."""

import os
import stat
import struct
import sys
import zipfile
from typing import IO

from data_prep.sources.tree import Entry, Tree, clean_member
from owt_mpi.data.manifest import DataError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # magic, ..., the lengths of the name and of the extra field
_BROKEN = (zipfile.BadZipFile, OSError, EOFError, ValueError, struct.error, NotImplementedError)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def index_zip(tree: Tree, file: IO[bytes], path: str, label: str) -> None:
    """Add the members of the zip `file`, which is at `path`, to `tree`. DataError if it is cut short or damaged."""
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                _add(tree, file.fileno(), path, member, label)
    except _BROKEN as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{label} is damaged or cut short ({error}); fetch it again") from error


def _add(tree: Tree, descriptor: int, file: str, member: zipfile.ZipInfo, label: str) -> None:
    path, refusal = clean_member(member.filename)
    refusal = refusal or _refusal(member)
    if refusal:
        tree.refused.append(f"{path} {refusal}")
    elif member.is_dir():
        tree.folders.add(path)
    else:
        folder, _, name = path.rpartition("/")
        deflated = member.compress_size if member.compress_type == zipfile.ZIP_DEFLATED else 0
        offset = _data_offset(descriptor, member, label)
        tree.add(Entry(sys.intern(folder), name, file, offset, member.file_size, deflated))


def _refusal(member: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type not in _METHODS:
        return f"is compressed by method {member.compress_type}, not stored or deflated"
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        return f"is stored, but {member.compress_size} bytes are said to hold {member.file_size}"
    return ""


def _data_offset(descriptor: int, member: zipfile.ZipInfo, label: str) -> int:
    header = os.pread(descriptor, _LOCAL_HEADER.size, member.header_offset)
    magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    offset = member.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes)
    if magic != b"PK\3\4" or offset + member.compress_size > os.fstat(descriptor).st_size:
        raise DataError(f"{label} is damaged: it has no {clean_member(member.filename)[0]}; fetch it again")
    return offset
