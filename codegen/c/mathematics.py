"""Elementary functions as C text over vectors: exp, exp2, log, log2, tanh, erf, ... for float32 and float64.

`vector_function(name, dtype, target, vector)` gives one inline function (and what it needs) for an instruction set; the
scalar form has the same polynomial and the same order of operations, so that a vector's lanes and a loop's scalar tail
agree bit for bit.  The text needs no header, defines the vector types it uses (f32xN i32xN f64xN i64xN), and is to be
compiled with -O2 -fno-math-errno.  It says where to fuse a multiplication and an addition; "portable" text never fuses,
so on a machine that has the instruction contraction must be off for it (-ffp-contract=off).

Float operations are IEEE 754's with rounding to nearest and denormals kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from tensordsl.codegen.c.elementary import COMMON, Constants, template
from tensordsl.codegen.c.far_reduction import reduction_by_half_pi
from tensordsl.codegen.c.polynomials import POLYNOMIALS, TABLES
from tensordsl.codegen.c.vector_operations import Shape, operation

from tensordsl import dtypes
from tensordsl.dtypes import DTypeLike
from tensordsl.errors import BuildError, closest
from tensordsl.program import Rounding


class VectorTarget(Protocol):
    """What is asked of a target: its instruction set and the bytes of its vectors."""

    @property
    def isa(self) -> str: ...
    @property
    def vector_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class MathFunction:
    """One C function or macro: its name, its text (harmless when repeated in a file), and what must precede it."""

    symbol: str
    text: str
    needs: tuple[MathFunction, ...] = ()


NAMES = ("exp", "exp2", "log", "log2", "tanh", "erf", "sin", "cos", "pow", "rsqrt", "sqrt")


def vector_function(
    name: str, dtype: DTypeLike, target: VectorTarget, vector: bool, rounding: Rounding = "free"
) -> MathFunction:
    """The C function of `name` (see NAMES) on values of `dtype`, for whole vectors of the target or for scalars.

    rounding: other than "free" gives the same bits on every target, with contraction off.
    Raises BuildError where the library has no such function.
    """
    kind = dtypes.dtype(dtype)
    lanes = target.vector_bytes * 8 // kind.bits if vector else 1
    if name in NAMES and kind in (dtypes.float32, dtypes.float64):
        found = _function(name, Shape(target.isa, kind.bits, lanes, rounding))
        if found is not None:
            return found
    like = closest(name, NAMES)
    raise BuildError(
        f"no vector math function {name}({kind}) for {target.isa}",
        legal=[f"{n}(float32 or float64)" for n in NAMES],
        hint=f"did you mean {like!r}?" if like and like != name else None,
    )


def in_order(functions: Iterable[MathFunction]) -> list[MathFunction]:
    """The functions and all they need, each once and after what it needs."""
    done: dict[str, MathFunction] = {}

    def visit(function: MathFunction) -> None:
        if function.symbol not in done:
            for needed in function.needs:
                visit(needed)
            done[function.symbol] = function

    for function in functions:
        visit(function)
    return list(done.values())


@cache
def _function(name: str, shape: Shape) -> MathFunction | None:
    if name == "sqrt":
        return _operation(name, shape)
    found = template(name, shape.bits, shape.algorithm)
    if found is None:
        return None
    symbol = f"td_{name}_{shape.suffix}"
    parameters = ", ".join(f"$F {p}" for p in found.parameters)
    head = f"static inline __attribute__((always_inline)) $F {symbol}({parameters}) {{"
    body, needs = _expand(found.body, {**COMMON, **found.constants}, shape)
    return _guarded(symbol, f"{shape.fill(head)}{body.rstrip()}\n}}", (*_types(shape), *needs))


@cache
def _operation(name: str, shape: Shape) -> MathFunction:
    """An operation as a macro or an inline function."""
    form = operation(name, shape)
    symbol = f"td_math_{name}_{shape.suffix}"
    if not form.is_macro:
        text, needs = _expand(form.text, COMMON, shape)
        head = f"static inline __attribute__((always_inline)) {form.result} {symbol}({form.parameters})"
        return _guarded(symbol, f"{shape.fill(head)} {{ {text} }}", (*_types(shape), *needs))
    names = ", ".join(p.split()[-1].lstrip("*") for p in form.parameters.split(", "))
    macro = f"#define {symbol}({names}) {shape.fill(form.text)}"
    if form.clang:
        macro = f"#ifdef __clang__\n#define {symbol}({names}) {shape.fill(form.clang)}\n#else\n{macro}\n#endif"
    return MathFunction(symbol, f"#ifndef {symbol}\n{macro}\n#endif\n", _types(shape))


@cache
def _types(shape: Shape) -> tuple[MathFunction, ...]:
    """The vector types of a shape (C11 allows a type to be defined again, as long as it is the same)."""
    if not shape.vector:
        return ()
    lines = "\n".join(f"typedef {t} {v} __attribute__((vector_size($BYTES)));" for t, v in (("$E", "$F"), ("$N", "$I")))
    return (_guarded(f"td_math_types_{shape.suffix}", shape.fill(lines), ()),)


def _guarded(symbol: str, definition: str, needs: tuple[MathFunction, ...]) -> MathFunction:
    """A definition that may be repeated in one file."""
    return MathFunction(symbol, f"#ifndef {symbol}\n#define {symbol} {symbol}\n{definition}\n#endif\n", needs)


def _called(name: str, shape: Shape) -> MathFunction:
    """What `$name(` in a template stands for."""
    if name == "reduce":
        return _guarded(*reduction_by_half_pi(), ())
    if name.startswith("wide_"):
        return _called(name.removeprefix("wide_"), shape.wide)
    return _function(name, shape) or _operation(name, shape)


def _expand(body: str, constants: Constants, shape: Shape) -> tuple[str, tuple[MathFunction, ...]]:
    """A template's text for a shape, and the functions it calls."""
    values = {"MAGIC": "0x1.8p23" if shape.bits == 32 else "0x1.8p52", **constants}
    body = re.sub(r"@tables\((\w+)\)", lambda m: _tables(m[1], shape), body)
    body = re.sub(r"@interpolate\((\w+), (\w+), (\w+)\)", lambda m: _interpolation(m[1], m[2], m[3], shape), body)
    body = re.sub(r"@horner\((\w+), (\w+)\)", lambda m: _polynomial(m[1], m[2], shape), body)
    body = re.sub(r"@(\w+)", lambda m: _literal(values[m[1]], shape), body)
    needs: dict[str, MathFunction] = {}

    def call(match: re.Match[str]) -> str:
        needs.setdefault(match[1], _called(match[1], shape))
        return f"{needs[match[1]].symbol}("

    body = re.sub(r"\$([a-z]\w*)\(", call, body)
    return shape.fill(body), tuple(needs.values())


