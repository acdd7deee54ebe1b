"""Plots: pictures of the curves in each format, with all names to be read."""

import sys

import pytest
from PIL import Image

from owt_mpi import plot
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.seeing.plotting import check_installed
from tests.seeing.runs import write_files, write_run

pytest.importorskip("matplotlib")


def plotted(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["plot", *map(str, arguments)])
    return plot.main()


def test_a_plot_is_a_picture_of_what_was_asked_for(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "first")
    heights = []
    for what in (["loss"], ["loss", "top1", "top5", "lr", "speed", "loss"]):
        assert plotted(monkeypatch, run, "--what", *what, "--out", tmp_path / "a.png") == 0
        with Image.open(tmp_path / "a.png") as picture:
            heights.append(picture.height)
            assert picture.width == 1200
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    assert heights[1] == 5 * heights[0], "each quantity once"
    assert capsys.readouterr().out == f"curves in {tmp_path}/a.png\n" * 2


def test_text_stays_text_and_names_are_no_mathematics(tmp_path, monkeypatch):
    runs = [write_run(tmp_path / "_hidden $x^2$"), write_run(tmp_path / "second", num_ranks=1)]
    assert plotted(monkeypatch, *runs, "--over", "time", "--out", tmp_path / "a.svg") == 0
    drawn = (tmp_path / "a.svg").read_text()
    for text in ("_hidden $x^2$, training", "second, validation", "loss", "top-1", "seconds of training"):
        assert f"{text}</text>" in drawn


def test_a_pdf_is_one(tmp_path, monkeypatch):
    assert plotted(monkeypatch, write_run(tmp_path / "first"), "--out", tmp_path / "a.pdf") == 0
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "a.gif"], 2, "--out a.gif does not say a format; let it end in .png, .svg, .pdf"),
        (["--what"], 2, "--what is empty"),
        (["--out", "a.png"], 3, "nothing is recorded yet of loss, top1 in run"),
    ],
)
def test_what_cannot_be_drawn_is_said(tmp_path, monkeypatch, arguments, code, message):
    (tmp_path / "run").mkdir()
    write_files(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CollectiveExit, match=message) as end:
        plotted(monkeypatch, "run", *arguments)
    assert end.value.code == code
    assert not (tmp_path / "a.png").exists()


def test_without_the_library_the_extra_is_named(monkeypatch):
    check_installed()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'owt_mpi\[plot\]'"):
        check_installed()
