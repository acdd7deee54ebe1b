"""What can be looked at: the filters of the first convolution, and images with what the network says of them."""

import base64
import io
from collections.abc import Sequence
from math import ceil, sqrt
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from owt_mpi.checkpoint.first_filters import Filters
from owt_mpi.seeing.html import h
from owt_mpi.seeing.run_folder import Run, Sample
from owt_mpi.seeing.section import Section, absent, named

_SHOWN_SIDE = 360  # pixels that a picture of filters is wide at the least, for a whole number of each weight's
_MOST_FILTERS = 256
_LARGEST_KERNEL = 64


def filters(runs: Sequence[Run]) -> Section:
    """Return the filters of each run's first convolution."""
    pictures, content = [], []
    for number, run in enumerate(runs):
        found = run.filters
        if found is not None:
            content.append({"run": run.name, "name": found.name, "file": str(found.file)})
            pictures.append(h("div", named(runs, number), _picture(found), class_="run"))
    note = "Each filter to its own scale: gray is 0, the largest weight of either sign black or white."
    body = [*absent(runs, "filters"), h("div", pictures, class_="row"), h("p", note, class_="note")]
    return Section("filters", "First filters", body, content)


def tiles(values: np.ndarray) -> np.ndarray:
    """Return filters (c_out, kh, kw, c_in) as one picture (h, w, 4) uint8, with a transparent pixel between them.

    Three channels are shown as red, green and blue, of any other number the mean.
    """
    count, height, width, channels = values.shape
    shown = values if channels == 3 else values.mean(axis=3, keepdims=True).repeat(3, axis=3)
    largest = np.abs(shown).max(axis=(1, 2, 3), keepdims=True)
    levels = np.rint(127.5 + 127.5 * shown / np.where(largest == 0, 1, largest)).astype(np.uint8)
    across = ceil(sqrt(count * (height + 1) / (width + 1)))
    down = ceil(count / across)
    picture = np.zeros((down * (height + 1) - 1, across * (width + 1) - 1, 4), np.uint8)
    for number, tile in enumerate(levels):
        top, left = number // across * (height + 1), number % across * (width + 1)
        picture[top : top + height, left : left + width, :3] = tile
        picture[top : top + height, left : left + width, 3] = 255
    return picture


def _picture(found: Filters) -> Element:
    values = found.values[:_MOST_FILTERS, :_LARGEST_KERNEL, :_LARGEST_KERNEL]
    pixels, content = tiles(values), io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    height, width = pixels.shape[:2]
    scale = max(1, ceil(_SHOWN_SIDE / width))
    count, rows, columns, channels = found.values.shape
    what = f"{found.name}: {count} filters {rows}x{columns}x{channels}, from {found.file.name}"
    if count > _MOST_FILTERS:
        what += f"; the first {_MOST_FILTERS}"
    source = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
    image = h("img", src=source, alt=what, width=str(width * scale), height=str(height * scale), class_="filters")
    return h("figure", image, h("figcaption", what))


def predictions(runs: Sequence[Run]) -> Section:
    """Return the images that each run keeps, with the classes that its network names."""
    body, content = absent(runs, "samples"), []
    for number, run in enumerate(runs):
        found = run.samples
        if found is not None:
            content.append({"run": run.name, "step": found.step, "images": _rows(found.images)})
            right = sum(_is_right(image) for image in found.images)
            said = f"After step {found.step:,}, epoch {found.epoch}: {right} of {len(found.images)} right."
            cards = h("div", [_card(image) for image in found.images], class_="cards")
            body.append(h("div", named(runs, number), h("p", said), cards, class_="run"))
    return Section("predictions", "Sample predictions", body, content)


def _card(image: Sample) -> Element:
    classes = [
        h("li", h("span", title, class_="title"), h("span", _score(score), class_="score"),
          h("span", class_="meter", style=f"width: {100 * min(max(score or 0.0, 0.0), 1.0):.1f}%"),
          class_="right" if title == image.title else None)
        for title, score in image.classes
    ]  # fmt: skip
    shown = h("img", src=image.picture, alt=image.title, width="96", height="96") if image.picture else None
    mark = h("span", "\u2713 " if _is_right(image) else "\u2717 ", class_="mark")
    return h(
        "figure",
        shown,
        h("figcaption", mark, h("b", image.title), h("span", f" {image.name}", class_="unit")),
        h("ol", classes),
        class_=f"card {'right' if _is_right(image) else 'wrong'}",
    )


def _is_right(image: Sample) -> bool:
    return bool(image.classes) and image.classes[0][0] == image.title


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def _rows(images: Sequence[Sample]) -> list[dict[str, object]]:
    return [{"name": each.name, "title": each.title, "classes": each.classes} for each in images]
