"""Running one oneDNN primitive on NumPy arrays, reordering where it wants another layout than theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from owt_mpi.backends.base import Shape
from owt_mpi.backends.onednn_api import DST, FLOAT32, SCRATCHPAD, SRC, STREAM_IN_ORDER, ExecArg, Handle, Library

_ALIGNMENT = 64  # bytes: a cache line, and an AVX-512 register


class Context:
    """What the primitives of one thread share: the stream they run on and the scratchpad that each uses in turn.

    Their arrays hold numbers of `data_type`, one of the library's.
    """

    def __init__(self, library: Library, data_type: int = FLOAT32) -> None:
        self.library, self.data_type = library, data_type
        self.stream = library.create("stream_create", library.engine, STREAM_IN_ORDER)
        self.scratchpad = aligned_bytes(0)

    def descriptor(self, shape: Shape, tag: int) -> Handle:
        """Return the layout of an array of the logical `shape`."""
        return self.library.descriptor(shape, tag, self.data_type)

    def reserve(self, num_bytes: int) -> None:
        """Make the scratchpad at least that large."""
        if self.scratchpad.nbytes < num_bytes:
            self.scratchpad = aligned_bytes(num_bytes)


@dataclass(frozen=True)
class _Step:
    primitive: Handle
    arguments: Any  # array of ExecArg
    memories: tuple[Handle, ...]  # what the arguments point to
    scratchpad: Handle | None


class Primitive:
    """A primitive with its memory objects and reorders. For the thread of its context alone."""

    def __init__(
        self,
        context: Context,
        primitive_desc: Handle,
        inputs: Mapping[int, Handle | None],
        outputs: Mapping[int, Handle | None],
    ) -> None:
        """Build it. `inputs` and `outputs` give the layouts of the caller's arrays, by argument number.

        None stands for the layout that the primitive wants. Any other layout that is not the wanted one is reordered,
        inputs before and outputs after, through a buffer that is kept between runs.
        """
        self._context = context
        library = context.library
        self._callers: dict[int, Handle] = {}  # memory objects that get the caller's arrays
        self._num_bytes: dict[int, int] = {}
        self._buffers: list[np.ndarray] = []
        memories: dict[int, Handle] = {}  # memory objects that the primitive works on
        before, after = [], []
        for argument, given in {**inputs, **outputs}.items():
            wanted = library.argument_descriptor(primitive_desc, argument)
            layout = given or wanted
            caller = self._callers[argument] = self._memory(layout, None)
            self._num_bytes[argument] = library.num_bytes(layout)
            if library.same(layout, wanted):
                memories[argument] = caller
                continue
            buffer = aligned_bytes(library.num_bytes(wanted))
            self._buffers.append(buffer)
            memories[argument] = self._memory(wanted, buffer)
            if argument in inputs:
                before.append(self._reorder(layout, caller, wanted, memories[argument]))
            else:
                after.append(self._reorder(wanted, memories[argument], layout, caller))
        self._steps = [*before, self._step(primitive_desc, memories), *after]

    def empty(self, argument: int) -> np.ndarray:
        """Return new bytes for an argument whose layout is the primitive's own, such as a workspace."""
        return np.empty(self._num_bytes[argument], np.uint8)

    def run(self, arrays: Mapping[int, np.ndarray]) -> None:
        """Run on `arrays`, one for each argument it was built with: C-contiguous, of the layout given then."""
        library = self._context.library
        assert arrays.keys() == self._callers.keys()
        for argument, array in arrays.items():
            assert array.flags.c_contiguous
            assert array.nbytes == self._num_bytes[argument]
            library.call("memory_set_data_handle", self._callers[argument], array.ctypes.data)
        for step in self._steps:
            if step.scratchpad is not None:
                address = self._context.scratchpad.ctypes.data
                library.call("memory_set_data_handle", step.scratchpad, address)
            stream, arguments = self._context.stream, step.arguments
            library.call("primitive_execute", step.primitive, stream, len(arguments), arguments)
        library.call("stream_wait", self._context.stream)

    def _step(self, primitive_desc: Handle, memories: Mapping[int, Handle]) -> _Step:
        library = self._context.library
        scratchpad = None
        descriptor = library.argument_descriptor(primitive_desc, SCRATCHPAD)
        if library.num_bytes(descriptor) > 0:
            self._context.reserve(library.num_bytes(descriptor))
            scratchpad = self._memory(descriptor, None)
            memories = {**memories, SCRATCHPAD: scratchpad}
        arguments = (ExecArg * len(memories))(
            *(ExecArg(argument, memory.pointer) for argument, memory in memories.items())
        )
        primitive = library.create("primitive_create", primitive_desc)
        return _Step(primitive, arguments, tuple(memories.values()), scratchpad)

    def _reorder(self, source_layout: Handle, source: Handle, target_layout: Handle, target: Handle) -> _Step:
        library = self._context.library
        primitive_desc = library.create(
            "reorder_primitive_desc_create",
            source_layout,
            library.engine,
            target_layout,
            library.engine,
            library.attributes,
        )
        return self._step(primitive_desc, {SRC: source, DST: target})

    def _memory(self, descriptor: Handle, buffer: np.ndarray | None) -> Handle:
        library = self._context.library
        address = None if buffer is None else buffer.ctypes.data
        return library.create("memory_create", descriptor, library.engine, address)


def aligned_bytes(num_bytes: int) -> np.ndarray:
    """Return that many bytes, uninitialised, starting at a multiple of 64 bytes."""
    with_room = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -with_room.ctypes.data % _ALIGNMENT
    return with_room[start : start + num_bytes]
