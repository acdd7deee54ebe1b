"""oneDNN's C API, version 3, through ctypes: finding and loading the library, prototypes, errors and handles.

The numbers are those of the enumerations in dnnl_types.h and dnnl_common_types.h (oneDNN 3.2).
"""

import ctypes
import os
import sys
from ctypes import POINTER, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

from owt_mpi.backends.base import Shape

LIBRARY_VARIABLE = "OWT_MPI_LIBDNNL"
LIBRARY_NAME = "libdnnl.so.3"

# dnnl_prop_kind_t and dnnl_alg_kind_t
FORWARD_TRAINING = 64
ELTWISE_RELU, ELTWISE_RELU_BY_DST = 0x20, 0x100
CONVOLUTION_DIRECT, POOLING_MAX, POOLING_AVG_EXCLUDE_PADDING, LRN_ACROSS_CHANNELS = 0x1, 0x1FF, 0x3FF, 0xAFF
# argument numbers of dnnl_primitive_execute
SRC, DST, WEIGHTS, BIAS, WORKSPACE, SCRATCHPAD = 1, 17, 33, 41, 64, 80
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS = 129, 145, 161, 169
# dnnl_format_tag_t; logical dimensions are always (n, c, h, w), and acdb stores them as n, h, w, c
TAG_ANY, TAG_VECTOR, TAG_CHANNELS_LAST = 1, 2, 22

BFLOAT16, FLOAT32 = 2, 3  # dnnl_data_type_t
STREAM_IN_ORDER = 1  # dnnl_stream_flags_t

_ENGINE_CPU, _SCRATCHPAD_USER, _QUERY_EXEC_ARG_MD = 1, 1, 255
_STATUS_NAMES = {
    1: "out of memory",
    2: "invalid arguments",
    3: "unimplemented",
    4: "last implementation reached",
    5: "runtime error",
    6: "not required",
}
# dnnl_get_effective_cpu_isa is a set of bits: the first of these that is contained names it
_ISA_WITH_BFLOAT16 = 0xE7
_ISA_NAMES = {_ISA_WITH_BFLOAT16: "AVX-512 with bfloat16", 0x27: "AVX-512", 0x7: "AVX2", 0x3: "AVX", 0x1: "SSE4.1"}

_Dims = c_int64 * 12


class ExecArg(ctypes.Structure):
    """dnnl_exec_arg_t: an argument's number and its memory."""

    _fields_ = (("arg", c_int), ("memory", c_void_p))


class _Version(ctypes.Structure):
    _fields_ = (("major", c_int), ("minor", c_int), ("patch", c_int), ("hash", c_char_p))


_TYPES = {
    "o": POINTER(c_void_p),  # where the new object goes
    "h": c_void_p,  # an object, or memory
    "d": POINTER(c_int64),  # dnnl_dims_t
    "i": c_int,
    "n": c_int64,
    "f": c_float,
    "z": c_size_t,
    "u": c_uint,
    "a": POINTER(ExecArg),
}
# parameter types of the functions that return dnnl_status_t
_PROTOTYPES = {
    "engine_create": "oiz",
    "stream_create": "ohu",
    "stream_wait": "h",
    "primitive_attr_create": "o",
    "primitive_attr_set_scratchpad_mode": "hi",
    "primitive_attr_set_post_ops": "hh",
    "post_ops_create": "o",
    "post_ops_append_eltwise": "hiff",
    "memory_desc_create_with_tag": "oidii",
    "memory_desc_create_with_strides": "oidid",
    "memory_desc_clone": "oh",
    "memory_create": "ohhh",
    "memory_set_data_handle": "hh",
    "primitive_create": "oh",
    "primitive_execute": "hhia",
    "reorder_primitive_desc_create": "ohhhhh",
    "convolution_forward_primitive_desc_create": "ohiihhhhddddh",
    "convolution_backward_data_primitive_desc_create": "ohihhhddddhh",
    "convolution_backward_weights_primitive_desc_create": "ohihhhhddddhh",
    "matmul_primitive_desc_create": "ohhhhhh",
    "inner_product_forward_primitive_desc_create": "ohihhhhh",
    "inner_product_backward_data_primitive_desc_create": "ohhhhhh",
    "inner_product_backward_weights_primitive_desc_create": "ohhhhhhh",
    "eltwise_forward_primitive_desc_create": "ohiihhffh",
    "eltwise_backward_primitive_desc_create": "ohihhhffhh",
    "pooling_forward_primitive_desc_create": "ohiihhdddddh",
    "pooling_backward_primitive_desc_create": "ohihhdddddhh",
    "lrn_forward_primitive_desc_create": "ohiihhnfffh",
    "lrn_backward_primitive_desc_create": "ohihhhnfffhh",
}


class OneDnnError(RuntimeError):
    """A function of the library returned a status other than success."""


class Handle:
    """One object of the library, destroyed with the last reference to this. ctypes passes it as its pointer."""

    def __init__(self, pointer: c_void_p, destroy: Any, made_from: tuple[Any, ...]) -> None:
        self.pointer = self._as_parameter_ = pointer
        self._destroy = destroy
        self._made_from = made_from  # the engine above all must outlive what it made

    def __del__(self) -> None:
        self._destroy(self._as_parameter_)


