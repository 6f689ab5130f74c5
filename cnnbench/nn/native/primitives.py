"""Describes convolutions to oneDNN, once for each shape, and to the handler that executes them."""

import ctypes
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import Structure, byref, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

from cnnbench.nn.native.compiler import registered
from cnnbench.nn.native.correlation import Correlation, Pass
from cnnbench.nn.native.library import load
from cnnbench.system.arrays import Pair

TARGET = "cnnbench_onednn"  # of XLA's custom calls

# Constants of dnnl_types.h that are the same in all versions 3; numbers of layouts are not.
_CPU, _FLOAT32, _ANY_LAYOUT = 1, 3, 1
_FORWARD_TRAINING, _DIRECT = 64, 1
_SRC, _DST, _WEIGHTS, _SCRATCHPAD = 1, 17, 33, 80  # arguments
_DIFF_SRC, _DIFF_DST, _DIFF_WEIGHTS = 129, 145, 161
_WEIGHTS_LAYOUT, _DIFF_WEIGHTS_LAYOUT, _SCRATCHPAD_LAYOUT = 131, 132, 136  # queries
_UNSUPPORTED = (2, 3)  # invalid arguments, such as impossible sizes, and not implemented
_PAGE = 4096  # bytes; parts of the workspace start at a multiple
_IN, _OTHER, _OUT, _WORKSPACE = range(4)  # buffers of a call


@dataclass(frozen=True, slots=True)
class Operation:
    """A convolution, or a gradient of one, that the handler can execute.

    Args:
      key: identifies it in this process and in compiled programs.
      workspace: bytes of working memory.
    """

    key: int
    workspace: int


class _Operand(Structure):
    _fields_ = (
        ("argument", c_int32),
        ("buffer", c_int32),
        ("offset", c_int64),
        ("layout", c_void_p),
    )


class _Call(Structure):
    _fields_ = (("primitive", c_void_p), ("num_operands", c_int64), ("operands", _Operand * 4))


class _Operation(Structure):
    _fields_ = (
        ("key", c_int64),
        ("threads", c_int64),
        ("num_calls", c_int64),
        ("calls", _Call * 2),
        ("next", c_void_p),
    )


class _Library(Structure):
    _fields_ = tuple(
        (name, c_void_p)
        for name in (
            "memory_create",
            "memory_destroy",
            "stream_create",
            "execute",
            "set_threads",
            "engine",
        )
    )


class _UnsupportedError(Exception):
    """OneDNN has no implementation for these sizes."""


_lock = Lock()
_kept: list[_Operation] = []  # which the handler reads


@cache
def operation(which: Pass, of: Correlation, images: int, threads: int) -> Operation | None:
    """Creates the primitives of an operation; None if oneDNN does not support it.

    Args:
      which: what to compute.
      of: sizes of the convolution.
      images: number of images.
      threads: number of threads for each call.
    """
    with _lock:
        library, native = _started()
        try:
            with _threads(library, threads):
                calls, workspace = _calls(_Builder(library), which, of, images)
        except _UnsupportedError:
            return None
        digest = hashlib.sha256(repr((which, of, images, threads)).encode()).digest()
        key = int.from_bytes(digest[:8], "little", signed=True)
        made = _Operation(key, threads, len(calls), (_Call * 2)(*calls))
        _kept.append(made)
        native.add(byref(made))
    return Operation(key, workspace)


@cache
def _started() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """Makes oneDNN known to the handler, and the handler to XLA."""
    library, native = load(), registered("onednn.c", TARGET)
    assert library is not None
    names = (
        "dnnl_memory_create",
        "dnnl_memory_destroy",
        "dnnl_stream_create",
        "dnnl_primitive_execute",
        "omp_set_num_threads",
    )
    found = [getattr(library, name, None) for name in names]
    addresses = [ctypes.cast(each, c_void_p) if each else c_void_p() for each in found]
    native.start(byref(_Library(*addresses, _engine(library))))
    return library, native


@cache
def _engine(library: ctypes.CDLL) -> c_void_p:
    engine = c_void_p()
    _check(library.dnnl_engine_create(byref(engine), _CPU, c_size_t(0)))
    return engine


@contextmanager
def _threads(library: ctypes.CDLL, number: int) -> Iterator[None]:
    """Primitives expect as many threads as there are when they are created."""
    if not hasattr(library, "omp_set_num_threads"):
        yield
        return
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(number)
    try:
        yield
    finally:
        library.omp_set_num_threads(before)


def _check(status: int) -> None:
    if status in _UNSUPPORTED:
        raise _UnsupportedError
    assert not status, f"oneDNN: status {status}"


