"""A page taken apart by the standard library's parser, which knows nothing of how it was made."""

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "link", "input"}


class ParsedPage(HTMLParser):
    """Elements as (tag, attributes), the text of each tag, and all text; AssertionError where tags do not match."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.in_section: dict[str, str] = {}  # what can be read in each, by its id
        self._open: list[str] = []
        self._section = ""
        self.feed(page)
        self.close()
        assert self._open == [], "not closed"

    @classmethod
    def of(cls, file: Path) -> "ParsedPage":
        return cls(file.read_text(encoding="utf-8"))

    @property
    def text(self) -> str:
        """All that can be read."""
        return " ".join(
            piece for tag, pieces in self.texts.items() if tag not in ("script", "style") for piece in pieces
        )

    @property
    def counts(self) -> Counter:
        return Counter(tag for tag, _ in self.elements)

    def attributes(self, name: str, tag: str = "") -> list[str]:
        """Return the values of an attribute, of all elements or those of one tag."""
        return [found[name] for each, found in self.elements if name in found and (not tag or each == tag)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), "an attribute twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.setdefault(tag, []).append("")
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
            self.in_section[self._section] = ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]].append(data)
        if "section" in self._open:
            self.in_section[self._section] += f" {data}"
