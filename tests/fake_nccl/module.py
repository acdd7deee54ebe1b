"""The module that `from cupy.cuda import nccl` gives, and what its communicators do."""

import itertools
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.fake_cupy import engine
from tests.fake_nccl.matching import Group, Launch, NcclError, Primitive
from tests.fake_nccl.record_signatures import PATH

_LINES = PATH.read_text(encoding="utf-8").splitlines()
CONSTANTS = {name: int(value) for name, value in (each.split("=") for each in _LINES[-1].split())}
PARAMETERS = {  # of each method, the type and the name of every argument but self
    line.split("(")[0].split(".")[-1]: [tuple(each.split()[:2]) for each in line.split("(")[1].rstrip(")").split(", ")]
    for line in _LINES[:-1]
}
DTYPES = {CONSTANTS[f"NCCL_{name.upper()}"]: np.dtype(name) for name in
          ("int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")}  # fmt: skip
JOIN_SECONDS = 20  # until ranks that do not come are given up

_ids = itertools.count()
_groups: dict[bytes, Group] = {}
_streams: "weakref.WeakValueDictionary[int, engine.Stream]" = weakref.WeakValueDictionary()
_blocks: "weakref.WeakSet[engine.Block]" = weakref.WeakSet()


class _Open(threading.local):
    """The launches of the calling thread's open group, by communicator; None outside a group."""

    launches: "dict[NcclCommunicator, list[Primitive]] | None" = None


_open = _Open()


def get_unique_id() -> bytes:
    return b"%128d" % next(_ids)


def get_version() -> int:
    return 22304


def group_start() -> None:
    assert _open.launches is None, "groups are not nested here"
    _open.launches = {}


def group_end() -> None:
    launches, _open.launches = _open.launches, None
    assert launches is not None, "there is no group"
    for communicator, primitives in launches.items():
        communicator._launch(primitives)


class NcclCommunicator:
    """cupy.cuda.nccl.NcclCommunicator, one rank's."""

    def __init__(self, ndev: int, commId: bytes, rank: int) -> None:
        assert type(commId) is bytes
        assert len(commId) == 128
        with engine.LOCK:
            self._group = _groups.setdefault(commId, Group(ndev, JOIN_SECONDS))
        self._rank, self._size = rank, ndev
        self._group.join(rank, ndev)

    def rank_id(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._size

    def allReduce(self, *args: int) -> None:
        sent, received, count, kind, op, stream = _checked("allReduce", args)
        self._add("allReduce", stream, (count, kind, op), _view(sent, count, kind), _view(received, count, kind))

    def allGather(self, *args: int) -> None:
        sent, received, count, kind, stream = _checked("allGather", args)
        target = _view(received, count * self._size, kind)
        self._add("allGather", stream, (count, kind), _view(sent, count, kind), target)

    def reduceScatter(self, *args: int) -> None:
        sent, received, count, kind, op, stream = _checked("reduceScatter", args)
        source = _view(sent, count * self._size, kind)
        self._add("reduceScatter", stream, (count, kind, op), source, _view(received, count, kind))

    def broadcast(self, *args: int) -> None:
        sent, received, count, kind, root, stream = _checked("broadcast", args)
        source = _view(sent, count, kind) if self._rank == root else None
        self._add("broadcast", stream, (count, kind, root), source, _view(received, count, kind))

    def reduce(self, *args: int) -> None:
        sent, received, count, kind, op, root, stream = _checked("reduce", args)
        target = _view(received, count, kind) if self._rank == root else None
        self._add("reduce", stream, (count, kind, op, root), _view(sent, count, kind), target)

    def send(self, *args: int) -> None:
        sent, count, kind, peer, stream = _checked("send", args)
        assert _open.launches is not None, "a send alone hangs until its receive"
        self._add("send", stream, (count, kind, peer), _view(sent, count, kind), None)

    def recv(self, *args: int) -> None:
        received, count, kind, peer, stream = _checked("recv", args)
        assert _open.launches is not None, "a receive alone hangs until its send"
        self._add("recv", stream, (count, kind, peer), None, _view(received, count, kind))

    def _add(
        self, kind: str, stream: int, facts: tuple[int, ...], source: engine.Use | None, target: engine.Use | None
    ) -> None:
        primitive = Primitive(kind, facts, _streams[stream], source, target)
        if _open.launches is None:
            self._launch([primitive])
        else:
            _open.launches.setdefault(self, []).append(primitive)

    def _launch(self, primitives: list[Primitive]) -> None:
        Launch(self._group, self._rank, primitives).post()


def _checked(method: str, args: tuple[Any, ...]) -> tuple[int, ...]:
    """Return the arguments. TypeError unless they are as many as the real method takes, all plain integers."""
    wanted = PARAMETERS[method][1:]
    if len(args) != len(wanted):
        raise TypeError(f"{method}() takes {len(wanted)} arguments ({len(args)} given)")
    for value, (kind, name) in zip(args, wanted, strict=True):
        if type(value) is not int or (kind == "size_t" and value < 0):
            raise TypeError(f"{name} of {method}() is {value!r}, not a {kind}")
        if name == "datatype" and value not in DTYPES:
            raise NcclError(f"NCCL_ERROR_INVALID_ARGUMENT: datatype {value}")
        if name == "op" and value != CONSTANTS["NCCL_SUM"]:
            raise NcclError(f"NCCL_ERROR_INVALID_ARGUMENT: op {value}")
    return args


def _view(address: int, count: int, kind: int) -> engine.Use:
    """Return the device memory of `count` elements. NcclError if it is none."""
    num_bytes = count * DTYPES[kind].itemsize
    with engine.LOCK:
        for block in list(_blocks):
            first = address - block.bytes.__array_interface__["data"][0]
            if first >= 0 and first + num_bytes <= block.bytes.size and (block.bytes.size or not num_bytes):
                return block, block.bytes[first : first + num_bytes].view(DTYPES[kind])
    raise NcclError(f"NCCL_ERROR_UNHANDLED_CUDA_ERROR: {num_bytes} bytes at {address:#x} are not a device's")


@contextmanager
def nccl_stand_in() -> Iterator[ModuleType]:
    """Let `from cupy.cuda import nccl` give the stand-in, within that of CuPy."""
    module = ModuleType("cupy.cuda.nccl", "The stand-in for CuPy's NCCL.")
    functions = {"get_unique_id": get_unique_id, "get_version": get_version}
    functions |= {"groupStart": group_start, "groupEnd": group_end}
    vars(module).update(CONSTANTS | functions, available=True, NcclCommunicator=NcclCommunicator, NcclError=NcclError)
    stream_init, block_init = engine.Stream.__init__, engine.Block.__init__

    def new_stream(stream: engine.Stream, *args: Any, **kwargs: Any) -> None:
        stream_init(stream, *args, **kwargs)
        stream.ptr = id(stream)  # type: ignore[attr-defined]
        _streams[id(stream)] = stream

    def new_block(block: engine.Block, *args: Any) -> None:
        block_init(block, *args)
        _blocks.add(block)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Stream, "__init__", new_stream)
        patch.setattr(engine.Block, "__init__", new_block)
        patch.setattr(sys.modules["cupy.cuda"], "nccl", module, raising=False)
        patch.setitem(sys.modules, "cupy.cuda.nccl", module)
        _groups.clear()
        yield module
