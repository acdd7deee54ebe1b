"""The page holds what runs have recorded, safely, and says in its place what they have not."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from owt_mpi.metrics import Reporter
from owt_mpi.seeing.page import page, sections_of
from owt_mpi.seeing.pictures import tiles
from owt_mpi.seeing.run_folder import read_runs
from tests.seeing.making import SECTIONS, check_safe, made
from tests.seeing.parsed_page import ParsedPage
from tests.seeing.runs import LAYERS, filters, flows_of, loss_at, record_steps, write_run

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload=alert(3) &lt;\x00\ud800"


def test_one_run_has_all_sections(tmp_path):
    parsed, content = made(write_run(tmp_path / "first"))
    check_safe(parsed)
    assert tuple(parsed.in_section) == tuple(parsed.attributes("id")) == SECTIONS
    assert parsed.attributes("href") == [f"#{anchor}" for anchor in SECTIONS]
    assert parsed.texts["title"][1] == "first"
    assert "trained to the end" in parsed.text
    assert "300 of 300" in parsed.text
    assert "The others waited for rank 1" in parsed.text
    assert "nothing recorded yet" not in parsed.text
    assert set(content) == set(SECTIONS) - {"curves"}
    (overview,) = content["overview"]
    assert (overview["step"], overview["num_steps"], overview["ranks"], overview["epoch"]) == (300, 300, 2, 3)
    assert overview["validation_loss"] == pytest.approx(loss_at(300) + 0.05)
    assert overview["best_top1"] == pytest.approx(1 - loss_at(300) / 2.4)
    assert content["time"][0]["ms_a_step"] == pytest.approx({"compute": 89.0, "exchange": 10.0, "data": 1.0})
    (wire,) = content["wire"]
    assert [row["communicator"] for row in wire["rows"]] == ["boundary", "trunk", "all"]
    assert wire["rows"][2]["received_bytes"] == pytest.approx(4e6)
    assert wire["rows"][2]["exposed_seconds"] == pytest.approx(0.0015)
    assert list(content["layers"][0]["outputs"]) == list(LAYERS)
    assert content["filters"][0]["name"] == "trunk.conv1.weight"
    assert [each["title"] for each in content["predictions"][0]["images"]] == ["ant", "bee", "cat"]
    assert "1 of 3 right" in parsed.text


def test_curves_are_drawn_where_their_numbers_lie(tmp_path):
    parsed, _ = made(write_run(tmp_path / "first"))
    lines = [found for tag, found in parsed.elements if tag == "g" and found.get("data-name") == "training"]
    loss = lines[0]
    numbers = [loss_at(step) for step in range(10, 301, 10)]
    assert [float(y) for y in loss["data-y"].split("|")] == pytest.approx(numbers, rel=1e-3)
    assert loss["data-x"].split("|") == [str(step) for step in range(10, 301, 10)]
    points = next(p for p in parsed.attributes("points", "polyline")).split()
    xs, ys = zip(*(map(float, point.split(",")) for point in points), strict=True)
    assert len(xs) == 30
    np.testing.assert_allclose(np.diff(xs), xs[1] - xs[0], atol=0.11)
    slope, start = np.polyfit(numbers, ys, 1)
    assert slope < 0, "larger is higher"
    np.testing.assert_allclose(ys, slope * np.array(numbers) + start, atol=0.11)


def test_several_runs_are_side_by_side_in_their_colours(tmp_path):
    folders = [
        write_run(tmp_path / "first"),
        write_run(tmp_path / "second", last=200, num_ranks=1, lr=0.02, scheme="dp"),
        write_run(tmp_path / "third", num_ranks=20),
    ]
    parsed, content = made(*folders)
    check_safe(parsed)
    names = parsed.attributes("data-name")
    assert {"first, training", "second, validation", "third, head"} <= set(names)
    assert [each["run"] for each in content["overview"]] == ["first", "second", "third"]
    text = parsed.text
    assert "Options in which the runs differ" in text
    assert "optimizer.lr" in text
    assert "parallel.scheme" in text
    assert "One rank, which nobody waits for." in text
    assert "Nothing crossed: there is one rank." in text
    assert "The 16 of 20 ranks that waited least." in text
    assert sum(each.count("rank 19") for each in parsed.texts["span"]) == 1
    dots = [found["class"] for tag, found in parsed.elements if tag == "span" and found["class"].startswith("dot")]
    assert {"dot c0", "dot c1", "dot c2"} <= set(dots)


def test_networks_of_other_layers_have_charts_of_their_own(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("first", "second", "third")]
    records = folders[1] / "metrics.jsonl"
    records.write_text(records.read_text().replace("trunk.conv1", "trunk.block.conv1"))
    parsed, _ = made(*folders)
    text = parsed.in_section["layers"]
    assert "first, third" in text
    assert text.count("Standard deviation of the outputs") == 2 + 3, "charts and tables"
    shown = [found["data-x"] for _, found in parsed.elements if "block.conv1" in found.get("data-x", "")]
    assert shown[0] == "block.conv1|relu1|pool1|fc2|fc3"
    zeros = [found["data-x"] for _, found in parsed.elements if found.get("data-y") == "40%"]
    assert zeros == ["relu1"] * 3, "layers without zeros are left out"


def test_many_layers_have_room_for_their_names(tmp_path):
    folder = write_run(tmp_path / "deep")
    names = [f"trunk.layer{number}" for number in range(50)]
    outputs = {name: {"mean": 0.0, "std": 1.0, "zeros": 0.0} for name in names}
    with Reporter(active=True, metrics_file=folder / "metrics.jsonl", num_steps=400) as reporter:
        reporter.begin_at(300)
        reporter.record("layers", step=310, outputs=outputs, updates={})
    parsed, _ = made(folder)
    written = [each for each in parsed.texts["text"] if each.startswith("layer")]
    assert written == [f"layer{number}" for number in range(0, 50, 3)]
    assert "|".join(f"layer{number}" for number in range(50)) in parsed.attributes("data-x"), "the pointer tells all"


def test_runs_of_other_batches_are_drawn_over_images(tmp_path):
    parsed, _ = made(write_run(tmp_path / "first"), write_run(tmp_path / "second", batch=128))
    assert "images" in parsed.texts["text"]
    ends = [found["data-x"].split("|")[-1] for _, found in parsed.elements if "data-name" in found][:4:2]
    assert ends == ["19,200", "38,400"]


def test_runs_of_the_same_options_say_so(tmp_path):
    write_run(tmp_path / "a" / "run")
    write_run(tmp_path / "b" / "run")
    parsed, _ = made(tmp_path / "a" / "run", tmp_path / "b" / "run")
    assert "All options of the runs are the same." in parsed.text
    assert f"{tmp_path}/a/run, training" in parsed.attributes("data-name"), "names that would be the same are whole"


def test_text_of_any_kind_stays_text(tmp_path):
    """Class names, file names, options, the run's name and what a record says are others' words."""
    folder = write_run(tmp_path / "<script>alert(0)<:script>'\"&", classes=(EVIL, "a<b>", "c&amp;", '"d"', "'e'"))
    (folder / "environment.json").write_text(json.dumps({EVIL: EVIL, "command": [EVIL]}))
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(
        config.replace('"shards"', json.dumps(EVIL.replace("\x00", "").replace("\ud800", "")))
    )
    with Reporter(active=True, metrics_file=folder / "metrics.jsonl", num_steps=400) as reporter:
        reporter.begin_at(300)
        reporter.record(
            "layers", step=310, outputs={EVIL: {"mean": 1.0, "std": 2.0, "zeros": 0.5}}, updates={EVIL: 0.1}
        )
        flow = {**flows_of(10)[0], "label": EVIL, "collective": EVIL, "payload": EVIL}
        reporter.record("wire", step=310, steps=10, flows=[flow])
        reporter.record("end", step=310, how=EVIL, why=EVIL)
    whole = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(whole[:-1]))
    parsed, content = made(folder, write_run(tmp_path / "other"))
    check_safe(parsed)
    shown = EVIL.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert parsed.text.count(shown) >= 8
    assert shown in parsed.attributes("alt")
    assert content["overview"][0]["state"] == f"{EVIL}: {EVIL}"
    page(read_runs([str(folder)]), []).encode("utf-8")


def test_a_picture_that_is_none_is_not_shown(tmp_path):
    folder = write_run(tmp_path / "run")
    samples = json.loads((folder / "samples.json").read_text())
    bad = ("https://example.org/x.png", "data:text/html;base64,PHNjcmlwdD4=", "data:image/svg+xml;base64,AAAA")
    for image, picture in zip(samples["images"], bad, strict=True):
        image["picture"] = picture
    (folder / "samples.json").write_text(json.dumps(samples))
    parsed, _ = made(folder)
    check_safe(parsed)
    assert parsed.counts["img"] == 1, "of the filters alone"


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_a_folder_without_a_run_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="give the --run-dir of a training"):
        read_runs([str(tmp_path / name)])
    with pytest.raises(ValueError, match="is named twice"):
        read_runs([str(tmp_path / name)] * 2)


def test_the_weights_at_the_end_are_shown(tmp_path):
    folder = write_run(tmp_path / "run")
    (found,) = read_runs([str(folder)])
    np.testing.assert_array_equal(found.filters.values, filters())
    assert found.filters.file == folder / "weights.h5"


def test_filters_are_tiles_with_their_own_scale():
    values = filters()
    picture = tiles(values)
    assert picture.shape == (3 * 4 - 1, 3 * 6 - 1, 4)
    for number, weights in enumerate(values):
        top, left = number // 3 * 4, number % 3 * 6
        tile = picture[top : top + 3, left : left + 5]
        expected = np.rint(127.5 * (1 + weights / np.abs(weights).max()))
        np.testing.assert_array_equal(tile[..., :3], expected)
        assert (tile[..., 3] == 255).all()
    assert (picture[3, :, 3] == 0).all()
    gray = tiles(np.ones((1, 2, 2, 5)))
    np.testing.assert_array_equal(gray[..., :3], 255)
    assert (tiles(np.zeros((1, 2, 2, 1)))[..., :3] == 128).all()


def test_the_picture_on_the_page_is_that_of_the_filters(tmp_path):
    parsed, _ = made(write_run(tmp_path / "run"))
    source = next(found["src"] for tag, found in parsed.elements if tag == "img" and found.get("class") == "filters")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
    np.testing.assert_array_equal(shown, tiles(filters()))


def test_long_runs_make_a_page_that_is_no_longer(tmp_path):
    folder = tmp_path / "long"
    folder.mkdir()
    with Reporter(active=True, metrics_file=folder / "metrics.jsonl", num_steps=30_000) as reporter:
        reporter.begin_at(0, ranks=2, global_batch=64)
        record_steps(reporter, 0, 30_000, 2, epoch=1000)
    shutil.copytree(folder, tmp_path / "again")
    runs = read_runs([str(folder), str(tmp_path / "again")])
    text = page(runs, sections_of(runs))
    assert len(runs[0].metrics.train) == 3000
    assert 50_000 < len(text) < 800_000
    parsed = ParsedPage(text)
    assert max(len(points.split()) for points in parsed.attributes("points", "polyline")) <= 300
    assert parsed.counts["polygon"] > 0, "what the points stand for"
