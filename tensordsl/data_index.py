"""Indices that are read from memory: what is written in square brackets, as an `Affine`.

An integer of known range becomes a `Datum`.  Any other integer expression becomes a tensor of its own
when the definition around it is made; until then it is `Pending`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensordsl import expr
from tensordsl.affine import Affine, Datum
from tensordsl.errors import Location, ProgramError
from tensordsl.expr import Const, Expr, Index, Op, Read
from tensordsl.ranges import type_range, value_range

#: Sums of indices and data below this size do not wrap around in 32 bits.
_LARGEST = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """An index expression in the variables ``parameters``."""

    value: Expr
    parameters: tuple[str, ...]
    location: Location | None = None

    @property
    def name(self) -> str:
        return f"({self.value})"

    def at(self, d: Datum) -> Expr:
        """The expression of a use of it."""
        return expr.substitute(self.value, dict(zip(self.parameters, d.index)))


def subscript(e: Expr, what: str, location: Location | None) -> Affine:
    """An index as an affine expression.  what: of which tensor and dimension, for the error."""
    if e.dtype.kind not in "iu":
        raise ProgramError(
            f"index {e} of {what} is {e.dtype}, not an integer",
            location=location,
            hint="convert it: td.cast(..., 'int32'); a condition chooses with td.select",
        )
    if e.dtype.bits < 8:  # half a byte is no cell of its own
        e = expr.cast(e, "int8")
    return _affine(e, what) or _pending(e, location)


def affine_value(e: Expr) -> Affine | None:
    """An integer expression that is affine in axes and data of known range, else None."""
    try:
        return _affine(e, "")
    except ProgramError:
        return None


def _pending(e: Expr, location: Location | None) -> Affine:
    names = tuple(sorted(expr.free_names(e)))
    low, high = type_range(e.dtype)
    return Affine(((Datum(Pending(e, names, location), tuple(Affine.of(n) for n in names), low, high), 1),))


def _affine(e: Expr, what: str) -> Affine | None:
    """The expression where it is affine in axes and data of known range, else None."""
    match e:
        case Index():
            return e.affine
        case Const():
            return Affine((), int(e.value))
        case Read():
            return _datum(e, what) if e.dtype.bits >= 8 else None
        case Op(name="cast"):
            inner = e.args[0]
            if inner.dtype.kind not in "iu":
                return None
            found, fits = value_range(inner, {}), type_range(e.dtype)
            if isinstance(inner, Index) or (found is not None and fits[0] <= found[0] and found[1] <= fits[1]):
                return _affine(inner, what)
            return None
        case Op(name="add" | "sub" | "mul" | "floordiv" | "mod") if e.dtype.bits >= 32:
            return _combined(e, what)
    return None


def _combined(e: Op, what: str) -> Affine | None:
    a = _affine(e.args[0], what)
    b = None if a is None else _affine(e.args[1], what)
    if a is None or b is None:
        return None
    if any(abs(c) * max(abs(d.low), abs(d.high)) > _LARGEST for x in (a, b) for d in x.data() for c in (x.const, 1)):
        return None
    match e.name:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return b * a.const if a.is_constant else a * b.const if b.is_constant else None
        case _:
            if not b.is_constant or b.const < 1:
                return None
            return a // b.const if e.name == "floordiv" else a % b.const


def _datum(e: Read, what: str) -> Affine:
    values = getattr(e.source, "values", None)
    if values is None:
        name = e.source.name
        raise ProgramError(
            f"index {e} of {what} may be any {e.dtype}",
            location=e.location,
            hint=f"state its range, td.placeholder(..., values=range(n)), or clamp it, td.clip({name}[...], 0, n - 1)",
        )
    return Affine(((Datum(e.source, e.index, *values), 1),))
