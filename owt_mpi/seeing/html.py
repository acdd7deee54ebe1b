"""HTML and inline SVG as elements of the standard library, which escapes all text and attributes as it writes them."""

import re
from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

from owt_mpi.tables import Table

Child = Element | str | None
# what HTML has no place for, and half of a pair of UTF-16, which UTF-8 has none for
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def h(tag: str, *children: Child | Iterable[Child], **attributes: str | None) -> Element:
    """Return an element. A _ at the end of an attribute's name goes, others stand for -; those of None are left out."""
    element = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            element.set(name.rstrip("_").replace("_", "-"), clean(value))
    for child in children:
        if child is None or isinstance(child, str | Element):
            _append(element, child)
        else:
            for each in child:
                _append(element, each)
    return element


def clean(text: str) -> str:
    """Return `text` with a mark in place of characters that a page cannot hold."""
    return _NO_TEXT.sub("\ufffd", text)


def document(root: Element) -> str:
    """Return the page whose html element is `root`."""
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def table(content: Table, number_columns: bool = True, last_is_total: bool = False) -> Element:
    """Return a table, of which all columns but the first hold numbers unless otherwise said; wide ones scroll."""
    kind = "numbers" if number_columns else "words"
    rows = [h("tr", [h("td", cell) for cell in line]) for line in content.lines]
    if rows and last_is_total:
        rows[-1].set("class", "total")
    head = h("thead", h("tr", [h("th", heading, scope="col") for heading in content.headings]))
    caption = h("caption", content.title) if content.title else None
    return h(
        "div",
        h("div", h("table", caption, head, h("tbody", rows), class_=kind), class_="scroll"),
        [h("p", note, class_="note") for note in content.notes],
    )


def _append(element: Element, child: Child) -> None:
    if child is None:
        return
    if isinstance(child, Element):
        element.append(child)
    elif len(element):
        element[-1].tail = (element[-1].tail or "") + clean(child)
    else:
        element.text = (element.text or "") + clean(child)
