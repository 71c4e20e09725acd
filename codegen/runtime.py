"""Kernels in Python: load one and call it on numpy arrays, or on any array with DLPack.

A call of a small kernel costs 2 to 3 us of Python: arrays that are plain, writable and contiguous
take a path of their own, everything else (views, read-only arrays, other frameworks) the careful one.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tensordsl.codegen import dlpack, rows
from tensordsl.codegen.compile import CompiledKernel
from tensordsl.codegen.packed import is_packed, packed, packed_shape
from tensordsl.codegen.source import Source
from tensordsl.schedules.loopnest import LoopNest

from tensordsl.dtypes import ALL, DType
from tensordsl.errors import BuildError, InternalError
from tensordsl.interpreter import check_values
from tensordsl.sizes import Size
from tensordsl.targets import Target

if TYPE_CHECKING:
    from tensordsl.schedules.schedule import Schedule

_CODES = {
    1: "no kernel for these sizes",
    2: "the workspace is missing or too small",
    3: "the call struct has another size",
    4: "a pointer is NULL",
    5: "an input holds a value outside its stated range",
}
_BAD_VALUE = 5
#: An object of no bytes at an array's memory: what ctypes passes for it is the address.
_Memory = ctypes.c_char * 0
_memory: Callable[[Any], Any] = _Memory.from_buffer
_address = ctypes.addressof
_ndarray = np.ndarray


def _view_memory(array: Any) -> Any:
    """The memory of an array of a type that has no buffer format (bfloat16 and others of ml_dtypes)."""
    return _memory(array.view(f"u{array.itemsize}"))


def _packed_memory(array: Any) -> Any:
    """The memory of a packed copy of 4-bit integers."""
    return _memory(packed(array))


def _bits(t: DType) -> Callable[[Any], Any]:
    """A number as the bits that a kernel takes for a narrow float by value."""
    size = ctypes.c_uint16 if t.bits == 16 else ctypes.c_uint8

    def argument(value: Any) -> Any:
        with np.errstate(over="ignore"):
            return size(int(np.array(value, t.numpy).view(f"u{t.bytes}")))

    return argument


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "bool": ctypes.c_uint8, "int8": ctypes.c_int8, "int16": ctypes.c_int16, "int32": ctypes.c_int32,
    "int64": ctypes.c_int64, "uint8": ctypes.c_uint8, "uint16": ctypes.c_uint16, "uint32": ctypes.c_uint32,
    "uint64": ctypes.c_uint64, "float32": ctypes.c_float, "float64": ctypes.c_double,
    **{t.name: _bits(t) for t in ALL.values() if t.is_float and t.bits < 32},
}  # fmt: skip
_REALS = (float, int)
_WORKSPACE_ALIGNMENT = 64


class CallStruct(ctypes.Structure):
    """td_call, as `source.C_CALL` declares it."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_uint64),
        ("parallel_for", ctypes.c_void_p),
        ("pool", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of the C function.  inplace: read, and overwritten with an output."""

    name: str
    dtype: DType
    numpy: np.dtype[Any]
    shape: tuple[int, ...]
    role: Literal["scalar", "input", "inplace", "output"]
    bytes: int
    output: str = ""  # the name of the output an in-place argument becomes
    real: Callable[[float], Any] | None = None  # makes the argument of a floating-point scalar
    pitch: int = 0  # elements between rows (0: they follow each other)
    memory: Callable[[Any], Any] = _memory  # an object at the memory of an array

    def at(self, sizes: Mapping[str, int]) -> Parameter:
        """The parameter for some sizes of the dimensions that its shape leaves open."""
        if not any(isinstance(e, Size) for e in (*self.shape, self.pitch)):
            return self
        *shape, pitch = [e.at(sizes) if isinstance(e, Size) else e for e in (*self.shape, self.pitch)]
        size = _bytes(self.dtype, (*shape[:-1], pitch or shape[-1]))
        return replace(self, shape=tuple(shape), pitch=pitch, bytes=size)

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"
            if self.shape
            else (f"{self.name}: {self.dtype}")
        )


def _bytes(t: DType, shape: Sequence[int]) -> int:
    """The memory that elements take."""
    return math.prod(packed_shape(tuple(shape))) if is_packed(t) else math.prod(shape) * t.bytes


def parameters(nest: LoopNest) -> tuple[Parameter, ...]:
    """What the C function of a nest takes, in order.

    An input comes by value where it has rank 0.  An in-place output is its input's argument.
    """
    program = nest.program
    outputs = {t.name for t in program.outputs}
    taken_over = {source: output for output, source in program.inplace.items()}
    found = []
    known = {t.name for t in program.constants}  # these are in the kernel
    for b in nest.parameters:
        if b.name in known:
            continue
        # C has no complex arguments that all compilers pass alike: they come by pointer
        role: Literal["scalar", "input", "inplace", "output"] = "input" if b.shape or b.dtype.is_complex else "scalar"
        if b.name in outputs:
            role = "output"
        elif b.name in taken_over:
            role = "inplace"
        size = _bytes(b.dtype, (*b.shape[:-1], b.pitch) if b.pitch != 0 else b.shape)
        real = _SCALARS[b.dtype.name] if role == "scalar" and b.dtype.is_float else None
        memory = _memory if b.dtype.numpy.isbuiltin == 1 else _packed_memory if is_packed(b.dtype) else _view_memory
        taken = taken_over.get(b.name, "")
        found.append(Parameter(b.name, b.dtype, b.dtype.numpy, b.shape, role, size, taken, real, b.pitch, memory))
    return tuple(found)


class Kernel:
    """A compiled kernel: ``out = kernel(x, w, b)`` or ``kernel(x, w, b, out=y)``.

    Inputs come in the program's order: arrays of exactly the declared shape and dtype (copied where
    they are not contiguous), Python numbers for inputs of rank 0.  Several outputs come, and are
    given as ``out``, as a tuple.  An in-place output overwrites its input and is returned as it.
    Arrays of other frameworks give outputs of that framework.  Safe to call from many threads.

    Raises BuildError for arguments that do not fit, before anything is written.
    """

    def __init__(
        self,
        compiled: CompiledKernel,
        nest: LoopNest,
        schedule: Schedule | None = None,
        sizes: Mapping[str, int] | None = None,
        taken: Sequence[Parameter] | None = None,
        function: Any = None,
    ) -> None:
        """sizes: of the dimensions that the nest leaves open (see `general.GeneralKernel`).

        taken, function: the parameters of the nest and the loaded function, where known.
        """
        self.compiled = compiled
        self.source: Source = compiled.source
        self.nest = nest
        self.schedule = schedule
        self.parameters = tuple([p.at(sizes or {}) for p in taken or parameters(nest)])
        self._function = function or load(compiled)
        workspace = self.source.workspace_bytes
        if sizes is not None:
            self._function = _with_sizes(self._function, [sizes[d.name] for d in nest.program.free])
            workspace = workspace.at(sizes) if isinstance(workspace, Size) else workspace
        self._workspace_bytes = workspace
        self._inputs = tuple(p for p in self.parameters if p.role != "output")
        self._outputs = tuple(p for p in self.parameters if p.role == "output")
        plain = all((p.role == "input" and rows.dense(p)) or p.real for p in self._inputs) and len(self._outputs) == 1
        self._single = self._outputs[0] if plain and self.parameters[-1] is self._outputs[0] else None
        self._order = _result_order(nest, self.parameters)
        self._thread = threading.local()
        self._needs_call = self._workspace_bytes > 0

    @property
    def name(self) -> str:
        return self.nest.name

    @property
    def target(self) -> Target:
        return self.source.target

    def __call__(self, *inputs: Any, out: Any = None) -> Any:
        result = self._call_quickly(inputs, out) if self._single is not None else None
        return self._call_carefully(inputs, out) if result is None else result

    def _call_quickly(self, inputs: Sequence[Any], out: Any) -> Any:
        """The call where every argument is a plain array that fits and nothing overlaps, else None."""
        target = self._single
        if target is None or len(inputs) != len(self._inputs):
            return None
        arguments: list[Any] = []
        for p, value in zip(self._inputs, inputs):
            if p.real is not None:
                if type(value) not in _REALS:
                    return None
                arguments.append(p.real(value))
            elif type(value) is _ndarray and value.dtype is p.numpy and value.shape == p.shape and value.flags.carray:
                arguments.append(p.memory(value))
            else:
                return None
        if out is None:
            out = np.empty(target.shape, target.numpy)
            memory = target.memory(out)
        else:
            if not (
                type(out) is _ndarray and out.dtype is target.numpy and out.shape == target.shape and out.flags.carray
            ):
                return None
            memory = target.memory(out)
            begin = _address(memory)
            end = begin + target.bytes
            for p, argument in zip(self._inputs, arguments):
                start = _address(argument)
                if start < end and begin < start + p.bytes:
                    return None
        code = self._function(self._call(), *arguments, memory)
        if code:
            self._fail(code, inputs)
        return out

    def _call_carefully(self, inputs: Sequence[Any], out: Any) -> Any:
        if len(inputs) != len(self._inputs):
            raise BuildError(
                f"{self.name} takes {len(self._inputs)} inputs, got {len(inputs)}",
                legal=", ".join(map(str, self._inputs)),
            )
        given = self._given_outputs(out)
        convert = next((c for c in map(_framework, inputs) if c is not None), None)
        arguments: dict[str, _Argument] = {}
        for p, value in zip(self._inputs, inputs):
            arguments[p.name] = _scalar(p, value) if p.role == "scalar" else _array(p, value, p.role == "inplace")
            wanted = given.get(p.output)
            if wanted is not None and wanted is not value:
                raise BuildError(
                    f"{p.output} overwrites {p.name}, but out= gives another array for it",
                    hint=f"give the array passed as {p.name}, or None, in its place",
                )
        for p in self._outputs:
            value = given.get(p.name)
            if value is None and convert is not None and p.memory is not _memory:
                raise BuildError(
                    f"{p.name} is {p.dtype}, of which numpy gives no array to another framework",
                    hint="give an array to write into: out=",
                )
            if value is None:
                value = np.empty(p.shape, p.numpy)
                arguments[p.name] = _Argument(p.memory(value), value if convert is None else convert(value), value)
            else:
                arguments[p.name] = _array(p, value, written=True)
        _refuse_overlap([(p, arguments[p.name]) for p in self.parameters])
        code = self._function(self._call(), *[arguments[p.name].passed for p in self.parameters])
        if code:
            self._fail(code, inputs)
        for argument in arguments.values():
            if argument.target is not None:
                argument.target[...] = argument.owner
        results = tuple(arguments[name].result for name in self._order)
        return results[0] if len(results) == 1 else results

    def _given_outputs(self, out: Any) -> dict[str, Any]:
        if out is None:
            return {}
        names = [t.name for t in self.nest.program.outputs]
        values = out if isinstance(out, (tuple, list)) else (out,)
        if len(values) != len(names):
            raise BuildError(
                f"{self.name} has {len(names)} outputs, out= gives {len(values)}",
                legal=", ".join(names),
                hint="give a tuple with one array for each (None: a new one)",
            )
        return dict(zip(names, values))

    def _call(self) -> Any:
        """The call struct of this thread (None: nothing to tell), with workspace of its own."""
        if not self._needs_call:
            return None
        try:
            return self._thread.call
        except AttributeError:
            size = self._workspace_bytes
            memory = np.empty(size + _WORKSPACE_ALIGNMENT, np.uint8)
            start = -memory.ctypes.data % _WORKSPACE_ALIGNMENT
            call = CallStruct(ctypes.sizeof(CallStruct), 0, memory.ctypes.data + start, size, None, None, None)
            self._thread.memory = memory
            self._thread.call = ctypes.byref(call)
            return self._thread.call

    def _fail(self, code: int, inputs: Sequence[Any]) -> None:
        if code == _BAD_VALUE:
            for t, value in zip(self.nest.program.inputs, inputs):
                check_values(self.name, t, np.asarray(value))
        if code in _CODES:
            raise InternalError(f"{self.name} returned {code}: {_CODES[code]}", context=self.nest)
        raise BuildError(f"{self.name} returned {code}", hint="the code comes from the parallel_for it was given")

    def __repr__(self) -> str:
        takes = ", ".join(map(str, self._inputs))
        by_name = {p.output or p.name: p for p in self.parameters if p.role in ("output", "inplace")}
        gives = ", ".join(
            f"{t.name} in {by_name[t.name].name}" if by_name[t.name].role == "inplace" else str(by_name[t.name])
            for t in self.nest.program.outputs
        )
        return (
            f"Kernel {self.name}({takes}) -> {gives}\n"
            f"  for {self.target}, workspace {self.source.workspace_bytes} bytes, compiled in {self.compiled.path}"
        )


def load(compiled: CompiledKernel) -> Any:
    """The C function.  It has no argtypes: it is called with ctypes objects only, which is faster."""
    try:
        function = ctypes.CDLL(str(compiled.path))[compiled.symbol]
    except (OSError, AttributeError) as error:
        raise BuildError(
            f"{compiled.source.symbol} was compiled but cannot be loaded: {error}",
            hint="if the cache was cleared meanwhile, compile again",
        ) from None
    function.restype = ctypes.c_int32
    return function


def _with_sizes(function: Any, sizes: Sequence[int]) -> Callable[..., int]:
    """The C function with the sizes that come after its arrays."""
    last = tuple([ctypes.c_int64(n) for n in sizes])

    def call(*arguments: Any) -> int:
        return function(*arguments, *last)  # type: ignore[no-any-return]

    return call


@dataclass(slots=True)
class _Argument:
    """passed: what ctypes gets; result: what the caller gets back (outputs); owner: keeps the memory;
    target: where a temporary must be copied to afterwards.  begin, end: the bytes passed.
    """

    passed: Any
    result: Any = None
    owner: Any = None
    target: Any = None
    begin: int = 0
    end: int = 0


def _scalar(p: Parameter, value: Any) -> _Argument:
    """A number for an input of rank 0: Python's, numpy's, or an array of rank 0."""
    if hasattr(value, "shape") and value.shape != ():
        raise BuildError(f"{p.name} has shape {tuple(value.shape)}, the kernel takes one number")
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, (int, float)):
        raise BuildError(f"{p.name} is a {type(value).__name__}, the kernel takes a number ({p.dtype})")
    if p.dtype.is_float:
        return _Argument(_SCALARS[p.dtype.name](value))
    if isinstance(value, float):
        raise BuildError(f"{p.name} = {value!r} is not an integer, the kernel takes {p.dtype}")
    least, most = (0, 1) if p.dtype.kind == "b" else (int(np.iinfo(p.numpy).min), int(np.iinfo(p.numpy).max))
    if not least <= value <= most:
        raise BuildError(f"{p.name} = {value} does not fit in {p.dtype}", legal=f"{least} to {most}")
    return _Argument(_SCALARS[p.dtype.name](value))


def _array(p: Parameter, value: Any, written: bool) -> _Argument:
    """A checked array.  What is not contiguous goes through a temporary."""
    if is_packed(p.dtype):
        return _packed_array(p, value)
    if p.dtype.is_complex and not p.shape and isinstance(value, (int, float, complex, np.number)):
        value = np.array(value, p.numpy)
    if not isinstance(value, np.ndarray):
        return _foreign(p, value, written)
    _check(p, value.dtype, value.shape)
    if written and not value.flags.writeable:
        raise _read_only(p)
    if not rows.dense(p):
        address, owner = rows.with_pitch(p, value)
        target = value if written and owner is not value else None
        return _passed(p, address, value, owner if target is None else owner[..., : p.shape[-1]], target)
    if value.flags.carray:
        return _passed(p, _address(p.memory(value)), value, value)
    if value.flags.c_contiguous:  # read-only or unaligned
        return _passed(p, value.ctypes.data, value, value)
    temporary = np.ascontiguousarray(value)
    return _passed(p, temporary.ctypes.data, value, temporary, value if written else None)


def _packed_array(p: Parameter, value: Any) -> _Argument:
    """4-bit integers: packed here, or bytes in which they are packed already."""
    if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
        value = np.from_dlpack(value)
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape == packed_shape(p.shape):
        value = np.ascontiguousarray(value)
    else:
        _check(p, getattr(value, "dtype", type(value).__name__), np.shape(value))
        value = packed(value)
    return _passed(p, value.ctypes.data, None, value)


def _foreign(p: Parameter, value: Any, written: bool) -> _Argument:
    seen = dlpack.view(value, p.name)
    _check(p, seen.dtype, seen.shape)
    if written and seen.read_only:
        raise _read_only(p)
    if seen.contiguous and rows.dense(p):
        return _passed(p, seen.address, value, seen)
    if written:
        raise BuildError(
            f"{p.name} is not contiguous (strides {seen.strides} for shape {seen.shape})",
            hint="give a contiguous array to write into",
        )
    if not rows.dense(p):
        return _array(p, np.from_dlpack(value), written)
    temporary = seen.copied()
    return _passed(p, temporary.ctypes.data, value, temporary)


def _passed(p: Parameter, address: int, result: Any, owner: Any, target: Any = None) -> _Argument:
    return _Argument(ctypes.c_void_p(address), result, owner, target, address, address + p.bytes)


def _check(p: Parameter, dtype: Any, shape: tuple[int, ...]) -> None:
    if len(shape) != len(p.shape):
        raise BuildError(f"{p.name} has rank {len(shape)}, the kernel takes rank {len(p.shape)}: {p}")
    if shape != p.shape:
        raise BuildError(f"{p.name} has shape {shape}, the kernel takes {p.shape}")
    if dtype != p.numpy:
        raise BuildError(
            f"{p.name} is {dtype}, the kernel takes {p.dtype}", hint=f'convert it: {p.name}.astype("{p.dtype}")'
        )


def _read_only(p: Parameter) -> BuildError:
    return BuildError(f"{p.output or p.name} would be written to a read-only array", hint="give a writable array")


def _refuse_overlap(arguments: Sequence[tuple[Parameter, _Argument]]) -> None:
    """What is written must not share memory with anything else (kernels assume so)."""
    for i, (p, a) in enumerate(arguments):
        if p.role not in ("output", "inplace"):
            continue
        for j, (q, b) in enumerate(arguments):
            both_written = q.role in ("output", "inplace")
            if i == j or (both_written and j < i) or max(a.begin, b.begin) >= min(a.end, b.end):
                continue
            raise BuildError(
                f"{p.output or p.name} would overwrite {q.name}: bytes {a.begin:#x} to {a.end:#x} "
                f"and {b.begin:#x} to {b.end:#x} overlap",
                hint="give memory of its own, or declare the output in-place in the program",
            )


def _result_order(nest: LoopNest, taken: Sequence[Parameter]) -> tuple[str, ...]:
    """Parameter names in the order of the program's outputs."""
    names = {p.name for p in taken}
    return tuple(t.name if t.name in names else nest.program.inplace.get(t.name, t.name) for t in nest.program.outputs)


_FRAMEWORKS: dict[type, Callable[[Any], Any] | None] = {np.ndarray: None, float: None, int: None, bool: None}


def _framework(value: Any) -> Callable[[Any], Any] | None:
    """How a numpy array becomes an array of the framework a value is from (None: it stays numpy's)."""
    kind = type(value)
    if kind in _FRAMEWORKS:
        return _FRAMEWORKS[kind]
    found: Callable[[Any], Any] | None = None
    if hasattr(value, "__dlpack__") and not isinstance(value, (np.ndarray, np.generic)):
        if hasattr(value, "__array_namespace__"):
            found = value.__array_namespace__().from_dlpack
        else:
            found = getattr(sys.modules.get(kind.__module__.partition(".")[0]), "from_dlpack", None)
    _FRAMEWORKS[kind] = found
    return found
