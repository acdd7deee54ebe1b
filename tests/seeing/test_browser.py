"""The page in a real browser: nothing goes wrong, all is to be seen, in light and dark, in wide and narrow windows."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from owt_mpi.seeing.page import page, sections_of
from owt_mpi.seeing.palette import BLACK, ON_BLACK, ON_WHITE, WHITE
from owt_mpi.seeing.run_folder import read_runs
from tests.seeing.runs import write_run
from tests.seeing.test_page import EVIL

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install '.[browser]')")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BROWSER is None or DRIVER is None, reason="no chromium and chromedriver (Debian: chromium-driver)"
    ),
]
SCHEMES = {"light": (WHITE, ON_WHITE), "dark": (BLACK, ON_BLACK)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator["webdriver.Chrome"]:
    """Chromium without a window, a profile or a network: a name that is looked up is an error on its console."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A page of one run, and one of three, of which one was killed and one has words that look like HTML."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [write_run(folder / "first"), write_run(folder / "second", last=200, num_ranks=1, lr=0.02)]
    runs.append(write_run(folder / "<i>third", classes=(EVIL, *"bcde"), num_ranks=20))
    lines = (runs[1] / "metrics.jsonl").read_text().splitlines()
    (runs[1] / "metrics.jsonl").write_text("\n".join(lines[:-9]) + '\n{"kind')
    made = {}
    for name, shown in (("one", runs[:1]), ("three", runs)):
        found = read_runs([str(run) for run in shown])
        made[name] = folder / f"{name}.html"
        made[name].write_text(page(found, sections_of(found)), encoding="utf-8")
    return made


def opened(browser, file: Path, scheme: str = "light", width: int = 1280):
    """Show a page, all of it unfolded."""
    browser.get_log("performance")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(file.as_uri())
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true;")


def colour_of(text: str) -> str:
    """Return #rrggbb of what the browser says, rgb(1, 2, 3)."""
    return "#" + "".join(f"{int(part):02x}" for part in text.split("(")[1].rstrip(")").split(",")[:3])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["one", "three"])
@pytest.mark.parametrize("width", [1280, 360])
def test_all_is_there_to_be_seen(browser, pages, name, scheme, width):
    opened(browser, pages[name], scheme, width)
    assert browser.get_log("browser") == [], "nothing on the console, so no script of others and nothing fetched"
    ground, colours = SCHEMES[scheme]
    assert colour_of(browser.execute_script("return getComputedStyle(document.body).backgroundColor")) == ground
    strokes = browser.execute_script(
        "return [...document.querySelectorAll('.plot .line polyline')].map((each) => getComputedStyle(each).stroke)"
    )
    assert {colour_of(each) for each in strokes} <= set(colours)
    assert len(strokes) > 15
    pictures = browser.execute_script(
        "return [...document.images].map("
        "(each) => [each.complete, each.naturalWidth, each.getBoundingClientRect().width])"
    )
    assert len(pictures) == {"one": 1 + 3, "three": 3 + 9}[name]
    assert all(complete and natural > 0 and shown > 0 for complete, natural, shown in pictures)
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('svg, table, .bar')].map((each) => {"
        " const box = each.getBoundingClientRect(); return [each.tagName, box.width, box.height]; })"
    )
    assert all(wide > 10 and high > 5 for _, wide, high in boxes), boxes
    across = browser.execute_script("return document.documentElement.scrollWidth")
    assert across <= width, "the page itself does not scroll sideways"


def test_the_browser_asks_for_nothing_but_the_page(browser, pages):
    opened(browser, pages["three"])
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert pages["three"].as_uri() in asked
    assert [url for url in asked if not url.startswith(("file:", "data:image/"))] == []


@pytest.mark.parametrize("width", [1280, 360])
def test_words_on_charts_do_not_overlap_nor_leave_the_window(browser, pages, width):
    opened(browser, pages["three"], width=width)
    overlapping = browser.execute_script(
        "const bad = [];"
        "for (const svg of document.querySelectorAll('.plot svg')) {"
        " const words = [...svg.querySelectorAll('text:not([transform])')].map((each) => [each.textContent,"
        "  each.getBoundingClientRect()]).filter(([text]) => text);"
        " words.forEach(([text, a], i) => {"
        "  if (a.left < 0 || a.right > innerWidth) bad.push([text, 'outside', a.left, a.right]);"
        "  for (const [other, b] of words.slice(i + 1))"
        "   if (a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)"
        "    bad.push([text, other]); }); }"
        "return bad;"
    )
    assert overlapping == []


@pytest.mark.parametrize("width", [1280, 360])
def test_pointing_at_a_curve_tells_its_numbers(browser, pages, width):
    opened(browser, pages["one"], width=width)
    chart = browser.find_element("css selector", ".plot")
    assert not chart.find_element("css selector", ".tip").is_displayed()
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    webdriver.ActionChains(browser).move_to_element(chart.find_element("css selector", "svg")).perform()
    tip = chart.find_element("css selector", ".tip")
    first, *lines = tip.text.split("\n")
    word, step = first.split(" ")
    assert (word, int(step) % 10) == ("step", 0)
    written = dict(reversed(line.split(" ", 1)) for line in lines)
    curve = chart.find_element("css selector", "[data-name=training]")
    place = curve.get_attribute("data-x").split("|").index(step)
    assert written["training"] == curve.get_attribute("data-y").split("|")[place]
    assert tip.rect["x"] >= 0
    assert tip.rect["x"] + tip.rect["width"] <= width
    webdriver.ActionChains(browser).move_to_element(browser.find_element("css selector", "h1")).perform()
    assert not tip.is_displayed()
