"""Builds that are killed, and what becomes of them: the next one ends with the very bytes of an undisturbed build."""

import multiprocessing
import os
import random
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.build_shards import build
from data_prep.options import Options
from owt_mpi import rng
from owt_mpi.data import shard_writer
from owt_mpi.data.manifest import DataError
from tests.data_prep.conftest import Files, tar_of_folders
from tests.data_prep.moments import watch_writes
from tests.mpi_run import ends
from tests.small_disk import small_disk

NUM_KILLS = 20


@pytest.fixture
def source(files: Files, tmp_path: Path) -> Path:
    """Twelve images, two of them odd: one cannot be decoded."""
    odd = {**files["pear"], "pear_2.PNG": b"nothing", "pear_0.jpg": files["pear"]["pear_1.PNG"]}
    return tar_of_folders({**files, "pear": odd}, tmp_path / "source.tar.gz")


def options(source: Path, out: Path, storage: str = "raw", **others: Any) -> Options:
    return Options(source, out, size=8, storage=storage, shards=3, val_fraction=0.3, on_error="skip", workers=1,
                   **others)  # type: ignore[arg-type]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_in_child(work: Callable[[], object]) -> int:
    """Run `work` in a fork of this process and return its wait status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest may have threads; the child does without them
        child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def build_killed_at(moment: int, options: Options) -> None:
    """Build in a child that is killed at its `moment`-th change of a file."""
    left = moment

    def tick() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        watch_writes(tick)
        build(options)

    status = run_in_child(work)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def count_moments(options: Options, file: Path) -> int:
    """Return how many changes of files a build makes."""

    def work() -> None:
        moments = 0

        def tick() -> None:
            nonlocal moments
            moments += 1

        watch_writes(tick)
        build(options)
        os.write(descriptor, str(moments).encode())

    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    assert run_in_child(work) == 0
    os.close(descriptor)
    return int(file.read_text())


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_killed_at_random_moments_a_build_is_finished_by_the_next_to_the_last_bit(
    source: Path, tmp_path: Path, storage: str
) -> None:
    undisturbed = tmp_path / "undisturbed"
    num_moments = count_moments(options(source, undisturbed, storage), tmp_path / "moments")
    expected = contents(undisturbed)
    assert len(expected) == 3 + 3 + 2
    assert num_moments > 2 * NUM_KILLS
    for moment in random.Random(storage).sample(range(num_moments), NUM_KILLS // 2):
        out = tmp_path / str(moment)
        build_killed_at(moment, options(source, out, storage))
        finished = {path.name: path.stat() for path in out.glob("*.h5")} if out.exists() else {}
        assert all(expected[name] == (out / name).read_bytes() for name in finished)
        build(options(source, out, storage))
        assert contents(out) == expected
        shards = {name: status for name, status in finished.items() if name != "statistics.h5"}
        assert all((out / name).stat().st_mtime_ns == status.st_mtime_ns for name, status in shards.items())


def test_killed_again_and_again_a_build_gets_on(source: Path, tmp_path: Path) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    build(options(source, undisturbed))
    num_finished = []
    while not (out / "manifest.json").exists():
        run_in_child(lambda: _killed_after_a_shard(options(source, out)))
        num_finished.append(len(list(out.glob("*-of-*.h5"))))
    assert num_finished == [1, 2, 3, 4, 5, 6, 6]
    assert contents(out) == contents(undisturbed)


def _killed_after_a_shard(options: Options) -> None:
    commit = shard_writer.ShardWriter.commit

    def commit_and_die(*arguments: Any) -> None:
        commit(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    shard_writer.ShardWriter.commit = commit_and_die  # type: ignore[assignment,method-assign]
    build(options)


def test_finished_shards_are_kept_when_an_image_fails(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    number = 6  # of pear/pear_2.PNG among the sorted images
    seed = next(seed for seed in range(99) if rng.permutation(rng.stream_key(seed, "shuffle", "train"), 12)[number] > 8)
    some = Options(source, out, size=8, shards=4, seed=seed, workers=1)
    with pytest.raises(DataError, match=r"pear/pear_2\.PNG: it is no JPEG.*repair it or use --on-error skip"):
        build(some)
    finished = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert len(finished) in (2, 3)  # the last of them may be left unfinished
    manifest = build(replace(some, on_error="skip"))
    assert [odd.name for odd in manifest.splits["train"].skipped] == ["pear/pear_2.PNG"]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_a_shard_without_any_sound_image_is_an_error(files: Files, tmp_path: Path) -> None:
    source = tar_of_folders({**files, "pear": dict.fromkeys(files["pear"], b"nothing")}, tmp_path / "source.tar")
    with pytest.raises(DataError, match=r"no image for train-000\d\d-of-00012.h5 that can be decoded.*fewer --shards"):
        build(Options(source, tmp_path / "out", size=8, shards=12, on_error="skip", workers=1))


@pytest.mark.parametrize("change", [{"size": 9}, {"seed": 1}, {"shards": 2}, {"channels": 1}])
def test_shards_of_other_options_are_not_taken_for_finished_ones(
    source: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    build(options(source, out))
    (out / "manifest.json").unlink()
    other = replace(options(source, out), **change)
    with pytest.raises(ValueError, match=r"holds 6 shards of another source or other options, such as train-00000"):
        build(other)
    build(replace(other, overwrite=True))
    build(replace(other, out=tmp_path / "fresh"))
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("change", ["another class", "another name", "another size"])
def test_shards_of_another_source_are_not_taken_for_finished_ones(files: Files, tmp_path: Path, change: str) -> None:
    source, out = tmp_path / "source.tar", tmp_path / "out"
    build(options(tar_of_folders(files, source), out))
    (out / "manifest.json").unlink()
    pears = dict(files["pear"])
    name, content = pears.popitem()
    others: Files = {
        "another class": {"fig": files["pear"]},
        "another name": {"pear": {**pears, name.lower(): content}},
        "another size": {"pear": {**pears, name: content + b"\0"}},
    }[change]
    tar_of_folders({**files, **others}, source)
    with pytest.raises(ValueError, match="shards of another source"):
        build(options(source, out))


def test_a_damaged_shard_is_made_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(options(source, out))
    expected = contents(out)
    (out / "manifest.json").unlink()
    shard = out / "train-00001-of-00003.h5"
    shard.write_bytes(shard.read_bytes()[:-1000])
    build(options(source, out))
    assert contents(out) == expected


def test_workers_end_when_their_rank_is_killed(source: Path, tmp_path: Path) -> None:
    """As only the operating system ends them otherwise, when it is out of memory."""
    pids = tmp_path / "pids"

    def work() -> None:
        def die(*_: Any) -> None:
            pids.write_text(" ".join(str(child.pid) for child in multiprocessing.active_children()))
            os.kill(os.getpid(), signal.SIGKILL)

        shard_writer.ShardWriter.commit = die  # type: ignore[assignment,method-assign]
        build(replace(options(source, tmp_path / "out"), workers=2))

    run_in_child(work)
    workers = [int(pid) for pid in pids.read_text().split()]
    assert len(workers) == 2
    assert all(ends(pid, 20) for pid in workers)


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
@pytest.mark.parametrize("part", [0.0, 0.2, 0.45, 0.7, 0.9, 0.999])
def test_a_full_disk_is_an_error_that_leaves_whole_shards_only(
    files: Files, tmp_path: Path, storage: str, part: float
) -> None:
    disk, undisturbed = tmp_path / "disk", tmp_path / "undisturbed"
    source = tar_of_folders(files, tmp_path / "source.tar")
    build(options(source, undisturbed, storage))
    expected = contents(undisturbed)
    num_pages = sum(-(-len(content) // 4096) for content in expected.values())
    with small_disk(disk, max(int(part * num_pages), 1) * 4096):
        with pytest.raises(DataError, match=r"disk is full \(No space left on device\).*finished shards are kept"):
            build(options(source, disk, storage))
        left = contents(disk)
        assert left.keys() < expected.keys()
        assert all(expected[name] == content for name, content in left.items())
        os.system(f"mount -o remount,size={1 << 20} {disk}")
        build(options(source, disk, storage))
        assert contents(disk) == expected


def test_no_room_for_unpacking_the_source_is_an_error_that_leaves_nothing(source: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4096):
        with pytest.raises(DataError, match=r"No space left on device.*make room"):
            build(options(source, tmp_path / "disk"))
        assert contents(tmp_path / "disk") == {}
