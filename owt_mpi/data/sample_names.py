"""What samples are called: class and file name, as the shards keep them."""

from collections.abc import Sequence

from owt_mpi.data.shard_format import ShardReader
from owt_mpi.data.shard_record import read_record


def names_of(shards: ShardReader, samples: Sequence[int]) -> list[str]:
    """Return the names of a few samples. DataError if their shard is damaged."""
    places = [shards.find(sample) for sample in samples]
    names = {path: read_record(path).names for path in {path for path, _ in places}}
    return [names[path][row] for path, row in places]


def all_names(shards: ShardReader) -> list[str]:
    """Return the names of all samples in order. DataError if a shard is damaged."""
    names: list[str] = []
    while len(names) < shards.num_samples:
        names += read_record(shards.find(len(names))[0]).names
    return names
