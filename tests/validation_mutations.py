"""Random damage to a nest: bounds, guards, cells, instances, kinds, storage, order."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    If,
    LoopNest,
    Prefetch,
    Seq,
    Stmt,
    Store,
    children,
    seq,
    walk,
    with_children,
)  # fmt: skip

from tensordsl import expr
from tensordsl.affine import Affine, Datum, Quasi
from tensordsl.expr import Const, Expr, Index, Op, Read


def mutate(nest: LoopNest, rng: random.Random) -> LoopNest:
    """The nest with one random change (which may be harmless)."""
    for _ in range(50):
        found = rng.choice(_MUTATIONS)(nest, rng)
        if found is not None:
            return found
    return nest  # nothing left to damage


def _tweak(e: Affine, rng: random.Random) -> Affine:
    """An affine expression with one number changed."""
    if e.terms and rng.random() < 0.35:
        atom, coefficient = rng.choice(e.terms)
        rest = {a: c for a, c in e.terms if a != atom}
        if isinstance(atom, Datum) and atom.index and rng.random() < 0.7:
            return Affine.build({**rest, replace(atom, index=_one(atom.index, rng)): coefficient}, e.const)
        if isinstance(atom, Quasi) and atom.by > 2 and rng.random() < 0.7:
            by = atom.by + rng.choice((-1, 1))
            return Affine.build({**rest, Quasi(atom.kind, atom.argument, by): coefficient}, e.const)
        return Affine.build({**rest, atom: coefficient + rng.choice((-1, 1))}, e.const)
    return e + rng.choice((-1, 1))


def _one(xs: tuple[Affine, ...], rng: random.Random) -> tuple[Affine, ...]:
    i = rng.randrange(len(xs))
    return (*xs[:i], _tweak(xs[i], rng), *xs[i + 1 :])


def _replace(s: Stmt, position: int, f: Callable[[Stmt], Stmt]) -> Stmt:
    """Replace the statement at a position of the walk (equal nodes at other places stay)."""
    counter = [-1]

    def go(x: Stmt) -> Stmt:
        counter[0] += 1
        if counter[0] == position:
            return f(x)
        return with_children(x, tuple([go(c) for c in children(x)]))

    return go(s)


def _some(nest: LoopNest, rng: random.Random, kind: type | tuple[type, ...], f: Callable[[Stmt], Stmt | None]):
    places = [(n, x) for n, (x, _) in enumerate(walk(nest.body)) if isinstance(x, kind)]
    if not places:
        return None
    position, chosen = rng.choice(places)
    new = f(chosen)
    return None if new is None else replace(nest, body=_replace(nest.body, position, lambda _: new))


def _bound(nest: LoopNest, rng: random.Random) -> LoopNest | None:
    def change(x: For) -> Stmt:
        which = rng.choice(("lo", "hi", "hi", "step", "drop"))
        if which == "lo":
            return replace(x, lo=_one(x.lo, rng))
        if which == "hi":
            return replace(x, hi=_one(x.hi, rng))
        if which == "step":
            return replace(x, step=max(1, x.step + rng.choice((-1, 1))))
        if len(x.hi) < 2:
            return replace(x, hi=_one(x.hi, rng))
        drop = rng.randrange(len(x.hi))
        return replace(x, hi=x.hi[:drop] + x.hi[drop + 1 :])

    return _some(nest, rng, For, change)  # type: ignore[arg-type]


def _kind(nest: LoopNest, rng: random.Random) -> LoopNest | None:
    return _some(nest, rng, For, lambda x: replace(x, kind=rng.choice(("parallel", "vector", "vector", "serial"))))


def _guard(nest: LoopNest, rng: random.Random) -> LoopNest | None:
    def change(x: If) -> Stmt:
        if rng.random() < 0.2:
            return x.then
        if x.otherwise is not None and rng.random() < 0.3:
            return If(x.conditions, x.otherwise, x.then)
        return replace(x, conditions=_one(x.conditions, rng))

    return _some(nest, rng, If, change)  # type: ignore[arg-type]


def _store(nest: LoopNest, rng: random.Random) -> LoopNest | None:
    def change(x: Store) -> Stmt | None:
        i = x.instance
        which = rng.choice(("cell", "cell", "index", "points", "over", "op", "delete", "kind", "both"))
        if which == "cell" and x.index:
            return replace(x, index=_one(x.index, rng))
        if which == "index" and i.index:
            return replace(x, instance=replace(i, index=_one(i.index, rng)))
        if which == "points" and i.points:
            return replace(x, instance=replace(i, points=_one(i.points, rng)))
        if which == "over" and i.over:
            v, lo, hi = i.over[0]
            over = (v, _tweak(lo, rng), hi) if rng.random() < 0.5 else (v, lo, _tweak(hi, rng))
            return replace(x, instance=replace(i, over=(over, *i.over[1:])))
        if which == "op" and rng.random() < 0.3:
            return replace(x, op="" if x.op else "add")
        if which == "delete":
            return Seq(())
        if which == "kind" and rng.random() < 0.3:
            return replace(x, instance=replace(i, kind=rng.choice(("copy", "init", "compute"))))
        if which == "both" and i.index and x.index:  # the wrong element in the right place, consistently
            d = rng.randrange(min(len(i.index), len(x.index)))
            index = (*i.index[:d], i.index[d] + 1, *i.index[d + 1 :])
            cell = (*x.index[:d], x.index[d] + 1, *x.index[d + 1 :])
            return replace(x, index=cell, instance=replace(i, index=index))
        return None

    return _some(nest, rng, Store, change)  # type: ignore[arg-type]


def _value(nest: LoopNest, rng: random.Random) -> LoopNest | None:
    def change(x: Store) -> Stmt | None:
        nodes = list(expr.walk(x.value))
        chosen = rng.choice(nodes)

        def f(e: Expr) -> Expr | None:
            if e is not chosen:
                return None
            if isinstance(e, Read) and e.index:
                return replace(e, index=_one(e.index, rng))
            if isinstance(e, Index):
                return Index(_tweak(e.affine, rng))
            if isinstance(e, Const):
                return Const(type(e.value)(e.value + 1), e.dtype)
            if isinstance(e, Op) and len(e.args) > 1 and e.args[-1].dtype == e.args[-2].dtype:
                return replace(e, args=(*e.args[:-2], e.args[-1], e.args[-2]))
            return None

        # nodes are rebuilt bottom-up, so only a leaf or an untouched node is found by identity
        value = expr.transform(x.value, f)
        return None if value is x.value else replace(x, value=value)

    return _some(nest, rng, Store, change)  # type: ignore[arg-type]


def _order(nest: LoopNest, rng: random.Random) -> LoopNest | None:
    def change(x: Seq) -> Stmt | None:
        if len(x.items) < 2:
            return None
        i = rng.randrange(len(x.items) - 1)
        return Seq((*x.items[:i], x.items[i + 1], x.items[i], *x.items[i + 2 :]))

    return _some(nest, rng, Seq, change)  # type: ignore[arg-type]


def _repeat(nest: LoopNest, rng: random.Random) -> LoopNest | None:
    return _some(nest, rng, (Store, For, If), lambda x: seq(x, x))


def _delete(nest: LoopNest, rng: random.Random) -> LoopNest | None:
    return _some(nest, rng, (For, If), lambda x: Seq(()))


def _hoist(nest: LoopNest, rng: random.Random) -> LoopNest | None:
    """Move one allocation to the outside: shared where it was private."""
    places = [(n, x) for n, (x, _) in enumerate(walk(nest.body)) if isinstance(x, Alloc)]
    if not places:
        return None
    position, chosen = rng.choice(places)
    assert isinstance(chosen, Alloc)
    body = _replace(nest.body, position, lambda _: chosen.body)
    return replace(nest, body=Alloc(chosen.buffer, body))


def _fold(nest: LoopNest, rng: random.Random) -> LoopNest | None:
    """Fold a buffer otherwise, everywhere."""
    places = [x for x, _ in walk(nest.body) if isinstance(x, Alloc) and x.buffer.shape and not x.buffer.banks]
    if not places:
        return None
    old: Buffer = rng.choice(places).buffer
    d = rng.randrange(len(old.shape))
    folds = list(old.fold + (0,) * (len(old.shape) - len(old.fold)))
    folds[d] = max(1, (folds[d] or old.shape[d]) + rng.choice((-1, -1, 1)))
    new = replace(old, fold=tuple(folds))

    def relink(e: Expr) -> Expr | None:
        return replace(e, source=new) if isinstance(e, Read) and e.source is old else None

    def go(x: Stmt) -> Stmt:
        if isinstance(x, Store):
            value = expr.transform(x.value, relink)
            return replace(x, value=value, buffer=new if x.buffer is old else x.buffer)
        y = with_children(x, tuple([go(c) for c in children(x)]))
        return replace(y, buffer=new) if isinstance(y, (Alloc, Prefetch)) and y.buffer is old else y

    return replace(nest, body=go(nest.body))


_MUTATIONS = (_bound, _bound, _kind, _guard, _store, _store, _store, _value, _order, _repeat, _delete, _hoist, _fold)
