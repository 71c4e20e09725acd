"""Scalar expressions as Python statements: the arithmetic of the nest interpreter.

Sharing is kept (a node used twice is computed once) and ``select`` evaluates only the chosen side.
Every node gets a *block*: the statement itself, an arm of a select, or a thunk for a node that
several arms share and nothing else needs.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensordsl import dtypes, expr
from tensordsl.affine import Affine
from tensordsl.dtypes import DType
from tensordsl.expr import Const, Expr, Index, Op, Read

#: Python's parser takes about 200 nested parentheses; deeper expressions get temporaries.
MAX_NESTING = 30


# ---------------------------------------------------------------- arithmetic


def _real(fast: Callable[..., float], exact: Any) -> Callable[..., float]:
    """A function of reals that gives inf and nan where Python raises (numpy's answer)."""

    def call(*args: float) -> float:
        try:
            return fast(*args)
        except (ValueError, OverflowError, ZeroDivisionError):
            with np.errstate(all="ignore"):
                return float(exact(*[np.float64(a) for a in args]))

    return call


def _complex(fast: Callable[..., complex], exact: Any) -> Callable[..., complex]:
    """A function of complex numbers that gives inf and nan where Python raises (numpy's answer)."""

    def call(*args: complex) -> complex:
        try:
            return fast(*args)
        except (ValueError, OverflowError, ZeroDivisionError):
            with np.errstate(all="ignore"):
                return complex(exact(*[np.complex128(a) for a in args]))

    return call


def _maximum(a: Any, b: Any) -> Any:
    return a if a > b or a != a else b


def _minimum(a: Any, b: Any) -> Any:
    return a if a < b or a != a else b


def _truncate(value: float, dtype_name: str) -> int:
    if not math.isfinite(value):
        raise ArithmeticError(f"{value} has no value of type {dtype_name}")
    return int(value)


def _rounding(t: DType) -> Callable[[Any], Any]:
    """The nearest number of a type, as a Python float or complex number."""
    kind, python = t.numpy.type, complex if t.is_complex else float

    def nearest(value: Any) -> Any:
        with np.errstate(over="ignore"):
            return python(kind(value))

    return nearest


#: float type -> the name of its rounding in the generated text
ROUNDINGS = {t.name: f"round_{t.name}" for t in dtypes.ALL.values() if t.is_inexact and t.real.name != "float64"}


#: Names the generated text may use.
GLOBALS: dict[str, Any] = {
    "inf": math.inf,
    "nan": math.nan,
    **{name: _rounding(dtypes.ALL[t]) for t, name in ROUNDINGS.items()},
    "truncate": _truncate,
    "c_div": _complex(lambda a, b: a / b, np.divide),
    "c_exp": _complex(cmath.exp, np.exp),
    "maximum": _maximum,
    "minimum": _minimum,
    "r_div": _real(lambda a, b: a / b, np.divide),
    "r_floordiv": _real(lambda a, b: a // b, np.floor_divide),
    "r_mod": _real(lambda a, b: a % b, np.mod),
    "r_pow": _real(math.pow, np.power),
    "r_sqrt": _real(math.sqrt, np.sqrt),
    "r_rsqrt": _real(lambda x: 1.0 / math.sqrt(x), lambda x: 1.0 / np.sqrt(x)),
    "r_exp": _real(math.exp, np.exp),
    "r_exp2": _real(lambda x: math.pow(2.0, x), np.exp2),
    "r_log": _real(math.log, np.log),
    "r_log2": _real(math.log2, np.log2),
    "r_tanh": math.tanh,
    "r_erf": math.erf,
    "r_sin": _real(math.sin, np.sin),
    "r_cos": _real(math.cos, np.cos),
    "r_floor": _real(lambda x: float(math.floor(x)), np.floor),
    "r_round": _real(lambda x: math.copysign(round(x), x), np.rint),  # Python's goes to even as well
    "r_ceil": _real(lambda x: float(math.ceil(x)), np.ceil),
}

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    "and": "&", "or": "|",
}  # fmt: skip
#: Integer operations that commute with reduction modulo a power of two: wrapping can wait.
_RING = frozenset({"add", "sub", "mul", "neg"})


def wrap(code: str, t: DType) -> str:
    """An integer reduced to the range of its type."""
    size = 1 << t.bits
    if t.kind == "u":
        return f"({code} & {size - 1})"
    if t.kind == "i":
        return f"(({code} + {size >> 1} & {size - 1}) - {size >> 1})"
    return code


def convert(code: str, source: DType, to: DType, single: bool) -> str:
    """A value of one type as another: towards zero from float to integer, wrapping into integers."""
    if to.kind == "b":
        return code if source.kind == "b" else f"({code} != 0)"
    if to.is_complex:
        code = code if source.is_complex else f"complex({code})"
        return f"{ROUNDINGS[to.name]}({code})" if single and to.name in ROUNDINGS and source != to else code
    if to.is_float:
        if not source.is_float:
            code = f"float({code})"
        return f"{ROUNDINGS[to.name]}({code})" if single and to.name in ROUNDINGS and source != to else code
    if source.is_float:
        return wrap(f"truncate({code}, {to.name!r})", to)
    if source.kind == "b":
        return f"int({code})"
    fits = to.bits >= source.bits if to.kind == source.kind else source.kind == "u" and to.bits > source.bits
    return code if fits else wrap(code, to)


def operation(name: str, args: list[str], t: DType, single: bool) -> str:
    """The text of an operation on atoms or parenthesised texts, in the type ``t`` of its operands."""
    if name == "tuple":
        return f"({', '.join(args)},)"
    if name.startswith("part"):
        return f"{args[0]}[{name[4:]}]"
    if name in _INFIX:
        code = f"({args[0]} {_INFIX[name]} {args[1]})"
    elif name in ("real", "imag"):
        return f"{args[0]}.{name}"
    elif name == "conj":
        return f"{args[0]}.conjugate()"
    elif name == "neg":
        code = f"(-{args[0]})"
    elif name == "not":
        code = f"(not {args[0]})" if t.kind == "b" else f"(~{args[0]})"
    elif name in ("max", "min"):
        code = f"{name}imum({args[0]}, {args[1]})"
    elif name == "abs":
        code = f"abs({args[0]})"
        if t.is_complex and single and t.name in ROUNDINGS:
            return f"{ROUNDINGS[t.real.name]}({code})"
    elif t.is_complex:
        code = f"c_{name}({', '.join(args)})"
    elif name in ("floordiv", "mod") and not t.is_float:
        code = f"({args[0]} {'//' if name == 'floordiv' else '%'} {args[1]})"
    else:
        code = f"r_{name}({', '.join(args)})"
    if single and t.name in ROUNDINGS and name not in expr.COMPARISONS | {"max", "min", "neg", "abs"}:
        code = f"{ROUNDINGS[t.name]}({code})"
    return code


# ---------------------------------------------------------------- blocks and sharing


@dataclass(eq=False, slots=True)
class _Block:
    """Where code runs: the statement (no parent), an arm of a select, or a thunk."""

    parent: _Block | None
    depth: int
    nodes: list[Expr] = field(default_factory=list)


def _common(a: _Block, b: _Block) -> _Block:
    while a is not b:
        if a.depth < b.depth:
            a, b = b, a
        assert a.parent is not None
        a = a.parent
    return a


def _outermost(blocks: list[_Block]) -> list[_Block]:
    """The distinct blocks that lie in no other one of the list."""
    kept: list[_Block] = []
    for b in blocks:
        outer = [k for k in blocks if k is not b and _common(b, k) is k]
        if not outer and not any(k is b for k in kept):
            kept.append(b)
    return kept


class ScalarCode:
    """Appends the statements of one expression to ``lines`` and names its value.

    affine: text of an index expression.  load(read, indent) emits the checks of a read and returns
    its value's text; it may append lines.  single: round every float operation to its type.
    """

    def __init__(
        self,
        lines: list[str],
        fresh: Callable[[str], str],
        affine: Callable[[Affine], str],
        load: Callable[[Read, str], str],
        single: bool,
    ) -> None:
        self.lines, self.fresh, self.affine, self.load, self.single = lines, fresh, affine, load, single

    def value(self, e: Expr, indent: str) -> str:
        """The text of the value of ``e`` after the statements appended here."""
        root = _Block(None, 0)
        self._place(e, root)
        self.done: dict[int, tuple[str, int]] = {}
        self._emit(root, indent)
        return self._text(e)

    def _place(self, e: Expr, root: _Block) -> None:
        order = list(expr.walk(e))
        uses: dict[int, list[_Block]] = {id(x): [] for x in order}
        uses[id(e)].append(root)
        self.arms: dict[int, tuple[_Block, _Block]] = {}
        self.thunks: dict[int, _Block] = {}
        self.shared: set[int] = set()
        for x in reversed(order):
            where = uses[id(x)]
            home = where[0]
            for other in where[1:]:
                home = _common(home, other)
            if len(where) > 1:
                self.shared.add(id(x))
            inner = home
            if isinstance(x, Read):
                for block in _outermost(where):  # arms repeat a read rather than share a thunk
                    block.nodes.append(x)
                continue
            home.nodes.append(x)
            if isinstance(x, Op) and not any(w is home for w in where):
                inner = self.thunks[id(x)] = _Block(home, home.depth + 1)
            if isinstance(x, Op) and x.name == "select":
                arms = (_Block(inner, inner.depth + 1), _Block(inner, inner.depth + 1))
                self.arms[id(x)] = arms
                for arg, block in zip(x.args, (inner, *arms)):
                    uses[id(arg)].append(block)
            else:
                for arg in expr.children(x):
                    uses[id(arg)].append(inner)

    def _emit(self, block: _Block, indent: str) -> None:
        for x in reversed(block.nodes):
            thunk = self.thunks.get(id(x))
            if thunk is None:
                self._node(x, indent)
                continue
            name = self.fresh("f")
            self.lines += [f"{indent}{name}_memo = []", f"{indent}def {name}():", f"{indent} if not {name}_memo:"]
            self._emit(thunk, indent + "  ")
            self._node(x, indent + "  ")
            self.lines += [f"{indent}  {name}_memo.append({self._text(x)})", f"{indent} return {name}_memo[0]"]
            self.done[id(x)] = (f"{name}()", 0)

    def _text(self, e: Expr) -> str:
        return self.done[id(e)][0]

    def _node(self, x: Expr, indent: str) -> None:
        if isinstance(x, Const):
            number: Any = x.value
            if self.single and x.dtype.name in ROUNDINGS:
                number = GLOBALS[ROUNDINGS[x.dtype.name]](number)
            code, depth = repr(number), 0
            if x.dtype.is_complex:
                code = f"complex({number.real!r}, {number.imag!r})"
            if not code[0].isdigit():
                code = f"({code})"
        elif isinstance(x, Index):
            code, depth = f"({self.affine(x.affine)})", 1
        elif isinstance(x, Read):
            code, depth = self.load(x, indent), 1
        else:
            assert isinstance(x, Op)
            if x.name == "select" and not self._conditional(x, indent):
                return
            code, depth = self._operation(x)
        if (id(x) in self.shared and not isinstance(x, Const)) or depth > MAX_NESTING:
            name = self.fresh("t")
            self.lines.append(f"{indent}{name} = {code}")
            code, depth = name, 0
        self.done[id(x)] = (code, depth)

    def _conditional(self, x: Op, indent: str) -> bool:
        """Emit the arms; True where both are plain texts, so that a conditional expression does."""
        parts: list[tuple[list[str], str]] = []
        start = len(self.lines)
        for arm, arg in zip(self.arms[id(x)], x.args[1:]):
            self._emit(arm, indent + " ")
            # named now: the other arm may repeat a read under a name of its own
            parts.append((self.lines[start:], self._settled(arg, self._text(arg))))
            del self.lines[start:]
        if not any(lines for lines, _ in parts):
            return True
        name = self.fresh("t")
        condition = self._settled(x.args[0], self._text(x.args[0]))
        for head, (lines, value) in zip((f"if {condition}:", "else:"), parts):
            self.lines += [indent + head, *lines, f"{indent} {name} = {value}"]
        self.done[id(x)] = (name, 0)
        return False

    def _operation(self, x: Op) -> tuple[str, int]:
        args = [self._text(a) for a in x.args]
        depth = 1 + max(self.done[id(a)][1] for a in x.args)
        if x.name == "select":
            condition, yes, no = (self._settled(a, code) for a, code in zip(x.args, args))
            return f"({yes} if {condition} else {no})", depth
        if x.name == "cast":
            source = x.args[0]
            return convert(self._settled(source, args[0]), source.dtype, x.dtype, self.single), depth
        if x.name not in _RING:
            args = [self._settled(a, code) for a, code in zip(x.args, args)]
        return operation(x.name, args, x.args[0].dtype, self.single), depth

    def _settled(self, e: Expr, code: str) -> str:
        """An operand whose pending integer wrap-around is done."""
        return wrap(code, e.dtype) if pending(e) else code


def pending(e: Expr) -> bool:
    """May the computed text exceed the range of its integer type?"""
    # the least integer has no absolute value, nor a quotient by -1
    late = _RING | {"abs", "floordiv", "not"}
    return isinstance(e, Op) and e.name in late and e.dtype.kind in "iu"