def _calls(make: "_Builder", which: Pass, of: Correlation, images: int) -> tuple[list[_Call], int]:
    """Primitives to call one after another, and the bytes of their workspace.

    oneDNN chooses the layout of the kernel, which is converted before or after the convolution.
    """
    inputs = make.images(images, of.size, of.channels)
    outputs = make.images(images, of.places, of.filters)
    kernel, described = make.convolution(which, of, inputs, outputs)
    gradient = which == "kernel_gradient"
    chosen = make.query(described, _DIFF_WEIGHTS_LAYOUT if gradient else _WEIGHTS_LAYOUT)
    scratch = make.query(described, _SCRATCHPAD_LAYOUT)
    converts = not make.library.dnnl_memory_desc_equal(chosen, kernel)
    place = _WORKSPACE if converts else _OUT if gradient else _OTHER
    converted = -(-make.size(chosen) // _PAGE) * _PAGE if converts else 0
    operands = {
        "forward": [(_SRC, _IN, inputs), (_WEIGHTS, place, chosen), (_DST, _OUT, outputs)],
        "input_gradient": [
            (_DIFF_DST, _IN, outputs),
            (_WEIGHTS, place, chosen),
            (_DIFF_SRC, _OUT, inputs),
        ],
        "kernel_gradient": [
            (_SRC, _IN, inputs),
            (_DIFF_DST, _OTHER, outputs),
            (_DIFF_WEIGHTS, place, chosen),
        ],
    }[which]
    workspace = [_Operand(_SCRATCHPAD, _WORKSPACE, converted, scratch)] if scratch else []
    main = make.call(described, [*(_Operand(a, b, 0, c) for a, b, c in operands), *workspace])
    calls = [main]
    if converts and gradient:
        calls = [main, make.conversion(chosen, _WORKSPACE, kernel, _OUT)]
    elif converts:
        calls = [make.conversion(kernel, _OTHER, chosen, _WORKSPACE), main]
    return calls, converted + make.size(scratch)


class _Builder:
    """Creates objects of oneDNN, which are never freed.

    Args:
      library: the library.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.dnnl_primitive_desc_query_md.restype = c_void_p
        library.dnnl_memory_desc_get_size.restype = c_size_t
        self.attributes = c_void_p()
        _check(library.dnnl_primitive_attr_create(byref(self.attributes)))
        mode = library.dnnl_primitive_attr_set_scratchpad_mode
        _check(mode(self.attributes, 1))  # the caller's memory

    def images(self, number: int, size: Pair, channels: int) -> c_void_p:
        """Describes images (n, h, w, c), whose axes oneDNN numbers n, c, h, w."""
        row = size[1] * channels
        return self.layout((number, channels, *size), (size[0] * row, 1, row, channels))

    def layout(self, sizes: Sequence[int], strides: Sequence[int]) -> c_void_p:
        """Describes an array of float32 by the sizes of its axes and the distances on them."""
        found, create = c_void_p(), self.library.dnnl_memory_desc_create_with_strides
        _check(create(byref(found), len(sizes), _sizes(sizes), _FLOAT32, _sizes(strides)))
        return found

    def any_layout(self, sizes: Sequence[int]) -> c_void_p:
        """Describes an array whose layout oneDNN chooses."""
        found, create = c_void_p(), self.library.dnnl_memory_desc_create_with_tag
        _check(create(byref(found), len(sizes), _sizes(sizes), _FLOAT32, _ANY_LAYOUT))
        return found

    def convolution(
        self, which: Pass, of: Correlation, inputs: c_void_p, outputs: c_void_p
    ) -> tuple[c_void_p, c_void_p]:
        """The layout of our kernels, (h, w, in / groups, out), and a description of the call."""
        filters, channels = of.filters // of.groups, of.channels // of.groups
        shape: tuple[int, ...] = (filters, channels, *of.kernel)
        pixel = channels * of.filters
        strides: tuple[int, ...] = (1, of.filters, of.kernel[1] * pixel, pixel)
        if of.groups > 1:
            shape, strides = (of.groups, *shape), (filters, *strides)
        sizes = (
            _sizes(of.stride),
            _sizes([distance - 1 for distance in of.dilation]),
            *(_sizes(pads) for pads in zip(*of.pads, strict=True)),
        )
        kernel = self.any_layout(shape)
        forward = (_FORWARD_TRAINING, _DIRECT, inputs, kernel, None, outputs, *sizes)
        described = self._described("forward", *forward)
        if which == "input_gradient":
            arguments = (_DIRECT, inputs, kernel, outputs, *sizes, described)
            described = self._described("backward_data", *arguments)
        elif which == "kernel_gradient":
            arguments = (_DIRECT, inputs, kernel, None, outputs, *sizes, described)
            described = self._described("backward_weights", *arguments)
        return self.layout(shape, strides), described

    def _described(self, name: str, *arguments: Any) -> c_void_p:
        found = c_void_p()
        create = getattr(self.library, f"dnnl_convolution_{name}_primitive_desc_create")
        _check(create(byref(found), _engine(self.library), *arguments, self.attributes))
        return found

    def query(self, described: c_void_p, what: int) -> c_void_p:
        """A layout that oneDNN chose; null if there is none."""
        return c_void_p(self.library.dnnl_primitive_desc_query_md(described, what, 0))

    def size(self, layout: c_void_p) -> int:
        """Bytes of an array."""
        return int(self.library.dnnl_memory_desc_get_size(layout)) if layout else 0

    def conversion(self, old: c_void_p, source: int, new: c_void_p, target: int) -> _Call:
        """Copies an array from one layout to another."""
        described, engine = c_void_p(), _engine(self.library)
        create = self.library.dnnl_reorder_primitive_desc_create
        _check(create(byref(described), old, engine, new, engine, self.attributes))
        if self.size(self.query(described, _SCRATCHPAD_LAYOUT)):
            raise _UnsupportedError
        operands = _Operand(_SRC, source, 0, old), _Operand(_DST, target, 0, new)
        return self.call(described, operands)

    def call(self, described: c_void_p, operands: Sequence[_Operand]) -> _Call:
        """A call of the primitive of a description."""
        primitive = c_void_p()
        _check(self.library.dnnl_primitive_create(byref(primitive), described))
        return _Call(primitive, len(operands), (_Operand * 4)(*operands))


def _sizes(values: Sequence[int]) -> Any:
    """``dnnl_dims_t``."""
    return (c_int64 * 12)(*values)
