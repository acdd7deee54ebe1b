"""Events for TensorBoard, read back by the format's own rules: records with lengths and masked CRC-32C."""

import json
import struct

import numpy as np
import pytest

from owt_mpi.metrics import Reporter
from owt_mpi.tensorboard import EventFile, check_installed

Event = pytest.importorskip("tensorboardX.proto.event_pb2").Event


def masked_crc(data: bytes) -> int:
    """Castagnoli's CRC bit by bit, rotated and offset as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events_in(folder):
    """Return the events of the folder's files, the oldest first."""
    events = []
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            head = content[at : at + 8]
            (length,) = struct.unpack("<Q", head)
            data = content[at + 12 : at + 12 + length]
            sums = struct.unpack_from("<I", content, at + 8)[0], struct.unpack_from("<I", content, at + 12 + length)[0]
            assert sums == (masked_crc(head), masked_crc(data))
            events.append(Event.FromString(data))
            at += 16 + length
    return events


def scalars_in(folder):
    """Return {tag: {step: value}} as TensorBoard shows it: a new start drops the steps from there on."""
    found: dict[str, dict[int, float]] = {}
    for event in events_in(folder):
        if event.HasField("session_log"):
            assert event.session_log.status == event.session_log.START
            found = {tag: {s: v for s, v in points.items() if s < event.step} for tag, points in found.items()}
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_the_known_check_value_of_the_crc():
    """RFC 3720, B.4: 32 bytes of zeros have 0x8a9136aa."""
    assert masked_crc(bytes(32)) == ((0x8A9136AA >> 15 | 0x8A9136AA << 17) + 0xA282EAD8) & 0xFFFFFFFF


def reporting(folder, active=True):
    return Reporter(active, folder / "metrics.jsonl", num_steps=40, events_folder=folder / "tensorboard")


def test_every_record_is_there_to_be_seen_once(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", iter(range(100, 200)).__next__)  # names of files
    score = {"loss": 1.5, "top1": 0.25, "top5": 0.75}
    for first, steps in ((0, (10, 20, 30)), (20, (30, 40))):
        with reporting(tmp_path) as reporter:
            reporter.begin_at(first)
            for step in steps:
                rates = {"trunk_lr": 0.1, "head_lr": 0.2, "images_per_second": 7.0}
                reporter.record("train", step=step, **{**score, "loss": step + first / 100}, **rates)
    with reporting(tmp_path) as reporter:
        reporter.begin_at(40)
        reporter.record("validation", step=40, **score)
        outputs = {
            "trunk.conv1": {"mean": 0.5, "std": 1.0, "zeros": 0.0},
            "head.fc": {"mean": None, "std": 2.0, "zeros": 1},
        }
        reporter.record("layers", step=40, outputs=outputs, updates={"trunk.conv1.weight": 0.001, "head.fc.bias": None})
        times = [
            {"steps": 1.0, "exchange_wait": 0.2, "data_wait": 0.1},
            {"steps": 1.0, "exchange_wait": 0.4, "data_wait": 0},
        ]
        reporter.record("ranks", step=40, steps=10, ranks=times)
        reporter.record("wire", step=40, steps=10, flows=[])
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
    found = scalars_in(tmp_path / "tensorboard")
    assert found["loss/train"] == pytest.approx({10: 10, 20: 20, 30: 30.2, 40: 40.2})
    assert {tag: points[40] for tag, points in found.items() if tag != "loss/train"} == pytest.approx(
        {
            "top1/train": 0.25, "top5/train": 0.75, "loss/validation": 1.5, "top1/validation": 0.25,
            "top5/validation": 0.75, "learning rate/trunk": 0.1, "learning rate/head": 0.2,
            "time/images per second": 7, "outputs, mean/trunk.conv1": 0.5, "outputs, std/trunk.conv1": 1,
            "outputs, zeros/trunk.conv1": 0, "outputs, std/head.fc": 2, "outputs, zeros/head.fc": 1,
            "update to weight/trunk.conv1.weight": 0.001, "time/ms a step": 100, "time/ms a step, computing": 65,
            "time/ms a step, waiting for exchanges": 30, "time/ms a step, waiting for data": 5,
        }
    )  # fmt: skip


def test_numbers_that_are_none_are_left_out(tmp_path):
    with reporting(tmp_path) as reporter:
        reporter.begin_at(0)
        reporter.record("validation", step=3, loss=float("nan"), top1=np.float64(0.5), top5=float("inf"))
    assert scalars_in(tmp_path / "tensorboard") == {"top1/validation": {3: 0.5}}


def test_other_ranks_write_no_events(tmp_path):
    with reporting(tmp_path, active=False) as reporter:
        reporter.begin_at(0)
        reporter.record("validation", step=3, loss=1.0, top1=0.5, top5=0.5)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_is_said_once_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with reporting(tmp_path) as reporter:
        reporter.begin_at(0)
        monkeypatch.setattr(EventFile, "write", fail)
        for step in (3, 4):
            reporter.record("validation", step=step, loss=1.0, top1=0.5, top5=0.5)
    assert capsys.readouterr().out.count("No space left on device") == 1
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "validation"] == [3, 4]


def test_without_the_library_the_extra_is_named(monkeypatch):
    check_installed()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'owt_mpi\[tensorboard\]'"):
        check_installed()
