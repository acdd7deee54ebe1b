"""Clusters in TOML: what is shipped, and how wrong files are refused."""

import re
from importlib import resources

import pytest

from owt_mpi.planner.cluster_files import cluster_from, cluster_names, load_cluster, to_toml
from owt_mpi.planner.devices import DEVICES
from owt_mpi.preset_files import parse_toml


def shipped(name: str) -> str:
    return resources.files("owt_mpi.planner").joinpath("clusters").joinpath(f"{name}.toml").read_text()


def test_five_clusters_are_shipped():
    assert cluster_names() == ["dgx-a100", "h100-infiniband", "paper-8xk20", "two-core-epyc", "v100-25gbe"]


@pytest.mark.parametrize("name", cluster_names())
def test_what_is_written_is_read_back(name, tmp_path):
    file = tmp_path / "here.toml"
    file.write_text(to_toml(load_cluster(name), "two lines\nof comments"))
    assert load_cluster(str(file)) == load_cluster(name)


@pytest.mark.parametrize(
    ("name", "device"), [("dgx-a100", "a100"), ("h100-infiniband", "h100"), ("v100-25gbe", "v100")]
)
def test_peak_rates_are_those_of_the_roofline(name, device):
    peak, known = load_cluster(name).device.peak, DEVICES[device]
    assert (peak.name, peak.memory_bytes_per_second) == (known.name, known.memory_bytes_per_second)
    assert peak.product_flop_per_second == known.product_flop_per_second


@pytest.mark.parametrize("name", ["dgx-a100", "h100-infiniband", "paper-8xk20", "v100-25gbe"])
def test_every_number_has_its_source_or_is_called_an_assumption(name):
    for line in shipped(name).splitlines():
        if re.match(r"(memory|latency|bytes|call|kernel|convolution|linear)\w* = [0-9.e+-]+", line):
            assert "#" in line, line


def test_one_number_of_the_papers_machine_is_fitted_and_named():
    marked = [line for line in shipped("paper-8xk20").splitlines() if "FITTED" in line]
    assert len(marked) == 1
    assert "bytes_per_second" in marked[0]
    assert "level 2 bytes_per_second" in load_cluster("paper-8xk20").fitted
    assert not any(load_cluster(name).fitted for name in cluster_names() if name != "paper-8xk20")


WRONG = [
    ("gpu = true", 'gpu = "yes"', "[device] gpu is 'yes', and neither true nor false"),
    ("gpu = true", "gpu = true\ncolour = 3", "[device] has no entry 'colour'; it has name, gpu"),
    ("memory_share = 0.8 ", "memory_share = 8.0 ", "[device] memory_share is 8, but must lie between 0.001 and 1"),
    ("bytes_per_second = 22e9", "bytes_per_second = -1", "level 2 bytes_per_second is -1, but must lie between"),
    ("latency_seconds = 3e-6", "latency_seconds = nan", "level 1 latency_seconds is nan, and not a finite number"),
    ('link = "a rank"', 'link = "many"', "level 1 link is 'many', but must be 'a rank' or 'a unit'"),
    ("ranks = 0", "ranks = 12", "level 2 ranks is 12, but must be a multiple of the 8 of the level before"),
    ("ranks = 8", "ranks = 0", "level 1 ranks is 0, but must be a multiple of the 1 of the level before"),
    ("ranks = 8", "ranks = 8.5", "level 1 ranks is 8.5, and not a whole number"),
    ("fp32 = 19.5e12", "fp32 = 19.5", "[device] flop_per_second fp32 is 19.5, but must lie between"),
    ("fp32 = 19.5e12", "fp64 = 19.5e12", "[device] flop_per_second has no entry 'fp64'"),
    ("fp32 = 19.5e12", "", "[device] flop_per_second needs fp32"),
    ("uses_all_links = true", "", "[collectives] needs uses_all_links"),
    ("uses_all_links = true", "uses_all_links = true\nslower = {scan = 2}", "[collectives] slower has no entry 'scan'"),
    ("[collectives]", "[[collectives]]", "[collectives] is [{'call_seconds': 2e-05, 'uses_all_links': True}], and"),
    ('name = "DGX A100"', "name = [", "not valid TOML"),
    ('name = "DGX A100"', "name = 3", "name is 3, and not a text"),
    ('name = "DGX A100"', f'name = "{"x" * 300}"', "name has 300 letters, and may have 200"),
]


@pytest.mark.parametrize(("old", "new", "words"), WRONG)
def test_a_wrong_file_is_refused_in_one_line_that_names_the_place(old, new, words):
    text = shipped("dgx-a100")
    assert old in text
    with pytest.raises(ValueError) as error:
        cluster_from(parse_toml(text.replace(old, new, 1), "--cluster x"), "--cluster x")
    assert words in str(error.value)
    assert str(error.value).startswith("--cluster x")
    assert "\n" not in str(error.value)


def test_a_cluster_that_is_not_there_is_refused_with_the_choice():
    with pytest.raises(ValueError, match=r"no cluster 'dgx'; choose one of dgx-a100, .*, or a FILE.toml"):
        load_cluster("dgx")
    with pytest.raises(ValueError, match="cannot be read"):
        load_cluster("nowhere/x.toml")


def test_names_are_printed_as_one_line():
    text = shipped("dgx-a100").replace('name = "DGX A100"', 'name = "two\\nlines\\u001b[31m"')
    assert cluster_from(parse_toml(text, "x"), "x").name == "two\\nlines\\x1b[31m"
