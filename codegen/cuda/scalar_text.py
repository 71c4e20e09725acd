"""Scalar expressions and indices as CUDA C++ text."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tensordsl.schedules.simplify import Context

from tensordsl import expr
from tensordsl.affine import Affine, Quasi
from tensordsl.dtypes import DType
from tensordsl.errors import BuildError
from tensordsl.expr import COMPARISONS, Const, Expr, Index, Op, Read

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip
#: Functions whose double form has this name and whose float form ends in f.
_LIBRARY = frozenset(
    ["sqrt", "rsqrt", "exp", "exp2", "log", "log2", "tanh", "erf", "sin", "cos", "floor", "ceil", "round", "pow"]
)


def affine_text(a: Affine, c: Context, names: Mapping[str, str]) -> str:
    """An index as text; divisions of values that may be negative round down, as in Python."""
    parts: list[str] = []
    for atom, k in a.terms:
        text = _quasi_text(atom, c, names) if isinstance(atom, Quasi) else names[str(atom)]
        if abs(k) != 1:
            text = f"{abs(k)} * {text}"
        parts.append((" - " if k < 0 else " + ") + text)
    if a.const or not parts:
        parts.append(f"{' - ' if a.const < 0 else ' + '}{abs(a.const)}")
    text = "".join(parts)
    return text[3:] if text.startswith(" + ") else "-" + text[3:]


def _quasi_text(q: Quasi, c: Context, names: Mapping[str, str]) -> str:
    inner = affine_text(q.argument, c, names)
    low = c.minimum(q.argument)
    if low is not None and low >= 0:
        simple = inner if inner.isidentifier() else f"({inner})"
        return f"({simple} {'/' if q.kind == 'div' else '%'} {q.by})"
    return f"td_{'floordiv' if q.kind == 'div' else 'mod'}({inner}, {q.by})"


def condition_text(conditions: tuple[Affine, ...], c: Context, names: Mapping[str, str]) -> str:
    """The conjunction of ``affine >= 0``, as ``a < b`` with positive terms on both sides."""
    return " && ".join([_inequality(x, c, names) for x in conditions]) or "true"


def _inequality(x: Affine, c: Context, names: Mapping[str, str]) -> str:
    right = Affine(tuple(t for t in x.terms if t[1] > 0), 0)
    left = -Affine(tuple(t for t in x.terms if t[1] < 0), 0)
    gap = x.const + 1  # left < right + gap
    if gap > 0:
        right += gap
    else:
        left -= gap
    return f"{affine_text(left, c, names)} < {affine_text(right, c, names)}"


def constant_text(value: float | int | bool, t: DType) -> str:
    if t.is_float:
        v = float(value)
        zero = "0.0f" if t.bits == 32 else "0.0"
        if math.isnan(v):
            return f"td_nan({zero})"
        if t.bits == 32:
            try:
                v = float(struct.unpack("f", struct.pack("f", v))[0])
            except OverflowError:
                v = math.copysign(math.inf, v)
        if math.isinf(v):
            return f"{'-' if v < 0 else ''}td_infinity({zero})"
        return f"{_shortest(v, t.bits)}{'f' if t.bits == 32 else ''}"
    n = int(value)
    if t.bits == 64:
        if n == -(1 << 63):
            return "(-9223372036854775807ll - 1)"
        return f"{n}{'ull' if t.kind == 'u' else 'll'}"
    return f"{n}u" if t.kind == "u" else str(n)


def _shortest(v: float, bits: int) -> str:
    """The shortest decimal text that gives the same float back."""
    if bits == 32:
        for digits in range(1, 10):
            text = f"{v:.{digits}g}"
            if struct.pack("f", float(text)) == struct.pack("f", v):
                break
    else:
        text = repr(v)
    return text if any(ch in text for ch in ".e") else text + ".0"


@dataclass(frozen=True, slots=True, eq=False)
class ScalarText:
    """Turns expressions into text; read: how a read prints at this place; index: how an `Affine` does."""

    read: Callable[[Read], str]
    index: Callable[[Affine], str]
    named: Mapping[int, str]  # id of a shared node -> the constant that holds it

    def __call__(self, e: Expr) -> str:
        if id(e) in self.named:
            return self.named[id(e)]
        if isinstance(e, Const):
            text = constant_text(e.value, e.dtype)
            return f"({text})" if text.startswith("-") else text
        if isinstance(e, Index):
            return _cast(self.index(e.affine), e.dtype)
        if isinstance(e, Read):
            return self.read(e)
        if isinstance(e, Op):
            return self.op(e)
        raise BuildError(f"{e} has no text in CUDA")

    def op(self, e: Op) -> str:
        if e.name in COMPARISONS and all(_is_integer(a) for a in e.args):  # of indices: in their own width
            return f"({' '.join([self.plain(e.args[0]), _INFIX[e.name], self.plain(e.args[1])])})"
        if e.name == "cast" and isinstance(e.args[0], Index) and e.dtype.kind != "b":
            return _cast(self.plain(e.args[0]), e.dtype)
        args = [self(a) for a in e.args]
        t = e.args[0].dtype
        if e.name in _INFIX:
            return _narrow(f"({args[0]} {_INFIX[e.name]} {args[1]})", e.dtype)
        if e.name in ("and", "or"):
            word = "&" if e.name == "and" else "|"
            return f"({args[0]} {word * 2 if t.kind == 'b' else word} {args[1]})"
        if e.name == "not":
            return f"!{args[0]}" if t.kind == "b" else _narrow(f"~{args[0]}", t)
        if e.name == "neg":
            return _narrow(f"(-{args[0]})", t)
        if e.name == "select":
            return f"({args[0]} ? {args[1]} : {args[2]})"
        if e.name == "cast":
            return f"({args[0]} != 0)" if e.dtype.kind == "b" else _cast(args[0], e.dtype)
        if e.name in ("max", "min"):
            return f"td_{e.name}<{e.dtype.c_name}>({', '.join(args)})"
        if e.name in ("abs", "floordiv", "mod"):
            typed = [arg if t.is_float else _cast(arg, t) for arg in args]  # choose the overload
            return _narrow(f"td_{e.name}({', '.join(typed)})", t)
        if e.name in _LIBRARY and t.is_float:
            name = "rint" if e.name == "round" else e.name  # C's round goes away from zero
            return f"{name}{'f' if t.bits == 32 else ''}({', '.join(args)})"
        raise BuildError(f"{e.name} of {t} has no text in CUDA")

    def plain(self, e: Expr) -> str:
        """An index, or a number of its size, as it stands in index arithmetic."""
        return self.index(e.affine if isinstance(e, Index) else Affine((), int(e.value)))  # type: ignore[attr-defined]


def _is_integer(e: Expr) -> bool:
    """An index, or a number to compare one with."""
    return isinstance(e, Index) or (isinstance(e, Const) and e.dtype.kind == "i" and abs(int(e.value)) < 1 << 31)


def _cast(text: str, t: DType) -> str:
    return f"static_cast<{t.c_name}>({text})"


def _narrow(text: str, t: DType) -> str:
    """C computes small integers as int: bring the result back to its width."""
    return _cast(text, t) if t.kind in "iu" and t.bits < 32 else text


def shared_nodes(e: Expr) -> list[Expr]:
    """Operations used more than once, operands first, that may be computed ahead of the expression.

    What occurs only inside a branch of a select is not: its reads may be out of bounds elsewhere.
    """
    uses: dict[int, int] = {}
    free: set[int] = set()

    def visit(x: Expr, guarded: bool) -> None:
        uses[id(x)] = uses.get(id(x), 0) + 1
        if not guarded and id(x) in free:
            return
        if guarded and uses[id(x)] > 1:
            return
        if not guarded:
            free.add(id(x))
        for k, child in enumerate(expr.children(x)):
            visit(child, guarded or (isinstance(x, Op) and x.name == "select" and k > 0))

    visit(e, False)
    return [x for x in expr.walk(e) if isinstance(x, Op) and uses[id(x)] > 1 and id(x) in free]
