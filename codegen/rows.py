"""Arrays whose rows lie apart: how far, and copies that a kernel can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tensordsl.codegen.runtime import Parameter


def dense(p: Parameter) -> bool:
    """Do the rows of a parameter follow each other?"""
    return p.pitch == 0 or p.pitch == p.shape[-1]


def pitch(value: Any) -> int:
    """Elements between the rows of an array; the elements of a row where the array must be copied first."""
    if not isinstance(value, np.ndarray):
        shape = tuple(getattr(value, "shape", ()))
        return int(shape[-1]) if shape else 0
    if value.ndim < 2:
        return int(value.shape[-1]) if value.ndim else 0
    apart = value.strides[-2] // value.itemsize
    return apart if value.shape[-2] > 1 and _lies(value, apart) else int(value.shape[-1])


def _lies(value: np.ndarray[Any, Any], apart: int) -> bool:
    """Do an array's elements lie where a pitch says?"""
    if not value.size:
        return True
    step = value.itemsize
    for d in reversed(range(value.ndim)):
        if value.shape[d] > 1 and value.strides[d] != step:
            return False
        step *= apart if d == value.ndim - 1 else value.shape[d]
    return bool(apart >= value.shape[-1])


def with_pitch(p: Parameter, value: np.ndarray[Any, Any]) -> tuple[int, np.ndarray[Any, Any]]:
    """(address, owner of the memory) of an array's elements with the pitch of a parameter."""
    if _lies(value, p.pitch):
        return value.ctypes.data, value
    copy = np.zeros((*p.shape[:-1], p.pitch), p.numpy)
    copy[..., : p.shape[-1]] = value
    return copy.ctypes.data, copy
