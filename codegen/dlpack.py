"""Views of arrays of any framework, through DLPack, without importing the framework.

Source: the DLPack 1.0 header (the layout of its structs is fixed; 0.x capsules differ only in name
and lack the flags).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensordsl.dtypes import ALL
from tensordsl.errors import BuildError

#: Device kinds whose memory the processor reads: host, CUDA host (pinned), ROCm host, CUDA managed.
_HOST_DEVICES = {1, 3, 11, 13}
_DEVICE_NAMES = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 14: "oneapi"}
#: DLDataTypeCode -> kind of `DType`.
_KINDS = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}
_CODES = {kind: code for code, kind in _KINDS.items()}
_OTHER_CODES = {"bfloat16": 4, "float8_e4m3fn": 10, "float8_e5m2": 12}
#: (code, bits) -> name
_NAMES = {(_OTHER_CODES.get(t.name, _CODES[t.kind]), t.bits): t.name for t in ALL.values() if t.bits >= 8}
_READ_ONLY = 1


class _Device(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint32), ("minor", ctypes.c_uint32))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("version", _Version),
        ("manager_context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@dataclass(frozen=True, slots=True)
class View:
    """An array's memory.  address: of the first element; strides: in elements; dtype: numpy's name.
    owner keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    read_only: bool
    owner: Any

    def copied(self) -> np.ndarray[Any, Any]:
        """The elements in an array of their own, in C order."""
        kind = ALL[self.dtype].numpy
        span = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides))
        memory = (ctypes.c_char * (span * kind.itemsize)).from_address(self.address)
        bytes_apart = [s * kind.itemsize for s in self.strides]
        seen = np.lib.stride_tricks.as_strided(
            np.frombuffer(memoryview(memory), kind), self.shape, bytes_apart, writeable=False
        )
        return np.array(seen, order="C")

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in C order without gaps."""
        step = 1
        for extent, stride in zip(reversed(self.shape), reversed(self.strides)):
            if extent != 1 and stride != step:
                return 0 in self.shape
            step *= extent
        return True


def view(array: Any, name: str) -> View:
    """A view of a DLPack array in the processor's memory.  Raises BuildError for anything else."""
    if not hasattr(array, "__dlpack__"):
        raise BuildError(
            f"{name} is a {type(array).__name__}, not an array",
            hint="pass a numpy array or any array with DLPack, such as a torch tensor",
        )
    kind = int(array.__dlpack_device__()[0]) if hasattr(array, "__dlpack_device__") else 1
    if kind not in _HOST_DEVICES:
        raise BuildError(
            f"{name} lives on a {_DEVICE_NAMES.get(kind, f'device of kind {kind}')} device, the kernel runs on the cpu",
            hint="copy it to the cpu first",
        )
    capsule = _capsule(array, name)
    if _is_valid(capsule, b"dltensor_versioned"):
        managed = _Versioned.from_address(_pointer(capsule, b"dltensor_versioned"))
        tensor, read_only = managed.tensor, bool(managed.flags & _READ_ONLY)
    else:
        tensor, read_only = _Tensor.from_address(_pointer(capsule, b"dltensor")), False
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else _packed(shape)
    code_bits = (tensor.dtype.code, tensor.dtype.bits)
    dtype = _NAMES.get(code_bits, f"dlpack code {tensor.dtype.code}, {tensor.dtype.bits} bits")
    if tensor.dtype.lanes != 1:
        dtype = f"{dtype} x {tensor.dtype.lanes}"
    address = (tensor.data or 0) + tensor.byte_offset
    return View(address, shape, strides, dtype, read_only, (array, capsule))


def _capsule(array: Any, name: str) -> Any:
    """The array's capsule; unconsumed, it is freed with the View."""
    try:
        return array.__dlpack__(max_version=(1, 0))
    except TypeError:  # older than DLPack 1.0: no such argument
        pass
    except Exception as error:
        raise _refused(name, error) from None
    try:
        return array.__dlpack__()
    except Exception as error:
        raise _refused(name, error) from None


def _refused(name: str, error: Exception) -> BuildError:
    hint = "detach it first: x.detach()" if "grad" in str(error) else None
    return BuildError(f"{name} does not give access to its memory: {error}", hint=hint)


def _packed(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))
