"""Reads the images of encoded shards: windows of them are decoded by threads, straight into the batch."""

import numpy as np

from owt_mpi.data.decode import BROKEN, Crew, decode_window, silence_pillow
from owt_mpi.data.manifest import DataError, Statistics
from owt_mpi.data.readers import check_indices
from owt_mpi.data.shard_format import ShardReader


class JpegReader:
    """The Reader of a split that `shards` hold in jpeg storage; `num_threads` decode, the caller's among them.

    With `use_draft` large JPEGs are decoded at a smaller scale where that is enough for the window (data.decode):
    pixels differ a little from those of a full decode, and do not depend on ranks or threads.
    """

    def __init__(self, shards: ShardReader, num_threads: int, use_draft: bool = False) -> None:
        assert shards.storage == "jpeg"
        silence_pillow()
        self.shards = shards
        self._crew = Crew(num_threads)
        self._use_draft = use_draft

    @property
    def num_samples(self) -> int:
        """The number of images."""
        return self.shards.num_samples

    @property
    def num_classes(self) -> int:
        """The number of classes; labels are smaller."""
        return self.shards.num_classes

    @property
    def num_channels(self) -> int:
        """The number of channels that images are decoded to."""
        return self.shards.manifest.image_shape[2]

    @property
    def statistics(self) -> Statistics:
        """The moments of the training set's pixels."""
        return self.shards.statistics

    def describe(self) -> str:
        """Return one line: where the data is, how much, and how it is read."""
        smaller = ", at a smaller scale where that is enough" if self._use_draft else ""
        return f"{self.shards.describe()}, decoded by {self._crew.num_threads} threads a rank{smaller}"

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        """Return the heights and widths of the samples `indices`, int64 (n, 2)."""
        return self.shards.sizes(indices)

    def read_windows(self, indices: np.ndarray, windows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Decode the `windows` of the samples `indices` into `out`, return their labels; see Reader.

        DataError, with file, row and name, for an image that cannot be decoded, or if its shard has changed.
        """
        check_indices(indices, self.num_samples)
        samples, places = indices.tolist(), windows.tolist()

        def decode(row: int) -> None:
            try:
                decode_window(self.shards.encoded(samples[row]), places[row], out[row], self._use_draft)
            except BROKEN as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(f"{self.shards.describe_sample(samples[row])} cannot be decoded: {error}") from error

        self._crew.each_row(decode, len(samples))
        self.shards.check_unchanged(indices)
        return np.asarray(self.shards.labels[indices])

    def will_need(self, indices: np.ndarray) -> None:
        """Have the files of the samples `indices` fetched from the disk; see Reader."""
        self.shards.will_need(indices)

    def close(self) -> None:
        """End the threads and give the files back."""
        self._crew.close()
        self.shards.close()