def _horner(coefficients: Sequence[str], x: str) -> str:
    """Nested multiply-adds, the highest power first."""
    *low, text = coefficients
    for c in reversed(low):
        text = f"$fma({text}, {x}, {c})"
    return text


def _polynomial(name: str, x: str, shape: Shape) -> str:
    return _horner([_literal(c, shape) for c in POLYNOMIALS[f"{name}_{shape.bits}"]], x)


def _tables(name: str, shape: Shape) -> str:
    """A table per power: a vector each, or an array each for the scalar form."""
    kind = "const $F {}_{}" if shape.vector else "static const $E {}_{}[]"
    columns = zip(*TABLES[f"{name}_{shape.bits}"])
    lines = (
        f"{kind.format(name.lower(), k)} = {{{', '.join(_number(c, shape) for c in column)}}};"
        for k, column in enumerate(columns)
    )
    return "\n    ".join(lines)


def _interpolation(name: str, index: str, t: str, shape: Shape) -> str:
    powers = range(1, len(TABLES[f"{name}_{shape.bits}"][0]))
    return _horner([f"$lookup({name.lower()}_{k}, {index})" for k in powers], t)


def _number(value: float | str, shape: Shape) -> str:
    """A C constant of the shape's element type."""
    suffix = "f" if shape.bits == 32 else ""
    if isinstance(value, str):
        return value + suffix
    if math.isnan(value):
        return f'__builtin_nan{suffix}("")'
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}__builtin_inf{suffix}()"
    if value == int(value) and abs(value) < 1000:
        return repr(float(value)) + suffix
    mantissa, exponent = float(value).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{int(exponent)}{suffix}"


def _literal(value: float | str, shape: Shape) -> str:
    """A C constant broadcast to the shape's lanes."""
    text = _number(value, shape)
    if shape.vector:
        return f"(($F){{0}} + {text})"
    return f"({text})" if text.startswith("-") else text
