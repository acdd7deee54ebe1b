import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import inspect
from data_prep.contact_sheet import choose_samples
from owt_mpi.data.manifest import MANIFEST_NAME
from tests.data_prep.data_sets import write_data_set

CLASS_NAMES = ("red", "green", "blue")
COLOURS = np.diag([200, 190, 180]).astype(np.uint8)


def coloured(index: int, sizes: bool) -> np.ndarray:
    """Return an image in the colour of its class, with a stripe of another at each end of its longer side."""
    image = np.empty((40 + index * sizes // 2, 64, 3), np.uint8)
    image[...] = COLOURS[index % 3]
    image[:, :5] = image[:, -5:] = 255
    return image


@pytest.fixture(params=["raw", "jpeg"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    images = [coloured(index, request.param == "jpeg") for index in range(12)]
    return write_data_set(tmp_path / "set", {"train": images, "val": images[:4]}, CLASS_NAMES, storage=request.param)


def test_table_tells_what_there_is(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([str(folder), "--json", str(tmp_path / "json")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "│ train │ 12 │ 3 │ 4 │ 2 │ 0.000 │ none │" in said
    assert "│ val │ 4 │ 3 │ 1-2, median 1 │ 2 │ 0.000 │ none │" in said
    told = json.loads((tmp_path / "json").read_text())
    assert told["splits"]["val"]["images_a_class"] == [1, 1, 2]
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    assert told["image_shape"] == manifest["image_shape"]
    assert told["mean"] == manifest["statistics"]["mean"]


def test_contact_sheet_shows_the_centres_of_samples_in_order_of_class(folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert inspect.main([str(folder), "--contact-sheet", str(sheet), "--samples", "6"]) == 0
    with Image.open(sheet) as image:
        pixels = np.asarray(image).astype(int)
    assert pixels.shape == (8 + 166, 8 + 6 * 136, 3)
    for place in range(6):
        picture = pixels[8 : 8 + 128, 8 + 136 * place : 8 + 136 * place + 128]
        assert np.abs(picture - COLOURS[place // 2]).max() < 12, "no stripe: the centre is a square"
        caption = pixels[8 + 130 : 8 + 156, 8 + 136 * place : 8 + 136 * place + 128]
        assert (caption < 100).any(), "there is something written"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "sheet.png"]


def test_samples_are_drawn_evenly_from_the_classes_and_repeat() -> None:
    labels = np.array([0] * 50 + [1] * 2 + [2] * 30)
    chosen = choose_samples(labels, 12, seed=1)
    assert np.bincount(labels[chosen]).tolist() == [5, 2, 5]
    assert len(set(chosen.tolist())) == 12
    assert (np.diff(labels[chosen]) >= 0).all()
    np.testing.assert_array_equal(choose_samples(labels, 12, seed=1), chosen)
    assert not np.array_equal(choose_samples(labels, 12, seed=2), chosen)
    assert len(choose_samples(labels, 500, seed=1)) == 82


def test_fewer_samples_than_classes_are_of_classes_drawn_at_random() -> None:
    labels = np.repeat(np.arange(100), 3)
    chosen = labels[choose_samples(labels, 10, seed=1)]
    assert len(set(chosen.tolist())) == 10
    assert chosen.max() > 50


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--samples", "0"], 2, "--samples is 0"),
        (["--contact-sheet", "nowhere/sheet.png"], 3, "nowhere"),
        (["--contact-sheet", "sheet.png", "--split", "test"], 3, "no split 'test'"),
    ],
)
def test_what_cannot_be_done_is_said(
    folder: Path, arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect.main([str(folder), *arguments]) == status
    assert message in capsys.readouterr().err


def test_folder_without_a_manifest_is_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([str(tmp_path)]) == 3
    assert "does not exist: not a data set" in capsys.readouterr().err
