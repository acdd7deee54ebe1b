"""The page: one file with everything in it, for a browser without a network."""

import time
from collections.abc import Sequence
from importlib import resources
from typing import Any
from xml.etree.ElementTree import Element

from owt_mpi import __version__
from owt_mpi.seeing import costs, curves, layers, overview, palette, pictures
from owt_mpi.seeing.html import document, h
from owt_mpi.seeing.run_folder import Run
from owt_mpi.seeing.section import Section


def sections_of(runs: Sequence[Run]) -> list[Section]:
    """Return all parts of the page."""
    return [
        overview.overview(runs),
        curves.curves(runs),
        costs.step_time(runs),
        costs.ranks(runs),
        costs.wire(runs),
        pictures.filters(runs),
        layers.layers(runs),
        pictures.predictions(runs),
        overview.configuration(runs),
        overview.environment(runs),
    ]


def page(runs: Sequence[Run], sections: Sequence[Section]) -> str:
    """Return the page as HTML."""
    title = ", ".join(run.name for run in runs)
    links = h("nav", [h("a", section.title, href=f"#{section.anchor}") for section in sections])
    made = f"made by owt_mpi {__version__} on {time.strftime('%Y-%m-%d %H:%M')}"
    body = h(
        "body",
        h("header", h("h1", title), h("p", made, class_="note"), links),
        h("main", [_shown(section) for section in sections]),
        h("script", _resource("page.js")),
    )
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("title", title),
        h("style", _style()),
    )
    return document(h("html", head, body, lang="en"))


def tables(sections: Sequence[Section]) -> dict[str, Any]:
    """Return what the page shows as JSON takes it, without the curves."""
    return {section.anchor: section.content for section in sections if section.content is not None}


def _shown(section: Section) -> Element:
    return h("section", h("h2", section.title), section.body, id=section.anchor)


def _style() -> str:
    colours = (
        f":root {{ {palette.variables(palette.ON_WHITE)} --ground: {palette.WHITE}; }}\n"
        f"@media (prefers-color-scheme: dark) {{\n"
        f":root {{ {palette.variables(palette.ON_BLACK)} --ground: {palette.BLACK}; }}\n}}\n"
    )
    classes = "".join(f".c{number} {{ --own: var(--c{number}); }}\n" for number in range(len(palette.ON_WHITE)))
    return colours + classes + _resource("page.css")


def _resource(name: str) -> str:
    return resources.files("owt_mpi.seeing").joinpath(name).read_text(encoding="utf-8")
