"""Order primitives that give some iterations of a loop a copy of their own: peeled, full, or with a property."""

from __future__ import annotations

import re
from dataclasses import replace

from tensordsl.schedules.locate import edit, find_loops
from tensordsl.schedules.loopnest import For, If, Stmt, Store, children, rewrite, seq, substitute
from tensordsl.schedules.primitives.full_tiles import full_tiles
from tensordsl.schedules.schedule import Schedule, primitive
from tensordsl.schedules.simplify import Context, context

from tensordsl import conditions, expr
from tensordsl.affine import Affine, Dim
from tensordsl.errors import ScheduleError
from tensordsl.expr import Op


@primitive
def peel(s: Schedule, stage: str, loop: str, which: str = "last") -> Schedule:
    """Take the first or the last iteration out of a loop.

    which: "first", "last", or "tail": the last one, but only where it is a partial tile, so that
    full tiles have constant bounds.  Where the number of iterations is known only at the call, the
    tail has a loop of its own, of one iteration or none.

    Requires: one lower and one upper bound.
    Rewrite: ``for v in a..b: S``  ->  ``S[v = a]; for v in a+1..b: S``
    Raises: ScheduleError for another ``which`` or several bounds.
    """
    if which not in ("first", "last", "tail"):
        raise ScheduleError(f"which={which!r}", legal=("first", "last", "tail"))
    targets = find_loops(s.nest, stage, loop)
    around = {f.var: context(path) for f, path in targets.values()}

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        if len(x.lo) != 1 or len(x.hi) != 1:
            raise ScheduleError(f'loop "{x.var}" has several bounds', hint="separate it first")
        lo, hi = x.lo[0], x.hi[0]
        if which == "tail" and any(isinstance(n, Dim) for n in hi.names()):
            return full_tiles(x, around[x.var])
        if which == "tail" and not _has_tail(x, around[x.var]):
            return x
        if which == "first":
            return seq(substitute(x.body, {x.var: lo}), replace(x, lo=(lo + 1,)))
        return seq(replace(x, hi=(hi - 1,)), substitute(x.body, {x.var: hi - 1}))

    return s.with_nest(edit(s.nest.body, targets, go))


def _has_tail(x: For, c: Context) -> bool:
    """Is a bound or guard inside decided in all iterations but the last?"""
    if x.hi[0] - x.lo[0] == Affine((), 1):
        return False
    main = replace(x, hi=(x.hi[0] - 1,))

    def differs(condition: Affine, inner: tuple[For, ...]) -> bool:
        if x.var not in condition.names():
            return False
        full, most = Context((*c.loops, x, *inner)), Context((*c.loops, main, *inner))
        return most.implies(condition) and not full.implies(condition)

    def go(y: Stmt, inner: tuple[For, ...]) -> bool:
        if isinstance(y, For):
            pairs = [b - a for a in y.hi for b in y.hi if a is not b] + [
                a - b for a in y.lo for b in y.lo if a is not b
            ]
            if any(differs(p, inner) for p in pairs):
                return True
            inner = (*inner, y)
        if isinstance(y, If) and any(differs(k, inner) for k in y.conditions):
            return True
        if isinstance(y, Store):
            choices = [e.args[0] for e in expr.walk(y.value) if isinstance(e, Op) and e.name == "select"]
            if any(differs(k, inner) for e in choices for k in conditions.conditions(e) or ()):
                return True
        return any(go(k, inner) for k in children(y))

    return go(x.body, ())


def renamed(x: Stmt, suffix: str | None) -> Stmt:
    """The statement with a suffix on the names of its loops, so that later steps can name this copy."""
    if not suffix:
        return x

    def go(y: Stmt) -> Stmt | None:
        if isinstance(y, For):
            new = f"{y.var}.{suffix}"
            return replace(y, var=new, body=substitute(y.body, {y.var: Affine.of(new)}))
        return None

    return rewrite(x, go)


