import re
from collections.abc import Callable
from pathlib import Path

import pytest

import data_prep
from data_prep.build_shards import build
from data_prep.options import Options

Files = dict[str, dict[str, bytes]]
README = Path(data_prep.__file__).parent / "README.md"


def test_the_code_of_the_readme_reads_a_data_set(
    files: Files,
    writers: dict[str, Callable[[Files, Path], Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = writers["tar of class tars"](files, tmp_path / "train.tar")
    build(Options(source, tmp_path / "shards/fashion_mnist", size=8, shards=2, workers=1))
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    exec(found[1], {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(") ")[0] for line in lines] == [f"train-0000{index}-of-00002.h5 (6, 8, 8, 3" for index in (0, 1)]
