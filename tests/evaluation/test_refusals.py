"""What is wrong with checkpoint, data or options is one line on one rank, with the train command's exit codes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from owt_mpi.checkpoint.format import CheckpointManifest, finished_entry
from owt_mpi.comm.guard import CollectiveExit
from owt_mpi.evaluation.network import NetworkOptions
from owt_mpi.evaluation.options import EvaluateOptions
from tests.evaluation.conftest import CLASSES, Run, changed_manifest, evaluated, options_of, run_alone
from tests.evaluation.test_evaluate import check_equals_plain
from tests.small_disk import small_disk


def refusal(options: EvaluateOptions) -> tuple[int, str]:
    """Return exit code and message of an evaluation that is refused on two ranks."""
    with pytest.raises(CollectiveExit) as refused:
        evaluated(replace(options, ranks=replace(options.ranks, virtual_ranks=2)))
    message = refused.value.message
    assert message.startswith("error: ")
    assert "\n" not in message
    return refused.value.code, message


def test_a_damaged_checkpoint_exits_with_3(own_run: Run, tmp_path: Path):
    part = next((own_run.folder / "checkpoints" / "latest").glob("part-*"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    code, message = refusal(options_of(own_run, tmp_path))
    assert code == 3
    assert "is damaged: its SHA-256 is another one" in message


def test_a_damaged_part_with_a_right_checksum_exits_with_3(own_run: Run, tmp_path: Path):
    part = next((own_run.folder / "checkpoints" / "latest").glob("part-*"))
    part.write_bytes(part.read_bytes().replace(b"TREE", b"TEER"))
    changed_manifest(own_run.folder, lambda m: replace(m, files={**m.files, part.name: finished_entry(part)}))
    code, message = refusal(options_of(own_run, tmp_path))
    assert code == 3
    assert f"{part.name} has an index that is damaged; take another checkpoint" in message


def test_folders_without_a_checkpoint_exit_with_3(tmp_path: Path):
    for folder, words in ((tmp_path, "holds no checkpoint"), (tmp_path / "none", "there is no checkpoint")):
        code, message = refusal(EvaluateOptions(str(folder)))
        assert code == 3
        assert words in message


def test_a_configuration_that_is_none_exits_with_3(own_run: Run, tmp_path: Path):
    for config, words in (
        ({"model": {"depth": 3}}, "has no option 'depth'"),
        ({"parallel": {"bucket_mib": -1.0}, "data": {"data": "x"}}, "--bucket-mib is -1.0"),
    ):
        changed_manifest(own_run.folder, lambda manifest, config=config: replace(manifest, config=config))
        code, message = refusal(options_of(own_run, tmp_path))
        assert code == 3
        assert "its configuration" in message
        assert words in message


def test_options_beside_weights_that_cannot_be_exit_with_3(own_run: Run, tmp_path: Path):
    options = own_run.folder / "config.toml"
    options.write_text(options.read_text().replace('lr_rule = "linear"', 'lr_rule = "' + "A" * 3000 + '"'))
    weights = replace(options_of(own_run, tmp_path), checkpoint=str(own_run.folder / "weights.h5"))
    code, message = refusal(weights)
    assert code == 3
    assert "weights.h5: its configuration is unsound: --trunk-lr-rule is 'AAA" in message
    assert len(message) < 500


def test_facts_of_a_data_set_that_are_none_exit_with_3(own_run: Run, tmp_path: Path):
    sound = CheckpointManifest.read(own_run.folder / "checkpoints" / "latest").data_set
    for wrong, words in (
        ({"class_names": 3}, "its data set is malformed (class_names is 3, and not a list)"),
        ({"mean": [1.0, 2.0]}, "has 2 means, 3 standard deviations"),
        ({"std": [1.0, 2.0, float("nan")]}, "std is nan, and not a finite number"),
        ({"size": 10**9}, "size is 1000000000, and not a whole number from 1"),
        ({"class_titles": ["an ant"]}, "has 1 titles of classes"),
    ):
        changed_manifest(own_run.folder, lambda m, wrong=wrong: replace(m, data_set={**sound, **wrong}))
        code, message = refusal(options_of(own_run, tmp_path))
        assert code == 3
        assert words in message


def test_other_classes_exit_with_3_and_name_the_first(own_run: Run, tmp_path: Path):
    for names, words in (
        (("ant", "bee", "cow", *CLASSES[3:]), "class 2 is 'cow' in "),
        (CLASSES[:7], "was trained on 7 classes"),
    ):
        facts = {"class_names": list(names), "class_titles": []}
        changed_manifest(own_run.folder, lambda m, facts=facts: replace(m, data_set={**m.data_set, **facts}))
        code, message = refusal(options_of(own_run, tmp_path))
        assert code == 3
        assert words in message


def test_a_checkpoint_without_names_is_compared_by_number(own_run: Run, shards: Path, tmp_path: Path, capfd):
    changed_manifest(own_run.folder, lambda manifest: replace(manifest, data_set={}))
    evaluated(options_of(own_run, tmp_path, 2))
    check_equals_plain(own_run, tmp_path)
    assert "has no names of its own to compare with" in capfd.readouterr().out
    fewer = tmp_path / "fewer"
    shutil.copytree(shards, fewer)
    manifest = json.loads((fewer / "manifest.json").read_text())
    manifest["class_names"].append("ibex")
    manifest["class_titles"].append("the ibex")
    for entry in [*manifest["splits"].values(), *(s for each in manifest["splits"].values() for s in each["shards"])]:
        entry["class_histogram"].append(0)
    (fewer / "manifest.json").write_text(json.dumps(manifest))
    code, message = refusal(options_of(own_run, tmp_path, scheme="dp", data=str(fewer)))
    assert code == 3
    assert "tells 8 classes apart, the data has 9" in message


def test_outputs_that_are_no_numbers_end_it_with_the_image(own_run: Run, tmp_path: Path, monkeypatch):
    def spoilt(trainer, batch, layer):
        return np.where((batch.indices == 35)[:, None], np.inf, np.zeros((len(batch.rows), len(CLASSES)))), None

    monkeypatch.setattr("owt_mpi.evaluation.run.outputs_of", spoilt)
    code, message = refusal(options_of(own_run, tmp_path))
    assert code == 1
    assert f"the network's outputs for {CLASSES[35 * 5 % 8]}/35 are no finite numbers" in message


@pytest.mark.parametrize("fails", ["write", "finish"])
def test_a_full_disk_leaves_no_features_and_exits_with_3(softmax_run: Run, tmp_path: Path, monkeypatch, fails: str):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"owt_mpi.evaluation.feature_file.FeatureFile.{fails}", full)
    options = options_of(softmax_run, tmp_path, features="fc2", features_out=str(tmp_path / "features.h5"))
    code, message = refusal(options)
    assert code == 3
    assert "No space left on device" in message
    assert list(tmp_path.glob("features*")) == []


@pytest.mark.parametrize("num_pages", [1, 2])
def test_a_disk_that_is_full_leaves_no_features_and_names_the_file(softmax_run: Run, tmp_path: Path, num_pages: int):
    with small_disk(tmp_path / "disk", num_pages * 4096):
        options = options_of(softmax_run, tmp_path, features="conv1", features_out=str(tmp_path / "disk/features.h5"))
        code, message = refusal(options)
        assert code == 3
        assert "No space left on device: '" in message
        assert "disk/features.h5'" in message
        assert list((tmp_path / "disk").iterdir()) == []


USAGE = {
    "layer": ({"features": "fc9", "features_out": "x.h5"}, "--features fc9: the network has no such layer; choose one"),
    "views": ({"features": "fc2", "features_out": "x.h5", "views": 10}, "give --views 1"),
    "random images": ({"data": "synthetic"}, "give --data a folder of shards"),
    "model": ({"network": NetworkOptions(model="nets.py:x")}, "there is no file nets.py"),
    "rows": ({"rows": 3, "scheme": "c"}, "scheme 'c' needs images-per-rank divisible by the 2 ranks"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_options_exit_with_2(softmax_run: Run, tmp_path: Path, case: str):
    more, words = USAGE[case]
    code, message = refusal(options_of(softmax_run, tmp_path, **more))
    assert code == 2
    assert words in message


def test_data_that_is_not_there_exits_with_3(softmax_run: Run, tmp_path: Path):
    for more, words in (
        ({"data": str(tmp_path / "none")}, "manifest.json does not exist"),
        ({"split": "test"}, "has no split 'test'"),
    ):
        code, message = refusal(options_of(softmax_run, tmp_path, **more))
        assert code == 3
        assert words in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "CHECKPOINT is missing"),
        (["x", "--features", "fc2"], "give both, or none"),
        (["x", "--json", "/none/a.json"], "there is no folder /none"),
        (["x", "--worst", "-1"], "--worst is -1"),
        (["x", "--threads", "-1"], "--threads is -1"),
        (["x", "--virtual-ranks", "-1"], "--virtual-ranks is -1"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(arguments: list[str], words: str):
    done = run_alone("evaluate", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
