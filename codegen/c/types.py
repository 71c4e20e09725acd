"""C types and literals: elements, vectors (``f32x16``) and numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tensordsl import dtypes
from tensordsl.dtypes import DType
from tensordsl.expr import Number


class Value(NamedTuple):
    """C text of an expression.  lanes: 0 for a scalar.

    A vector of conditions is a mask: signed integers of ``width`` bits, 0 or -1; a scalar
    condition is an ``int``, 0 or 1.  factor: what the value is still to be multiplied by, in one
    operation with adding it to a sum.
    """

    text: str
    dtype: DType
    lanes: int = 0
    width: int = 0
    factor: Value | None = None


def element(t: DType) -> str:
    """Kind and bits: f32, i64, u8 (conditions are held in u8)."""
    return f"{'u' if t.kind == 'b' else t.kind}{t.bits}"


def vector_name(t: DType, lanes: int) -> str:
    return f"{element(t)}x{lanes}"


def signed(bits: int) -> DType:
    return dtypes.ALL[f"int{bits}"]


def unsigned(t: DType) -> DType:
    return dtypes.ALL[f"uint{t.bits}"]


def typedef(t: DType, lanes: int) -> str:
    """The vector type and its unaligned form (suffix u), which may point at any memory."""
    name, size = vector_name(t, lanes), t.bytes * lanes
    return (
        f"typedef {t.c_name} {name} __attribute__((vector_size({size})));\n"
        f"typedef {t.c_name} {name}u __attribute__((vector_size({size}), aligned({t.bytes}), may_alias));\n"
    )


def literal(value: Number, t: DType) -> str:
    """A constant of a type; shortest decimal digits that give the same number back."""
    if t.kind == "b":
        return "1" if value else "0"
    if t.is_float:
        return _float_literal(float(value), t)
    n = int(value)
    if t.kind == "u":
        n %= 1 << t.bits
        return f"{n}ULL" if t.bits == 64 else f"{n}U" if t.bits == 32 else f"({t.c_name}){n}"
    if n == -(1 << (t.bits - 1)) and t.bits >= 32:  # C has no negative literals
        return f"({n + 1}{'LL' if t.bits == 64 else ''} - 1)"
    if t.bits < 32:
        return f"({t.c_name}){n}" if n >= 0 else f"({t.c_name})({n})"
    text = f"{n}{'LL' if t.bits == 64 else ''}"
    return text if n >= 0 else f"({text})"


def _float_literal(value: float, t: DType) -> str:
    suffix = "" if t.bits == 64 else "f"
    if math.isnan(value):
        return f'__builtin_nan{suffix}("")'
    number = np.float64(value) if t.bits == 64 else np.float32(value)
    if np.isinf(number):
        return f"__builtin_inf{suffix}()" if number > 0 else f"(-__builtin_inf{suffix}())"
    text = np.format_float_scientific(number, trim="-", exp_digits=1) if number else "0.0"
    if number and 1e-4 <= abs(number) < 1e7:
        text = np.format_float_positional(number, trim="0")
    elif "." not in text and "e" not in text:
        text += ".0"
    return f"{text}{suffix}" if not math.copysign(1.0, value) < 0 else f"(-{text.lstrip('-')}{suffix})"


def bare(text: str) -> str:
    """A text without the parentheses around all of it."""
    if not text.startswith("(") or not text.endswith(")"):
        return text
    depth = 0
    for i, c in enumerate(text):
        if c == "(":
            depth += 1
        elif c == ")":
            depth -= 1
            if not depth:
                return text[1:-1] if i == len(text) - 1 else text
    return text


def assignment(cell: str, text: str) -> str:
    """``cell = text;``, or ``cell += ...;`` where the text adds to (multiplies) the cell itself."""
    for sign in "+*":
        start = f"{cell} {sign} "
        if text.startswith(start):  # operands are atoms or in parentheses
            return f"{cell} {sign}= {bare(text[len(start) :])};"
    return f"{cell} = {text};"
