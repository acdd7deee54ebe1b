"""What a file says of its network is read as it was written; what cannot be is one line."""

import json

import pytest

from owt_mpi.interchange.facts import TORCHVISION, NetworkFacts
from owt_mpi.interchange.tensor_file import InterchangeError

FACTS = NetworkFacts(
    model="alexnet", layout="torchvision", loss="softmax", crop=224, num_classes=3, mean=(0.1, 104.0, 1 / 3),
    std=(1.0, 57.3, 1e-3), size=256, square=True, fc_crosstalk=0.25, fc_blocks=4, class_names=("ant", "bee", "köcher"),
    class_titles=("the ant", "a \"bee\"", "x\ny"), program="owt_mpi 0.1.0", trained="step 12",
)  # fmt: skip


@pytest.mark.parametrize("facts", [FACTS, NetworkFacts()], ids=["all", "none"])
def test_text_and_back(facts: NetworkFacts):
    text = facts.to_metadata()
    assert all(isinstance(each, str) for pair in text.items() for each in pair)
    assert NetworkFacts.from_metadata(text, "x") == facts


def test_a_file_of_another_program_says_nothing():
    assert NetworkFacts.from_metadata({"format": "pt", "crop": "wide"}, "x") == NetworkFacts()


def test_torchvisions_pixels_are_those_that_it_states():
    assert TORCHVISION.mean == pytest.approx([255 * each for each in (0.485, 0.456, 0.406)])
    assert TORCHVISION.std == pytest.approx([255 * each for each in (0.229, 0.224, 0.225)])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("crop", "true"), ("crop", "[]"), ("crop", "-1"), ("crop", "1000000000"), ("crop", "x"), ("crop", "1e999"),
        ("mean", "[1, 2, NaN]"), ("mean", "[1, 2]"), ("mean", '"abc"'), ("std", "[1, 2, 0]"), ("std", "{}"),
        ("loss", "hinge"), ("layout", "caffe"), ("num_classes", "4"), ("class_names", '["a"]'),
        ("class_titles", '["a"]'), ("fc_crosstalk", "1.5"), ("square", "1"), ("mean", "[" * 100_000),
        ("class_names", '["\\ud800", "b", "c"]'), ("class_names", '["a", 1, "c"]'),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(name: str, text: str):
    metadata = {**FACTS.to_metadata(), name: text}
    with pytest.raises(InterchangeError, match=r"x: its \w+ (is malformed|cannot be).*get it anew") as refused:
        NetworkFacts.from_metadata(metadata, "x")
    assert len(str(refused.value)) < 200


def test_another_version_is_named():
    with pytest.raises(InterchangeError, match="says owt_mpi_format '9', this program reads 1"):
        NetworkFacts.from_metadata({**FACTS.to_metadata(), "owt_mpi_format": "9"}, "x")


def test_metadata_is_plain_json():
    text = FACTS.to_metadata()
    assert json.loads(text["class_names"]) == ["ant", "bee", "köcher"]
    assert json.loads(text["mean"]) == [0.1, 104.0, 1 / 3]
    assert text["format"] == "pt"
