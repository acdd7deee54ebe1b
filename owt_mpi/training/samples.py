"""What the network says of a few validation images, always the same ones, kept in the run's folder for the report."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.data.augment import CentreView
from owt_mpi.data.facts import DataFacts
from owt_mpi.data.jpeg_reader import JpegReader
from owt_mpi.data.loader import Loader
from owt_mpi.data.manifest import DataError
from owt_mpi.data.readers import Reader
from owt_mpi.data.sample_names import names_of
from owt_mpi.data.sampler import PADDING
from owt_mpi.data.shard_format import ShardReader
from owt_mpi.disk import write_whole
from owt_mpi.outputs import outputs_of
from owt_mpi.parallel.sharded import class_scores
from owt_mpi.spans import about
from owt_mpi.trainer import Trainer

_LARGEST_SIDE = 112  # of the pictures that are kept
_LARGEST_PNG_SIDE = 48  # larger ones are photographs: JPEG takes a tenth
_MOST_CLASSES = 5


class SampleRecorder:
    """Writes the classes that the network names for some images, with small pictures of these, to `file`.

    `loader` gives the images as one batch of a SamplePlan; `reader` has their pixels, of which the centre of side
    `crop` is shown, as the network sees it.
    """

    def __init__(self, loader: Loader, reader: Reader, facts: DataFacts, crop: int, file: Path) -> None:
        self._loader, self._reader, self._facts, self._crop, self._file = loader, reader, facts, crop, file

    def record(self, trainer: Trainer, epoch: int, step: int) -> str | None:
        """Replace the file, on rank 0, and return what is to be said if that cannot be. All ranks call."""
        (batch,) = self._loader.epoch(0)
        order = self._loader.plan.order(0)
        chosen = order[order != PADDING]
        logits, _ = outputs_of(trainer, batch, None)
        with np.errstate(invalid="ignore", over="ignore"):
            scores = class_scores(trainer.model.loss, logits, SerialCommunicator())
        best = np.argsort(-scores, axis=1, kind="stable")[:, :_MOST_CLASSES]
        with about("samples"):
            own = np.stack([best, np.take_along_axis(scores, best, axis=1)], axis=1)
            answers = trainer.layout.world.start_all_gather(own).wait()[: len(chosen)]
        if trainer.layout.world.rank != 0:
            return None
        try:
            content = {"epoch": epoch, "step": step, "images": self._describe(chosen, answers)}
            write_whole(self._file, (json.dumps(content, indent=1) + "\n").encode())
        except (DataError, OSError) as error:
            return f"WARNING: {self._file} could not be written ({error}); the training goes on"
        return None

    def _describe(self, samples: np.ndarray, answers: np.ndarray) -> list[dict[str, Any]]:
        """Return a dictionary for each of the samples; `answers` (n, 2, classes) are best classes and their scores."""
        shards = self._reader.shards if isinstance(self._reader, JpegReader) else self._reader
        names = names_of(shards, samples.tolist()) if isinstance(shards, ShardReader) else [""] * len(samples)
        titles, pictures = self._facts.titles, self._pictures(samples)
        described = []
        for name, (label, picture), (classes, scores) in zip(names, pictures, answers, strict=True):
            named = [
                {"title": titles[int(each)], "score": float(score) if np.isfinite(score) else None}
                for each, score in zip(classes, scores, strict=True)
            ]
            described.append({"name": name, "title": titles[label], "classes": named, "picture": picture})
        return described

    def _pictures(self, samples: np.ndarray) -> list[tuple[int, str]]:
        """Return label and picture of each of the samples, the latter as a data: URL."""
        side = min(self._crop, _LARGEST_SIDE)
        pixels = np.empty((len(samples), side, side, self._reader.num_channels), np.uint8)
        windows = CentreView((self._crop, self._crop)).views(0, samples, self._reader.sizes(samples)).windows
        labels = self._reader.read_windows(samples, windows, pixels)
        return list(zip(labels.tolist(), map(_data_url, pixels), strict=True))


def _data_url(pixels: np.ndarray) -> str:
    """Return an image (h, w, c), of which one or three channels can be seen, as a data: URL."""
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    content, kind = io.BytesIO(), "PNG" if max(image.size) <= _LARGEST_PNG_SIDE else "JPEG"
    image.save(content, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
