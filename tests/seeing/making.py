"""Pages of runs, made and taken apart, and what every one of them must be."""

import json
import re
from pathlib import Path

from owt_mpi.seeing.page import page, sections_of, tables
from owt_mpi.seeing.run_folder import read_runs
from tests.seeing.parsed_page import ParsedPage

SECTIONS = (
    "overview", "curves", "time", "ranks", "wire", "filters", "layers", "predictions", "configuration", "environment",
)  # fmt: skip


def made(*folders: Path) -> tuple[ParsedPage, dict]:
    """Return the page of runs, parsed, and its tables."""
    runs = read_runs([str(folder) for folder in folders])
    sections = sections_of(runs)
    return ParsedPage(page(runs, sections)), json.loads(json.dumps(tables(sections)))


def check_safe(parsed: ParsedPage) -> None:
    """Nothing is fetched, one script and one style are ours, and no attribute is one that runs."""
    assert parsed.counts["script"] == parsed.counts["style"] == 1
    assert parsed.counts["link"] == parsed.counts["iframe"] == parsed.counts["object"] == 0
    for _, found in parsed.elements:
        assert not [name for name in found if name.startswith("on")]
    assert all(re.fullmatch(r"data:image/(png|jpeg);base64,[\w+/=]+", each) for each in parsed.attributes("src"))
    assert all(each.startswith("#") for each in parsed.attributes("href"))
    assert "url(" not in parsed.texts["style"][1]
    assert "@import" not in parsed.texts["style"][1]
