"""A picture of some samples of a data set with their class names, for eyes to check."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from owt_mpi import rng
from owt_mpi.data.jpeg_reader import JpegReader
from owt_mpi.data.shard_format import ShardReader

_COLUMNS = 8
_SIDE = 128  # pixels, of each picture
_GAP = 8
_CAPTION = 30  # pixels of height, two lines
_BACKGROUND, _INK = (255, 255, 255), (0, 0, 0)


def contact_sheet(shards: ShardReader, num_samples: int, seed: int) -> Image.Image:
    """Return the centres of samples of as many classes as there can be, in order of class.

    Below each is its class's name, or title where there is one, and the index of the sample.
    """
    chosen = choose_samples(shards.labels, num_samples, seed)
    reader = shards if shards.storage == "raw" else JpegReader(shards, num_threads=1)
    sizes = reader.sizes(chosen)
    sides = sizes.min(axis=1)
    windows = np.column_stack([(sizes - sides[:, None]) // 2, sides, sides])
    channels = shards.manifest.image_shape[2]
    pictures = np.empty((len(chosen), _SIDE, _SIDE, channels), np.uint8)
    labels = reader.read_windows(chosen, windows, pictures)
    names = shards.manifest.class_titles or shards.manifest.class_names
    captions = [f"{names[label]}\n{index}" for label, index in zip(labels.tolist(), chosen.tolist(), strict=True)]
    return _arrange([Image.fromarray(picture.squeeze()).convert("RGB") for picture in pictures], captions)


def choose_samples(labels: np.ndarray, num_samples: int, seed: int) -> np.ndarray:
    """Return the indices of at most `num_samples` samples drawn at random, in order of class.

    No class has two more than another that has more samples to give.
    """
    order = rng.permutation(rng.stream_key(seed, "contact sheet"), len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[by_class]
    turn = np.arange(len(labels)) - np.searchsorted(sorted_labels, sorted_labels)  # 0 for the first of each class
    class_order = rng.permutation(rng.stream_key(seed, "contact sheet classes"), int(labels.max()) + 1)
    taken = by_class[np.lexsort((class_order[sorted_labels], turn))[:num_samples]]
    return np.asarray(taken[np.lexsort((taken, labels[taken]))])


def write_png(image: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        image.save(temporary, "PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _arrange(pictures: list[Image.Image], captions: list[str]) -> Image.Image:
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    cell = (_SIDE + _GAP, _SIDE + _CAPTION + _GAP)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = number % columns * cell[0] + _GAP, number // columns * cell[1] + _GAP
        sheet.paste(picture, (left, top))
        for line, text in enumerate(caption.splitlines()):
            draw.text((left, top + _SIDE + 2 + 13 * line), _fitting(text, font), _INK, font)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return as much of the text as fits below a picture."""
    text = text.encode("latin-1", "replace").decode("latin-1")  # the font that comes with Pillow may have no other
    if font.getlength(text) <= _SIDE:
        return text
    while text and font.getlength(f"{text}...") > _SIDE:
        text = text[:-1]
    return f"{text}..."