class Library:
    """The loaded library and its CPU engine. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        """Load `path`. OSError if it cannot be loaded or is not oneDNN 3 on OpenMP."""
        self.path = path
        self._c = ctypes.CDLL(str(path))
        for needed, what in (("dnnl_memory_desc_create_with_tag", "oneDNN 3"), ("omp_get_max_threads", "on OpenMP")):
            if not hasattr(self._c, needed):
                raise OSError(f"{path} is not {what}: it has no {needed}")
        for name, types in _PROTOTYPES.items():
            self._function(name, types, c_int)
            if types.startswith("o"):
                self._function(_destroyer(name), "h", c_int)
        self._same = self._function("memory_desc_equal", "hh", c_int)
        self._size = self._function("memory_desc_get_size", "h", c_size_t)
        self._query_md = self._function("primitive_desc_query_md", "hii", c_void_p)
        self._omp_get_max_threads = self._c.omp_get_max_threads  # of the very OpenMP runtime that the library links
        self._omp_get_max_threads.argtypes, self._omp_get_max_threads.restype = [], c_int
        version = self._function("version", "", POINTER(_Version))().contents
        self.version = f"{version.major}.{version.minor}.{version.patch}"
        isa = self._function("get_effective_cpu_isa", "", c_int)()
        self.isa = next((name for bits, name in _ISA_NAMES.items() if isa & bits == bits), "baseline")
        self.has_avx512 = self.isa.startswith("AVX-512")
        self.multiplies_bfloat16 = isa & _ISA_WITH_BFLOAT16 == _ISA_WITH_BFLOAT16
        self.engine = self.create("engine_create", _ENGINE_CPU, 0)
        self.attributes = self._new_attributes()
        self.attributes_with_relu = self._new_attributes()
        post_ops = self.create("post_ops_create")
        self.call("post_ops_append_eltwise", post_ops, ELTWISE_RELU, 0.0, 0.0)
        self.call("primitive_attr_set_post_ops", self.attributes_with_relu, post_ops)

    def call(self, name: str, *arguments: Any) -> None:
        """Call dnnl_`name`. OneDnnError unless it succeeds."""
        status = getattr(self._c, f"dnnl_{name}")(*arguments)
        if status:
            raise OneDnnError(f"dnnl_{name} returned {_STATUS_NAMES.get(status, 'an unknown status')} ({status})")

    def create(self, name: str, *arguments: Any) -> Handle:
        """Return the object that dnnl_`name` makes from `arguments` (without the first, the place for it)."""
        pointer = c_void_p()
        self.call(name, ctypes.byref(pointer), *arguments)
        return Handle(pointer, getattr(self._c, f"dnnl_{_destroyer(name)}"), arguments)

    def descriptor(self, shape: Shape, tag: int, data_type: int) -> Handle:
        """Return a memory descriptor of the logical `shape`."""
        return self.create("memory_desc_create_with_tag", len(shape), sizes(shape), data_type, tag)

    def strided_descriptor(self, shape: Shape, strides: Shape, data_type: int) -> Handle:
        """Return a memory descriptor of the logical `shape`, whose steps in memory are `strides` elements."""
        creator = "memory_desc_create_with_strides"
        return self.create(creator, len(shape), sizes(shape), data_type, sizes(strides))

    def argument_descriptor(self, primitive_desc: Handle, argument: int) -> Handle:
        """Return the descriptor that a primitive wants for an argument (of size 0 where it does not take it)."""
        return self.create("memory_desc_clone", self._query_md(primitive_desc, _QUERY_EXEC_ARG_MD, argument))

    def num_bytes(self, descriptor: Handle) -> int:
        """Return how much memory `descriptor` describes."""
        return int(self._size(descriptor))

    def same(self, first: Handle, second: Handle) -> bool:
        """Return whether two descriptors describe the same layout."""
        return bool(self._same(first, second))

    def max_threads(self) -> int:
        """Return how many OpenMP threads the library uses when called from this thread."""
        return int(self._omp_get_max_threads())

    def _new_attributes(self) -> Handle:
        attributes = self.create("primitive_attr_create")
        self.call("primitive_attr_set_scratchpad_mode", attributes, _SCRATCHPAD_USER)
        return attributes

    def _function(self, name: str, types: str, returned: Any) -> Any:
        function = getattr(self._c, f"dnnl_{name}")
        function.argtypes, function.restype = [_TYPES[letter] for letter in types], returned
        return function


def sizes(values: tuple[int, ...]) -> Any:
    """Return `values` as dnnl_dims_t."""
    return _Dims(*values)


def find_library() -> Path:
    """Return the path of the library: what OWT_MPI_LIBDNNL names, or where `pip install 'owt_mpi[cpu]'` puts it.

    FileNotFoundError with the places that were searched.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise FileNotFoundError(f"{LIBRARY_VARIABLE} names {named}, which is not a file")
        return Path(named)
    # a wheel's data goes to <prefix>/lib, and its packages to <prefix>/lib/python3.x/site-packages
    packages = (Path(entry) for entry in sys.path if Path(entry).name in {"site-packages", "dist-packages"})
    folders = dict.fromkeys([Path(sys.prefix) / "lib", *(folder.parent.parent for folder in packages)])
    for folder in folders:
        if (folder / LIBRARY_NAME).is_file():
            return folder / LIBRARY_NAME
    raise FileNotFoundError(f"no {LIBRARY_NAME} in {', '.join(map(str, folders))}, and {LIBRARY_VARIABLE} is not set")


def _destroyer(creator: str) -> str:
    """Return the name of the function that destroys what `creator` makes: stream_create -> stream_destroy."""
    for kind in ("primitive_desc", "memory_desc", "primitive_attr"):
        if f"{kind}_c" in creator:
            return f"{kind}_destroy"
    return creator.replace("_create", "_destroy")
