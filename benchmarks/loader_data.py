"""The images of encoded shards as other programs read them: class folders, and a tar of named samples."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from owt_mpi.data.shard_format import ShardReader
from owt_mpi.data.shard_record import read_record


def write_class_folders(shards: Path, folder: Path) -> None:
    """Write the training images of encoded shards as CLASS/file, byte for byte."""
    for name, _, content in _samples(shards):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_web_tar(shards: Path, path: Path) -> None:
    """Write them as a tar of INDEX.jpg and INDEX.cls, as WebDataset reads it."""
    with tarfile.open(path, "w") as archive:
        for index, (_, label, content) in enumerate(_samples(shards)):
            for suffix, data in (("jpg", content), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{index:06d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def _samples(shards: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, label and bytes of each training image."""
    reader = ShardReader(shards, "train")
    for index in range(reader.num_samples):
        path, row = reader.find(index)
        yield read_record(path).names[row], int(reader.labels[index]), reader.encoded(index)
    reader.close()
