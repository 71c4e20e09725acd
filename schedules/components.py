"""A nest without tuples: every component of a state in a buffer of its own, every combination written out.

What printers take.  A state is one cell while a nest is scheduled and proven, so its components cannot
drift apart; here a store of a state becomes stores of its components, all of them computed before any
is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    Prefetch,
    Stmt,
    Store,
    map_values,
    rewrite,
    seq,
    stores,
)  # fmt: skip

from tensordsl import combination, expr
from tensordsl.combination import Combination
from tensordsl.dtypes import TupleType
from tensordsl.expr import Expr, Op, Read


def split_components(body: Stmt) -> Stmt:
    """The same statement over buffers of single values, with plain stores and operations only."""
    if not any(isinstance(s.op, Combination) or isinstance(s.buffer.dtype, TupleType) for s, _ in stores(body)):
        return body
    return map_values(rewrite(body, _statement), _components())


def component(b: Buffer, n: int) -> Buffer:
    """The buffer of one component of the states in a buffer."""
    assert isinstance(b.dtype, TupleType)
    return replace(b, name=f"{b.name}.{n}", dtype=b.dtype.parts[n], banks=tuple(f"{x}.{n}" for x in b.banks))


def _statement(s: Stmt) -> Stmt | None:
    if isinstance(s, Store):
        return _store(s)
    if not isinstance(s, (Alloc, Prefetch)) or not isinstance(s.buffer.dtype, TupleType):
        return None
    numbers = range(len(s.buffer.dtype.parts))
    if isinstance(s, Prefetch):
        return seq(*[replace(s, buffer=component(s.buffer, n)) for n in numbers])
    body = s.body
    for n in reversed(numbers):
        body = Alloc(component(s.buffer, n), body)
    return body


def _store(s: Store) -> Stmt | None:
    if not isinstance(s.buffer.dtype, TupleType):
        return s.plain if isinstance(s.op, Combination) else None
    value = s.plain.value
    targets = [component(s.buffer, n) for n in range(len(s.buffer.dtype.parts))]
    split = _components()
    values = [expr.transform(combination.part(value, n), split) for n in range(len(targets))]
    plain = partial(Store, index=s.index, instance=s.instance)
    names = {b.name for b in targets}
    if not any(r.source.name in names for v in values for r in expr.reads(v)):
        return seq(*[plain(buffer=b, value=v, nt=s.nt) for b, v in zip(targets, values)])
    # a component may be written when no other one needs its old value any more
    kept, first = _shared(values)
    new = [Buffer(f"{b.name}.new", (), b.dtype, "register") for b in targets[:-1]]
    body: Stmt = seq(
        *[Store(b, (), v, s.instance) for b, v in first],
        *[Store(b, (), v, s.instance) for b, v in zip(new, kept)],
        plain(buffer=targets[-1], value=kept[-1]),
        *[plain(buffer=b, value=Read(t, ())) for b, t in zip(targets, new)],
    )
    for b in [*[b for b, _ in first], *new]:
        body = Alloc(b, body)
    return body


def _components() -> Callable[[Expr], Expr | None]:
    """A rule: a component of a state is read from its own buffer; of a choice of states, it is chosen."""

    def pick(e: Expr, n: int) -> Expr:
        if isinstance(e, Read):
            assert isinstance(e.source, Buffer)
            return replace(e, source=component(e.source, n))
        if isinstance(e, Op) and e.name == "select":
            return expr.select(e.args[0], pick(e.args[1], n), pick(e.args[2], n))
        return combination.part(e, n)

    def rule(e: Expr) -> Expr | None:
        if isinstance(e, Op) and e.name.startswith("part"):
            return pick(e.args[0], int(e.name[4:]))
        return None

    return rule


def _shared(values: list[Expr]) -> tuple[list[Expr], list[tuple[Buffer, Expr]]]:
    """Values that several components need, each stored once, and the components in terms of them.

    Only what is needed in any case: an arm of a select may have no value where it is not chosen.
    """
    users: dict[int, int] = {}
    order: dict[int, Expr] = {}
    for v in values:
        for x in _needed(v):
            users[id(x)] = users.get(id(x), 0) + 1
            order[id(x)] = x
    memo: dict[int, Expr] = {}
    first: list[tuple[Buffer, Expr]] = []
    for i, x in order.items():
        if users[i] > 1 and isinstance(x, Op) and x.dtype.kind != "b" and not _divides(x):
            home = Buffer(f"shared.{len(first)}", (), x.dtype, "register")
            first.append((home, expr.transform(x, lambda e: None, memo)))
            memo[i] = Read(home, ())
    return [expr.transform(v, lambda e: None, memo) for v in values], first


def _divides(e: Op) -> bool:
    """Has it no value for some operands?"""
    return e.name in ("floordiv", "mod") and not e.dtype.is_float


def _needed(e: Expr) -> list[Expr]:
    """The nodes needed whatever a select chooses, operands first."""
    found: dict[int, Expr] = {}

    def go(x: Expr) -> None:
        if id(x) in found:
            return
        for c in expr.children(x)[:1] if isinstance(x, Op) and x.name == "select" else expr.children(x):
            go(c)
        found[id(x)] = x

    go(e)
    return list(found.values())
