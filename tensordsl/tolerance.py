"""How far a float kernel may lie from the exact value: running error analysis.

Every value v carries a bound e on |computed - v|, in absolute terms, valid for any kernel that
rounds each operation of the program once, in any order of a reduction, with or without fused
multiply-adds (N. Higham, Accuracy and Stability of Numerical Algorithms, chapters 3 and 4):

- an operation adds u |v|, where v is not representable; a function of reals adds `FUNCTION_ERROR` u |v|;
- a sum of n terms adds n u sum|terms|;
- errors of the operands go through: added by + and -, |a| e_b + |b| e_a + e_a e_b by *, the widest
  change over [a - e, a + e] by monotone functions, unchanged by max, min, abs, sin and cos;
- where a comparison or a rounding to an integer is in doubt, both results are allowed.

For a sum of products of inputs this is ``u (n sum|terms| + ...)``, and zero where every operation
is exact, so small integers are compared bitwise.  `SAFETY` times the bound is the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tensordsl import complex_errors
from tensordsl.arithmetic import Array, apply
from tensordsl.dtypes import DType
from tensordsl.expr import COMPARISONS, LOGICAL, Const, Op

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensordsl.evaluation import Value

#: The constant c of |out - ref| <= c * bound: second-order terms, and functions good to 4 ulp.
SAFETY = 2.0
#: Error of a function of reals in units of u: 2 ulp.
FUNCTION_ERROR = 4.0
_FUNCTIONS = frozenset({"exp", "exp2", "log", "log2", "tanh", "erf", "sin", "cos", "rsqrt", "pow"})
_MONOTONE = frozenset({"exp", "exp2", "log", "log2", "tanh", "erf", "rsqrt", "sqrt", "floor", "ceil", "round"})
#: Results that are always representable when the operands are.
_EXACT = frozenset({"neg", "abs", "max", "min", "floor", "ceil", "round"})


class ErrorRules:
    """Error bounds of the nodes of an expression; values are float64."""

    def unit(self, t: DType) -> float:
        """u of a type; twice that for float64, whose reference is rounded as well."""
        return 2 * t.unit_roundoff if t.real.name == "float64" else t.unit_roundoff

    def exact_integers(self, t: DType) -> float:
        """Integers up to this size are representable."""
        return 2.0**53 if t.real.name == "float64" else 1 / t.unit_roundoff

    def constant(self, e: Const) -> Array | None:
        return self.representation(np.array(e.value), e.dtype) if e.dtype.is_inexact else None

    def representation(self, value: Array, t: DType) -> Array | None:
        """The bound of a given number, rounded to its type."""
        return _settled(_finite(value, self._rounding(value, t, True), t)) if t.real.name != "float64" else None

    def operation(self, e: Op, args: Sequence[Value], value: Array) -> Array | None:
        """The bound of an operation (all but select) with these operands."""
        certain = all(a.error is None for a in args)
        if (certain and not e.dtype.is_inexact) or (e.name in COMPARISONS and e.args[0] is e.args[1]):
            return None  # a value compared with itself, rounded or not, says whether it is a number
        with np.errstate(all="ignore"):
            safe = certain and e.name not in ("floordiv", "mod")
            error = np.zeros(()) if safe else _propagate(e.name, args, value, e.dtype)
            if any(a.value.dtype.kind == "c" for a in args) and e.dtype.is_inexact:
                error = _finite(value, error + self._complex(e, args, value, certain), e.dtype)
            elif e.dtype.is_inexact:
                if e.name in _FUNCTIONS:
                    error = error + self._function(e, args, value)
                elif e.name not in _EXACT:
                    error = error + self._rounding(value, e.dtype, certain)
                error = _finite(value, error, e.dtype)
        return _settled(error)

    def select(self, holds: Array, doubtful: Array | None, sides: Sequence[Value]) -> Array | None:
        """Where the condition is in doubt, the other side counts as well."""
        if doubtful is None and all(s.error is None for s in sides):
            return None
        then, otherwise = (_error(s) for s in sides)
        error = np.where(holds, then, otherwise)
        if doubtful is not None:
            with np.errstate(all="ignore"):
                apart = np.abs(_wide(sides[0].value) - _wide(sides[1].value))
            other = np.where(holds, otherwise, then) + np.where(np.isnan(apart), np.inf, apart)
            error = np.where(doubtful, np.maximum(error, other), error)
        return _settled(error)

    def times(
        self, a: Array, a_error: Array | None, b: Array, b_error: Array | None, t: DType
    ) -> tuple[Array, Array | None]:
        """A product and its bound."""
        value = a * b
        certain = a_error is None and b_error is None
        x, y = 0.0 if a_error is None else a_error, 0.0 if b_error is None else b_error
        error = np.abs(a) * y + np.abs(b) * x + np.multiply(x, y)
        if t.is_inexact:
            rounding = self._rounding(value, t, certain)
            if t.is_complex:
                rounding = np.where(complex_errors.exact_product(a, b, self.exact_integers(t)), 0.0, 3 * rounding)
            error = _finite(value, error + rounding, t)
        return value, _settled(error)

    def _complex(self, e: Op, args: Sequence[Value], value: Array, certain: bool) -> Array:
        """An operation on complex numbers."""
        if e.name in complex_errors.EXACT:
            return np.zeros(())
        if e.name in ("add", "sub", "cast"):
            return self._rounding(value, e.dtype, certain)
        error = complex_errors.UNITS[e.name] * self._rounding(value, e.dtype, False)
        if e.name == "mul" and certain:
            exact = complex_errors.exact_product(args[0].value, args[1].value, self.exact_integers(e.dtype))
            error = np.where(exact, 0.0, error)
        return error

    def _rounding(self, value: Array, t: DType, certain: bool) -> Array:
        """Rounding once to t; nothing where the exact value is representable."""
        error = self.unit(t) * np.abs(value) + np.where(value == 0, 0.0, float(t.limits.smallest_subnormal))
        if certain and t.real.name != "float64":
            error = np.where(_wide(value.astype(t.numpy)) == value, 0.0, error)
        elif certain:  # the float64 reference itself does not tell; integers of this size are exact
            error = np.where((value == np.rint(value)) & (np.abs(value) < 2.0**52), 0.0, error)
        return error

    def _function(self, e: Op, args: Sequence[Value], value: Array) -> Array:
        """Approximations; results below the normal range may be flushed to zero."""
        size = FUNCTION_ERROR * np.abs(value)
        if e.name == "pow":  # by exp and log: the logarithm's rounding is magnified
            scale = np.abs(args[1].value * np.log(np.abs(args[0].value)))
            size = size * (1 + np.where(np.isfinite(scale), scale, 0.0))
        return self.unit(e.dtype) * size + np.where(value == 0, 0.0, float(e.dtype.limits.tiny))


class Inherited(ErrorRules):
    """What the errors of the operands do, without any rounding of the operations themselves."""

    def constant(self, e: Const) -> Array | None:
        return None

    def _rounding(self, value: Array, t: DType, certain: bool) -> Array:
        return np.zeros(())

    def _function(self, e: Op, args: Sequence[Value], value: Array) -> Array:
        return np.zeros(())


def _error(v: Value) -> Array:
    return np.zeros(()) if v.error is None else v.error


def _wide(value: Array) -> Array:
    wide: Array = value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
    return wide


def _finite(value: Array, error: Array, t: DType) -> Array:
    """inf and nan are exact; nothing is claimed where a kernel may overflow."""
    error = np.where(np.isnan(error) | (np.abs(value) + error > float(t.limits.max)), np.inf, error)
    return np.where(np.isfinite(value), error, 0.0)


def _settled(error: Array) -> Array | None:
    return error if error.any() else None


def _propagate(name: str, args: Sequence[Value], value: Array, t: DType) -> Array:
    """What the errors of the operands do to the value."""
    if name in COMPARISONS:
        gap: Array = np.abs(_wide(args[0].value) - _wide(args[1].value))
        slack = _error(args[0]) + _error(args[1])
        doubt: Array = ((gap <= slack) & (slack > 0)).astype(np.float64)
        return doubt
    if name in LOGICAL:
        bound: Array = np.maximum.reduce(np.broadcast_arrays(*[_error(a) for a in args]))
        return bound
    if name == "exp" and value.dtype.kind == "c":
        return complex_errors.exponential_change(value, _error(args[0]))
    if name == "cast":
        return _cast(args[0], value, t)
    if name in _MONOTONE:
        return _widest(lambda x: apply(name, [x]), args[0], value)
    return _RULES[name](args, value, t)


def _widest(f: Callable[[Array], Array], a: Value, value: Array) -> Array:
    """The widest change of a monotone function over [a - e, a + e]."""
    below, above = f(a.value - _error(a)), f(a.value + _error(a))
    change = np.maximum(np.abs(above - value), np.abs(value - below))
    return np.where(_error(a) == 0, 0.0, change)


def _cast(a: Value, value: Array, t: DType) -> Array:
    if t.is_inexact or t.kind == "b" or a.value.dtype.kind != "f":
        return (_error(a) > 0).astype(np.float64) if t.kind == "b" else _error(a)
    return _widest(np.trunc, a, np.trunc(a.value))


def _sum(args: Sequence[Value], value: Array, t: DType) -> Array:
    return _error(args[0]) + _error(args[1])


def _mul(args: Sequence[Value], value: Array, t: DType) -> Array:
    a, b = args
    x, y = _error(a), _error(b)
    bound: Array = np.abs(a.value) * y + np.abs(b.value) * x + x * y
    return bound


def _div(args: Sequence[Value], value: Array, t: DType) -> Array:
    a, b = args
    room = np.abs(b.value) - _error(b)
    return np.where(room > 0, (_error(a) + np.abs(value) * _error(b)) / room, np.inf)


def _floordiv(args: Sequence[Value], value: Array, t: DType) -> Array:
    """A kernel may round the quotient before it takes the floor."""
    quotient = args[0].value / args[1].value
    e = _div(args, quotient, t) + 2 * t.unit_roundoff * np.abs(quotient)
    bound: Array = np.maximum(np.floor(quotient + e) - value, value - np.floor(quotient - e))
    return bound


def _mod(args: Sequence[Value], value: Array, t: DType) -> Array:
    jump = _floordiv(args, apply("floordiv", [a.value for a in args]), t)
    whole = np.abs(np.floor(args[0].value / args[1].value))
    bound: Array = _error(args[0]) + whole * _error(args[1]) + jump * np.abs(args[1].value)
    return bound


def _pow(args: Sequence[Value], value: Array, t: DType) -> Array:
    a, b = args
    corners = [
        np.abs(np.power(a.value + x, b.value + y) - value)
        for x in (_error(a), -_error(a))
        for y in (_error(b), -_error(b))
    ]
    bound: Array = np.maximum.reduce(np.broadcast_arrays(*corners))
    return bound


def _largest(args: Sequence[Value], value: Array, t: DType) -> Array:
    return np.maximum(_error(args[0]), _error(args[1]))


_RULES: dict[str, Callable[[Sequence[Value], Array, DType], Array]] = {
    "add": _sum,
    "sub": _sum,
    "mul": _mul,
    "div": _div,
    "floordiv": _floordiv,
    "mod": _mod,
    "pow": _pow,
    "max": _largest,
    "min": _largest,
    "neg": lambda args, value, t: _error(args[0]),
    **dict.fromkeys(("abs", "real", "imag", "conj"), lambda args, value, t: _error(args[0])),
    "sin": lambda args, value, t: np.minimum(_error(args[0]), 2.0),
    "cos": lambda args, value, t: np.minimum(_error(args[0]), 2.0),
}
