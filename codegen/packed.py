"""4-bit integers in memory: two elements a byte, along the last dimension, the first one in the low bits.

Every row starts at a byte of its own; the high bits of the last byte of a row of odd length mean nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tensordsl.schedules.loopnest import Buffer

from tensordsl import dtypes, expr
from tensordsl.affine import Affine
from tensordsl.dtypes import DType
from tensordsl.expr import Expr, Index, Read


def is_packed(t: DType) -> bool:
    return t.bits < 8


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The bytes of a tensor of 4-bit elements."""
    return (*shape[:-1], -(-shape[-1] // 2))


def packed(elements: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array of 4-bit elements (a byte each, as ml_dtypes has them) as the bytes that a kernel takes."""
    bits = elements.astype(np.int8).view(np.uint8) & 15
    if bits.shape[-1] % 2:
        bits = np.concatenate([bits, np.zeros((*bits.shape[:-1], 1), np.uint8)], axis=-1)
    return np.ascontiguousarray(bits[..., ::2] | bits[..., 1::2] << 4)


def bytes_index(index: tuple[Affine, ...]) -> tuple[Affine, ...]:
    """Where the byte of an element lies."""
    return (*index[:-1], index[-1] // 2)


def unpacked(place: Buffer, read: Read, t: DType) -> Expr:
    """The element as a number of 8 bits: the low or the high half of its byte, with its sign."""
    byte = Read(place, bytes_index(read.index), read.location)
    low: Expr
    if t.kind == "i":
        low, high = (expr.cast(e, "int8") // 16 for e in (byte * 16, byte))
    else:
        low, high = byte % 16, byte // 16
    return expr.select(expr.binary("eq", Index(read.index[-1] % 2), 0), low, expr.cast(high, dtypes.dtype(t.computed)))
