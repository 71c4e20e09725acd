"""Recurrences along one axis whose steps can be combined before the first value is known.

A step ``h -> plus(times(h, a), v)`` is given by the pair (a, v), free of h; two steps after another are
one such step, ``(times(a1, a2), plus(times(v1, a2), v2))``, and putting them together is associative.
So a block of steps is combined without what came before it.  The forms: a running sum, product or
extreme (a is neutral), an affine recurrence ``a h + v``, and ``max(h + a, v)`` or the same with min.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tensordsl.schedules.analysis import definition_of
from tensordsl.schedules.loopnest import For, Seq
from tensordsl.schedules.simplify import Context, simplify_value

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import REDUCERS, Const, Expr, Op, Read
from tensordsl.tensor import Tensor

#: combination -> the operation that distributes over it
_OVER = {"add": "mul", "max": "add", "min": "add"}


@dataclass(frozen=True, slots=True)
class Steps:
    """h[first] = first; h[i] = plus(h[i - 1], term), or plus(times(h[i - 1], scale), term)."""

    axis: str
    descending: bool
    plus: str
    first: Expr
    term: Expr
    scale: Expr | None = None

    @property
    def times(self) -> str:
        return _OVER[self.plus]

    def neutral(self, operation: str) -> Const:
        return next(r for r in REDUCERS.values() if r.combine == operation).identity(self.term.dtype)


class _Refused(Exception):
    """Why an expression is no step of a known form."""


def steps_of(t: Tensor) -> Steps:
    """The steps of a recurrence.  Raises ScheduleError, with the operation that is in the way."""
    d = definition_of(t)
    if d.reducer is not None or len(d.order) != 1:
        raise ScheduleError(f"{t.name} is not a recurrence along one axis")
    [level] = d.order
    own = [r for r in d.reads if r.source is t]
    back = 1 if level.descending else -1
    before = tuple(Affine.of(a.name) + (back if a.name == level.axis else 0) for a in d.axes)
    if not own or any(r.index != before for r in own):
        raise ScheduleError(f"{t.name} reads other elements of itself than the one before")
    extent = next(a.extent for a in d.axes if a.name == level.axis)
    start = Affine((), extent - 1 if level.descending else 0)
    inner = (0, extent - 1) if level.descending else (1, extent)
    first = _within(expr.substitute(d.body, {level.axis: start}), t, None)
    if any(r.source is t for r in expr.reads(first)):
        raise ScheduleError(f"{t.name} reads before its first element")
    step = _within(d.body, t, (level.axis, *inner))
    try:
        return _classified(step, t, replace(Steps(level.axis, level.descending, "add", first, step)))
    except _Refused as reason:
        raise ScheduleError(
            f"the steps of {t.name} cannot be combined: {reason}",
            hint="forms that can: h + v, h * v, max(h, v), a * h + v, max(h + a, v), with a and v free of h",
        ) from None


def _within(body: Expr, t: Tensor, along: tuple[str, int, int] | None) -> Expr:
    """A body with the selects decided that the ranges of the axes decide.  along: an axis cut to a range."""
    ranges = {a.name: (0, a.extent) for a in definition_of(t).axes}
    if along is not None:
        ranges[along[0]] = along[1:]
    loops = [For(name, (Affine((), lo),), (Affine((), hi),), Seq(())) for name, (lo, hi) in ranges.items()]
    return simplify_value(body, Context(tuple(loops)))


def _classified(step: Expr, t: Tensor, s: Steps) -> Steps:
    if isinstance(step, Op) and step.name in ("max", "min"):
        scale, term = _extreme(step, t, step.name)
        term = _some(term, s.neutral(step.name))
        if _is(scale, 0):
            return replace(s, plus=step.name, term=term)
        if not step.dtype.is_float:
            raise _Refused("sums of integers wrap around, so a maximum does not distribute over them")
        return replace(s, plus=step.name, term=term, scale=scale)
    scale_, term_ = _linear(step, t)
    if _is(scale_, 1):
        return replace(s, plus="add", term=_some(term_, s.neutral("add")))
    if scale_ is not None and term_ is None:
        return replace(s, plus="mul", term=scale_)
    return replace(s, plus="add", term=_some(term_, s.neutral("add")), scale=_some(scale_, s.neutral("add")))


def _some(e: Expr | None, otherwise: Expr) -> Expr:
    return otherwise if e is None else e


def _is(e: Expr | None, value: int) -> bool:
    return isinstance(e, Const) and e.value == value


def _free(e: Expr, t: Tensor) -> bool:
    return all(r.source is not t for r in expr.reads(e))


def _linear(e: Expr, t: Tensor) -> tuple[Expr | None, Expr | None]:
    """(a, b) with e = a h + b; None is 0.  Nothing is rounded that e itself does not round."""
    if _free(e, t):
        return None, e
    if isinstance(e, Read):
        return expr.constant(1, e.dtype), None
    assert isinstance(e, Op)
    match e.name:
        case "add" | "sub":
            (a, b), (c, d) = (_linear(x, t) for x in e.args)
            return _added(e.name, a, c), _added(e.name, b, d)
        case "neg":
            a, b = _linear(e.args[0], t)
            return _map(a, lambda x: expr.unary("neg", x)), _map(b, lambda x: expr.unary("neg", x))
        case "mul" if _free(e.args[0], t) or _free(e.args[1], t):
            factor, other = e.args if _free(e.args[0], t) else e.args[::-1]
            a, b = _linear(other, t)
            return _map(a, lambda x: _product(factor, x)), _map(b, lambda x: _product(factor, x))
        case "div" if e.dtype.is_float and _free(e.args[1], t):
            a, b = _linear(e.args[0], t)
            return _map(a, lambda x: expr.binary("div", x, e.args[1])), _map(
                b, lambda x: expr.binary("div", x, e.args[1])
            )
        case "select" if _free(e.args[0], t):
            (a, b), (c, d) = (_linear(x, t) for x in e.args[1:])
            return _chosen(e.args[0], a, c, e), _chosen(e.args[0], b, d, e)
    raise _Refused(_obstacle(e))


def _extreme(e: Expr, t: Tensor, name: str) -> tuple[Expr, Expr | None]:
    """(a, v) with e = max(h + a, v) (or min); v None: h + a alone."""
    if isinstance(e, Op) and e.name == name:
        first, second = e.args
        if _free(first, t) or _free(second, t):
            value, rest = (first, second) if _free(first, t) else (second, first)
            a, v = _extreme(rest, t, name)
            return a, value if v is None else expr.binary(name, v, value)
        (a, v), (c, w) = (_extreme(x, t, name) for x in e.args)
        both = v if w is None else w if v is None else expr.binary(name, v, w)
        return expr.binary(name, a, c), both
    scale, shift = _linear(e, t)
    if not _is(scale, 1):
        raise _Refused(f"the previous value has a factor inside of {name}")
    return _some(shift, expr.constant(0, e.dtype)), None


def _obstacle(e: Op) -> str:
    if e.name == "mul":
        return "the previous value is multiplied by itself"
    if e.name == "div":
        return "it divides by the previous value"
    return f"{e.name} is applied to the previous value"


def _map(e: Expr | None, f: object) -> Expr | None:
    assert callable(f)
    result: Expr | None = None if e is None else f(e)
    return result


def _product(factor: Expr, x: Expr) -> Expr:
    return factor if _is(x, 1) else expr.binary("mul", factor, x)


def _added(name: str, a: Expr | None, b: Expr | None) -> Expr | None:
    if a is None or b is None:
        rest = a if b is None else b
        return expr.unary("neg", rest) if rest is not None and name == "sub" and a is None else rest
    return expr.binary(name, a, b)


def _chosen(condition: Expr, a: Expr | None, b: Expr | None, e: Op) -> Expr | None:
    if a is None and b is None:
        return None
    zero = expr.constant(0, e.dtype)
    return expr.select(condition, _some(a, zero), _some(b, zero))