@primitive
def separate(s: Schedule, stage: str, loop: str, suffix: str | None = None) -> Schedule:
    """Give the full iterations of a tile loop a copy with constant bounds.

    suffix: added to the names of the loops of that copy (``r`` becomes ``r.suffix``).

    Requires: among the loop's bounds is a pair with a constant distance (the full tile).
    Rewrite: ``for v in max(a, x)..min(b, y): S``  ->  ``if x <= a and b <= y: for v in a..b: S else: (the same loop)``
    Raises: ScheduleError when no pair of bounds has a constant distance.
    """
    targets = find_loops(s.nest, stage, loop)

    def go(x: Stmt) -> Stmt:
        assert isinstance(x, For)
        pairs = [(a, b) for a in x.lo for b in x.hi if not (b - a).terms]
        if not pairs:
            raise ScheduleError(f'no two bounds of "{x.var}" have a constant distance')
        lo, hi = pairs[0]
        slack = tuple(lo - a for a in x.lo if a is not lo) + tuple(b - hi for b in x.hi if b is not hi)
        return If(slack, renamed(replace(x, lo=(lo,), hi=(hi,)), suffix), x) if slack else x

    return s.with_nest(edit(s.nest.body, targets, go))


@primitive
def specialize(s: Schedule, stage: str, loop: str, *conditions: str, suffix: str | None = None) -> Schedule:
    """Give the iterations in which affine conditions hold a copy of a loop of their own.

    In the copy, selects and guards that the conditions decide disappear.  conditions: texts such
    as ``"8*i.o - t >= 1"`` over the loops around.  suffix: added to the names of the copy's loops.

    Requires: the conditions use only loops around ``loop``.
    Rewrite: ``for v: S``  ->  ``if conditions: for v: S else: for v: S``
    Raises: ScheduleError for a condition that cannot be read or names another loop.
    """
    targets = find_loops(s.nest, stage, loop)
    limits = tuple(g for text in conditions for g in parse_condition(text))
    if not limits:
        raise ScheduleError("give at least one condition")
    for _, path in targets.values():
        known = {x.var for x in path if isinstance(x, For)}
        for g in limits:
            for n in g.names() - known:
                raise ScheduleError(
                    f'the condition {g} >= 0 uses {n!r}, which is no loop around "{loop}"', legal=sorted(known)
                )
    return s.with_nest(edit(s.nest.body, targets, lambda x: If(limits, renamed(x, suffix), x)))


_TOKEN = re.compile(r"\s*(>=|<=|==|[<>+*-]|\d+|[A-Za-z_@][\w.']*)")


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    while at < len(text.rstrip()):
        m = _TOKEN.match(text, at)
        if m is None:
            raise ScheduleError(f"cannot read the condition {text!r} at column {at + 1}")
        tokens.append(m.group(1))
        at = m.end()
    return tokens


def parse_affine(text: str) -> Affine:
    """``"2*i + 1"`` as an affine expression."""
    return _parse_sum(_tokens(text), text)


def parse_condition(text: str) -> tuple[Affine, ...]:
    """``"8*i.o - t >= 1"`` as affine expressions that are >= 0 where it holds."""
    tokens = _tokens(text)
    relations = [k for k, t in enumerate(tokens) if t in (">=", "<=", "<", ">", "==")]
    if len(relations) != 1:
        raise ScheduleError(f"the condition {text!r} needs one of >= <= > < ==")
    a, b = _parse_sum(tokens[: relations[0]], text), _parse_sum(tokens[relations[0] + 1 :], text)
    return {">=": (a - b,), "<=": (b - a,), ">": (a - b - 1,), "<": (b - a - 1,), "==": (a - b, b - a)}[
        tokens[relations[0]]
    ]


def _parse_sum(tokens: list[str], text: str) -> Affine:
    total, sign, factor, expects = Affine(), 1, 1, True
    for k, t in enumerate(tokens):
        if t in "+-" and (expects is False or k == 0 or t == "-"):
            sign = (sign if expects else 1) * (-1 if t == "-" else 1)
            factor, expects = 1, True
        elif t == "*" and not expects:
            expects = True
        elif t not in "+-*" and expects:
            if k + 1 < len(tokens) and tokens[k + 1] == "*" and t.isdigit():
                factor *= int(t)
            else:
                total = total + (Affine((), int(t)) if t.isdigit() else Affine.of(t)) * (sign * factor)
                sign, factor = 1, 1
            expects = False
        else:
            raise ScheduleError(f"cannot read {t!r} in the condition {text!r}")
    if expects:
        raise ScheduleError(f"the condition {text!r} ends too early")
    return total
