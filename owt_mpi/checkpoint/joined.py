"""The file of a checkpoint that shows its parts as global arrays to any program with HDF5: none of ours reads it."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import h5py

from owt_mpi.checkpoint.format import FORMAT_NAME, FORMAT_VERSION, FileEntry, finished_entry
from owt_mpi.checkpoint.global_array import open_arrays
from owt_mpi.plain_hdf5.writer import MemoryHdf5


def write_joined(path: Path, part_files: Sequence[Path]) -> FileEntry:
    """Write the file and bring it to the disk; return what the manifest says of it. The parts lie in its folder.

    CheckpointError if they do not hold every array once and whole.
    """
    with ExitStack() as opened, MemoryHdf5() as memory:
        file = memory.file
        file.attrs["format"], file.attrs["format_version"] = FORMAT_NAME, FORMAT_VERSION
        for name, array in sorted(open_arrays(part_files, opened).items()):
            layout = h5py.VirtualLayout(array.shape, array.dtype)
            for block in array.blocks:
                layout[block.where] = h5py.VirtualSource(block.file.name, name, block.array.shape)
            file.create_virtual_dataset(name, layout)
        path.write_bytes(memory.content())
    return finished_entry(path)
