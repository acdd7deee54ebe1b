"""Checkpoints appear whole or not at all; what cannot be written is a message; what is damaged is named."""

import errno
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from owt_mpi.checkpoint import folder as folders
from owt_mpi.checkpoint import saver as saving
from owt_mpi.checkpoint.folder import checkpoints_in, resolve
from owt_mpi.checkpoint.format import CheckpointError, CheckpointManifest
from owt_mpi.checkpoint.parts import Part
from owt_mpi.checkpoint.reader import Checkpoint, first_damage, newest_whole, verify
from owt_mpi.checkpoint.saver import CheckpointSaver, Snapshot
from owt_mpi.comm.serial import SerialCommunicator
from owt_mpi.comm.threads import run_ranks


def parts_of(rank, size, step):
    """Return a rank's rows and columns of two arrays whose elements say where they are, and when."""
    rows, columns = np.arange(12.0).reshape(6, 2) + 100 * step, np.arange(8.0).reshape(2, 4) - step
    height, width = 6 // size, 4 // size
    return [
        Part("weights/a", (6, 2), (rank * height, 0), rows[rank * height : (rank + 1) * height]),
        Part("momentum/b.c", (2, 4), (0, rank * width), columns[:, rank * width : (rank + 1) * width]),
    ]


def save_steps(folder, steps, num_ranks=2, keep=3, best=()):
    """Save a checkpoint at each of the steps; return rank 0's messages."""

    def fn(comm):
        saver = CheckpointSaver(folder, comm, keep, config={"run": {"seed": 1}}, program="test 1.0")
        for step in steps:
            saver.save(Snapshot(step, parts_of(comm.rank, comm.size, step), {"epoch": 2}, is_best=step in best))
        saver.finish()
        return saver.messages(), saver.num_written

    return run_ranks(num_ranks, fn)[0]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_joined_file_shows_global_arrays_to_any_program(tmp_path, num_ranks, monkeypatch):
    assert save_steps(tmp_path, [7], num_ranks) == ([], 1)
    monkeypatch.chdir("/")  # parts are found beside the joined file, wherever the program runs
    with h5py.File(tmp_path / "step-000000007" / "checkpoint.h5", "r") as file:
        np.testing.assert_array_equal(file["weights/a"][...], np.arange(12.0).reshape(6, 2) + 700)
        np.testing.assert_array_equal(file["momentum/b.c"][...], np.arange(8.0).reshape(2, 4) - 7)
    manifest = verify(tmp_path / "step-000000007")
    assert (manifest.step, manifest.state, manifest.config) == (7, {"epoch": 2}, {"run": {"seed": 1}})
    names = {path.name for path in (tmp_path / "step-000000007").iterdir()}
    assert names == {*manifest.files, "checkpoint.json"}


def test_a_checkpoint_may_be_moved(tmp_path):
    save_steps(tmp_path / "run", [7])
    (tmp_path / "run" / "step-000000007").rename(tmp_path / "elsewhere")
    verify(tmp_path / "elsewhere")
    with Checkpoint(tmp_path / "elsewhere") as checkpoint:
        assert checkpoint.weights["a"][5, 1] == 711


def test_the_newest_and_the_best_are_kept_and_pointed_to(tmp_path):
    save_steps(tmp_path, [1, 2, 3, 4, 5], keep=2, best=[2])
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-000000005", "step-000000004", "step-000000002"]
    assert resolve(tmp_path / "latest").resolve().name == "step-000000005"
    assert resolve(tmp_path / "best").resolve().name == "step-000000002"
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in checkpoints_in(tmp_path)), "latest", "best",
    }  # fmt: skip


def test_a_link_to_itself_in_the_place_of_best_is_passed_over(tmp_path):
    (tmp_path / "best").symlink_to("best")
    assert save_steps(tmp_path, [1, 2, 3], keep=2) == ([], 3)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-000000003", "step-000000002"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["step-000000002", ".unfinished-step-000000001"])
def test_a_pipe_in_the_place_of_a_checkpoint_goes(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert save_steps(tmp_path, [1, 2]) == ([], 2)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-000000002", "step-000000001"]
    assert {path.name for path in tmp_path.iterdir()} == {"step-000000002", "step-000000001", "latest"}


def test_a_step_that_is_reached_again_replaces_its_checkpoint(tmp_path):
    save_steps(tmp_path, [1, 2], num_ranks=2)
    save_steps(tmp_path, [2], num_ranks=1)
    verify(tmp_path / "step-000000002")
    assert sorted(CheckpointManifest.read(tmp_path / "latest").files) == ["checkpoint.h5", "part-00000-of-00001.h5"]


def test_what_a_killed_job_left_is_no_checkpoint_and_goes_with_the_next(tmp_path):
    save_steps(tmp_path, [1])
    (tmp_path / "step-000000001").rename(tmp_path / ".unfinished-step-000000001")
    assert checkpoints_in(tmp_path) == []
    save_steps(tmp_path, [2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000000002"]


@pytest.mark.parametrize("failing_rank", [0, 1])
def test_a_full_disk_is_a_message_and_leaves_the_checkpoints_before(tmp_path, monkeypatch, failing_rank):
    save_steps(tmp_path, [1])
    write = saving.write_parts

    def on_a_full_disk(path, parts):
        if path.name.startswith(f"part-0000{failing_rank}"):
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, parts)

    monkeypatch.setattr(saving, "write_parts", on_a_full_disk)
    messages, written = save_steps(tmp_path, [2])
    assert written == 0
    assert len(messages) == 1
    assert f"step 2 could not be written (rank {failing_rank}: [Errno 28] No space left" in messages[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000000001"]
    verify(tmp_path / "latest")


@pytest.mark.parametrize("failing_rank", [0, 1])
def test_no_room_to_begin_is_a_message_too(tmp_path, monkeypatch, failing_rank):
    reserve = saving._reserve

    def on_a_full_disk(path):
        if path.name.endswith(str(failing_rank)):
            raise OSError(errno.ENOSPC, "No space left on device")
        reserve(path)

    monkeypatch.setattr(saving, "_reserve", on_a_full_disk)
    messages, _ = save_steps(tmp_path, [2])
    assert "step 2 could not be written ([Errno 28] No space left on device)" in messages[0]
    assert checkpoints_in(tmp_path) == []


@pytest.mark.timeout(60)
def test_a_rank_that_cannot_say_whether_its_part_is_written_is_not_waited_for_without_end(tmp_path, monkeypatch):
    say = saving._say
    monkeypatch.setattr(saving, "_say", lambda path, status: None if path.name.endswith("1") else say(path, status))
    monkeypatch.setattr(saving, "_SHOWING_SECONDS", 0.2)
    messages, written = save_steps(tmp_path, [2])
    assert written == 0
    assert "step 2 could not be written (status-00001 does not say whether that rank's part is written)" in messages[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_fails_in_an_unforeseen_way_is_not_waited_for_without_end(tmp_path, monkeypatch):
    def failing(path, parts):
        raise ZeroDivisionError

    monkeypatch.setattr(saving, "write_parts", failing)
    assert save_steps(tmp_path, [2])[1] == 0
    assert checkpoints_in(tmp_path) == []


@pytest.mark.parametrize("point", ["before the name", "before the link", "while old ones go"])
def test_a_kill_at_any_moment_leaves_whole_checkpoints_only(tmp_path, monkeypatch, point):
    """The file system is left as by a kill at that moment: what would come after it does not happen."""
    save_steps(tmp_path, [1, 2], keep=2)

    class Killed(BaseException):
        pass

    def killed(*arguments):
        raise Killed

    name = {"before the name": "sync_folder", "before the link": "_point", "while old ones go": "shutil"}[point]
    if name == "shutil":
        monkeypatch.setattr(folders.shutil, "rmtree", killed)
    else:
        monkeypatch.setattr(folders, name, killed)
    snapshot = Snapshot(3, parts_of(0, 1, 3), {})
    saver = CheckpointSaver(tmp_path, SerialCommunicator(), 2, {}, "test")
    unfinished = folders.make_unfinished(tmp_path, 3)
    saving._reserve(unfinished / "status-00000")
    with pytest.raises(Killed):
        saver._write(unfinished, snapshot, saving._PartsOver())
    monkeypatch.undo()
    assert all(first_damage(path, SerialCommunicator()) is None for path in checkpoints_in(tmp_path))
    path, damaged = newest_whole(tmp_path, SerialCommunicator())
    assert path is not None
    assert path.name == ("step-000000002" if point == "before the name" else "step-000000003")
    assert damaged == []
    save_steps(tmp_path, [4], keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*(p.name for p in checkpoints_in(tmp_path)), "latest"])


def flip_a_bit(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize(
    "name", ["part-00000-of-00002.h5", "part-00001-of-00002.h5", "checkpoint.h5", "checkpoint.json"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, name, num_ranks):
    save_steps(tmp_path, [1, 2])
    damaged_file = tmp_path / "step-000000002" / name
    flip_a_bit(damaged_file, 0.6)
    for path, damaged in run_ranks(num_ranks, lambda comm: newest_whole(tmp_path, comm)):
        assert path == tmp_path / "step-000000001"
        assert len(damaged) == 1
        assert str(damaged_file) in damaged[0]


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [remove, cut])
def test_missing_and_truncated_files_are_named(tmp_path, harm):
    save_steps(tmp_path, [1])
    for path in sorted((tmp_path / "step-000000001").iterdir()):
        if path.name == "checkpoint.json":
            continue
        before = path.read_bytes()
        harm(path)
        with pytest.raises(CheckpointError, match=path.name):
            verify(tmp_path / "latest")
        path.write_bytes(before)
    verify(tmp_path / "latest")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "not JSON", '{"format": "owt_mpi.checkpoint"}', "[" * 100_000, "\0"]
)
def test_a_manifest_of_nonsense_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "checkpoint.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json") as caught:
        verify(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "said"), [("../other", r"'\.\./other'"), ("a" * 3000, r"'a+\.\.\.a+'")])
def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path, name, said):
    save_steps(tmp_path, [1])
    manifest = CheckpointManifest.read(tmp_path / "latest")
    manifest.files[name] = manifest.files["checkpoint.h5"]
    manifest.write(tmp_path / "latest")
    with pytest.raises(CheckpointError, match=f"names {said}, which is not in its own folder"):
        verify(tmp_path / "latest")


def test_every_flipped_bit_of_the_manifest_is_seen(tmp_path):
    save_steps(tmp_path, [1])
    path = tmp_path / "step-000000001" / "checkpoint.json"
    before, original = path.read_bytes(), CheckpointManifest.read(path.parent)
    for place in range(len(before)):
        path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
        try:
            assert CheckpointManifest.read(path.parent) == original, "white space may differ, nothing else"
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_what_is_no_checkpoint_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        resolve(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no checkpoint; name a folder step-"):
        resolve(tmp_path)
    with pytest.raises(CheckpointError, match=r"is no checkpoint: it has no checkpoint\.json"):
        verify(tmp_path)
    (tmp_path / "checkpoint.json").write_text(json.dumps({"format": "owt_mpi.checkpoint", "format_version": 9}))
    with pytest.raises(CheckpointError, match="has format version 9, this program reads 1"):
        verify(tmp_path)
