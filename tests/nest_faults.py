"""Faults that a compiler of loop nests makes, injected one at a time: a name and every place it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    If,
    Kind,
    LoopNest,
    Prefetch,
    Seq,
    Stmt,
    Store,
    children,
    seq,
    substitute,
    walk,
    with_children,
)

from tensordsl import expr
from tensordsl.affine import Affine, Quasi
from tensordsl.expr import Const, Expr, Op, Read

Body = Iterator[Stmt]
#: Injectors: the damaged bodies of a nest.
FAULTS: dict[str, Callable[[LoopNest], Body]] = {}


def fault(name: str) -> Callable[[Callable[[LoopNest], Body]], Callable[[LoopNest], Body]]:
    def register(fn: Callable[[LoopNest], Body]) -> Callable[[LoopNest], Body]:
        FAULTS[name] = fn
        return fn

    return register


def faulty(nest: LoopNest, name: str) -> Iterator[LoopNest]:
    """The nest with one fault of a kind, at each place."""
    for body in FAULTS[name](nest):
        yield replace(nest, body=body)


def at_each(nest: LoopNest, kind: type, change: Callable[[Stmt], Iterator[Stmt]]) -> Body:
    """The body with one statement of a type changed, for each such statement and change."""
    for position, (found, _) in enumerate(walk(nest.body)):
        if isinstance(found, kind):
            for new in change(found):
                yield _put(nest.body, position, new)


def _put(body: Stmt, position: int, new: Stmt) -> Stmt:
    counter = -1

    def go(x: Stmt) -> Stmt:
        nonlocal counter
        counter += 1
        if counter == position:
            counter += sum(1 for _ in walk(x)) - 1
            return new
        return with_children(x, tuple([go(c) for c in children(x)]))

    return go(body)


def _each(xs: tuple[Affine, ...], by: int) -> Iterator[tuple[Affine, ...]]:
    for d in range(len(xs)):
        yield (*xs[:d], xs[d] + by, *xs[d + 1 :])


def loops(change: Callable[[For], Iterator[Stmt]]) -> Callable[[LoopNest], Body]:
    return lambda nest: at_each(nest, For, change)  # type: ignore[arg-type]


def stores(change: Callable[[Store], Iterator[Stmt]]) -> Callable[[LoopNest], Body]:
    return lambda nest: at_each(nest, Store, change)  # type: ignore[arg-type]


def guards(change: Callable[[If], Iterator[Stmt]]) -> Callable[[LoopNest], Body]:
    return lambda nest: at_each(nest, If, change)  # type: ignore[arg-type]


def values(change: Callable[[Expr], Iterator[Expr]]) -> Callable[[LoopNest], Body]:
    """One node of one stored expression changed."""

    def store(s: Store) -> Iterator[Stmt]:
        for node in expr.walk(s.value):
            for new in change(node):
                yield replace(s, value=_swap(s.value, node, new))

    return stores(store)


def _swap(e: Expr, old: Expr, new: Expr) -> Expr:
    if e is old:
        return new
    if isinstance(e, Op):
        return replace(e, args=tuple(_swap(a, old, new) for a in e.args))
    return e


# ---------------------------------------------------------------- loops and guards

FAULTS["bound one short"] = loops(lambda f: iter([replace(f, hi=tuple(h - 1 for h in f.hi))]))
FAULTS["bound one long"] = loops(lambda f: iter([replace(f, hi=tuple(h + 1 for h in f.hi))]))
FAULTS["starts one late"] = loops(lambda f: iter([replace(f, lo=tuple(b + 1 for b in f.lo))]))
FAULTS["starts one early"] = loops(lambda f: iter([replace(f, lo=tuple(b - 1 for b in f.lo))]))
FAULTS["dropped clip"] = loops(
    lambda f: (replace(f, hi=f.hi[:d] + f.hi[d + 1 :]) for d in range(len(f.hi)) if len(f.hi) > 1)
)
FAULTS["step two"] = loops(lambda f: iter([replace(f, step=f.step * 2)]))
FAULTS["lost loop"] = loops(lambda f: iter([Seq(())]))
FAULTS["dropped guard"] = guards(lambda s: iter([s.then]))
FAULTS["guard off by one"] = guards(
    lambda s: (replace(s, conditions=c) for by in (-1, 1) for c in _each(s.conditions, by))
)
FAULTS["swapped branches"] = guards(lambda s: iter([If(s.conditions, s.otherwise or Seq(()), s.then)]))


def _kinds(kind: Kind) -> Callable[[LoopNest], Body]:
    return loops(lambda f: iter([replace(f, kind=kind)] if f.kind != kind else []))


FAULTS["parallel"] = _kinds("parallel")
FAULTS["vector"] = _kinds("vector")


def _scaled(by: int) -> Callable[[LoopNest], Body]:
    """A tile's stride changed wherever its loop variable occurs: tiles overlap or leave gaps."""

    def change(f: For) -> Iterator[Stmt]:
        def affine(a: Affine) -> Affine:
            terms: dict[str | Quasi, int] = {}
            for atom, c in a.terms:
                inner = atom if isinstance(atom, str) else replace(atom, argument=affine(atom.argument))
                terms[inner] = c + by if atom == f.var and c > 1 else c
            return Affine.build(terms, a.const)

        changed = _map_affine(f.body, affine)
        if changed is not None:
            yield replace(f, body=changed)

    return loops(change)


def _map_affine(s: Stmt, f: Callable[[Affine], Affine]) -> Stmt | None:
    """The statement with every index, bound, guard and instance changed; None where nothing does."""
    hit = False

    def each(xs: tuple[Affine, ...]) -> tuple[Affine, ...]:
        nonlocal hit
        new = tuple(f(x) for x in xs)
        hit = hit or new != xs
        return new

    def value(e: Expr) -> Expr | None:
        if isinstance(e, Read):
            return replace(e, index=each(e.index))
        if isinstance(e, expr.Index):
            return replace(e, affine=each((e.affine,))[0])
        return None

    def go(x: Stmt) -> Stmt:
        if isinstance(x, For):
            return replace(x, lo=each(x.lo), hi=each(x.hi), body=go(x.body))
        if isinstance(x, If):
            return If(each(x.conditions), go(x.then), None if x.otherwise is None else go(x.otherwise))
        if isinstance(x, Store):
            instance = replace(
                x.instance,
                index=each(x.instance.index),
                points=each(x.instance.points),
                over=tuple((v, *each((lo, hi))) for v, lo, hi in x.instance.over),  # type: ignore[misc]
            )
            return replace(x, index=each(x.index), value=expr.transform(x.value, value), instance=instance)
        return with_children(x, tuple([go(c) for c in children(x)]))

    result = go(s)
    return result if hit else None


FAULTS["overlapping tiles"] = _scaled(-1)
FAULTS["gap between tiles"] = _scaled(1)


# ---------------------------------------------------------------- order


@fault("swapped statements")
def _swapped(nest: LoopNest) -> Body:
    """An epilogue before what it reads, a copy after its use."""

    def change(s: Stmt) -> Iterator[Stmt]:
        assert isinstance(s, Seq)
        for k in range(len(s.items) - 1):
            yield Seq((*s.items[:k], s.items[k + 1], s.items[k], *s.items[k + 2 :]))

    return at_each(nest, Seq, change)


@fault("swapped loops")
def _swapped_loops(nest: LoopNest) -> Body:
    def change(f: Stmt) -> Iterator[Stmt]:
        assert isinstance(f, For)
        inner = f.body
        if isinstance(inner, For) and not any(f.var in a.names() for a in inner.lo + inner.hi):
            yield replace(inner, body=replace(f, body=inner.body))

    return at_each(nest, For, change)


FAULTS["lost statement"] = stores(lambda s: iter([Seq(())]))
FAULTS["repeated statement"] = stores(lambda s: iter([seq(s, s)]))


@fault("hoisted out of its loop")
def _hoisted(nest: LoopNest) -> Body:
    """A statement runs before a loop, in its first iteration only."""

    def change(f: Stmt) -> Iterator[Stmt]:
        assert isinstance(f, For)
        allocs: list[Alloc] = []
        inner = f.body
        while isinstance(inner, Alloc):
            allocs.append(inner)
            inner = inner.body
        for k, item in enumerate(inner.items if isinstance(inner, Seq) else ()):
            if f.var not in _names(item):
                assert isinstance(inner, Seq)
                first = substitute(item, {f.var: f.lo[0]})  # what it says it computes
                new: Stmt = seq(first, replace(f, body=seq(*inner.items[:k], *inner.items[k + 1 :])))
                for alloc in reversed(allocs):
                    new = replace(alloc, body=new)
                yield new

    return at_each(nest, For, change)


def _names(s: Stmt) -> set[str]:
    """Every variable that decides what a statement does."""
    found: set[str] = set()
    for x, _ in walk(s):
        used: list[Affine] = []
        if isinstance(x, For):
            used += x.lo + x.hi
        elif isinstance(x, If):
            used += x.conditions
        elif isinstance(x, Store):
            used += [*x.index, *(i for r in expr.reads(x.value) for i in r.index)]
            used += [e.affine for e in expr.walk(x.value) if isinstance(e, expr.Index)]
        found.update(n for a in used for n in a.names())
    return found


# ---------------------------------------------------------------- storage

FAULTS["wrong cell written"] = stores(lambda s: (replace(s, index=i) for by in (-1, 1) for i in _each(s.index, by)))
FAULTS["wrong cell read"] = values(
    lambda e: (replace(e, index=i) for by in (-1, 1) for i in _each(e.index, by)) if isinstance(e, Read) else iter([])
)
FAULTS["swapped indices"] = values(
    lambda e: iter([replace(e, index=e.index[::-1])] if isinstance(e, Read) and len(e.index) > 1 else [])
)
FAULTS["stays in the old cell"] = stores(
    lambda s: (replace(s, index=(*s.index[:d], Affine(), *s.index[d + 1 :])) for d, i in enumerate(s.index) if i.terms)
)


@fault("wrong fold")
def _folds(nest: LoopNest) -> Body:
    for alloc, _ in walk(nest.body):
        if isinstance(alloc, Alloc) and not alloc.buffer.banks:
            b = alloc.buffer
            folds = b.fold + (0,) * (len(b.shape) - len(b.fold))
            for d, (f, n) in enumerate(zip(folds, b.shape)):
                if (f or n) > 1:
                    yield relinked(nest.body, b, replace(b, fold=(*folds[:d], (f or n) - 1, *folds[d + 1 :])))


@fault("buffer too small")
def _small(nest: LoopNest) -> Body:
    for alloc, _ in walk(nest.body):
        if isinstance(alloc, Alloc) and not alloc.buffer.banks:
            b = alloc.buffer
            for d, n in enumerate(b.shape):
                if n > 1:
                    yield relinked(nest.body, b, replace(b, shape=(*b.shape[:d], n - 1, *b.shape[d + 1 :])))


def relinked(body: Stmt, old: Buffer, new: Buffer) -> Stmt:
    """Every use of a buffer as a use of another one."""

    def value(e: Expr) -> Expr | None:
        return replace(e, source=new) if isinstance(e, Read) and e.source is old else None

    def go(x: Stmt) -> Stmt:
        if isinstance(x, Store):
            return replace(x, value=expr.transform(x.value, value), buffer=new if x.buffer is old else x.buffer)
        y = with_children(x, tuple([go(c) for c in children(x)]))
        return replace(y, buffer=new) if isinstance(y, (Alloc, Prefetch)) and y.buffer is old else y

    return go(body)


@fault("shared across iterations")
def _shared(nest: LoopNest) -> Body:
    """A private buffer allocated outside of the loop around it."""

    def change(f: Stmt) -> Iterator[Stmt]:
        assert isinstance(f, For)
        if isinstance(f.body, Alloc):
            yield replace(f.body, body=replace(f, body=f.body.body))

    return at_each(nest, For, change)


@fault("wrong buffer")
def _wrong_buffer(nest: LoopNest) -> Body:
    """A read of another buffer of the same rank and type that is in scope."""
    for position, (s, path) in enumerate(walk(nest.body)):
        if not isinstance(s, Store):
            continue
        scope = [*nest.parameters, *(a.buffer for a in path if isinstance(a, Alloc))]
        for e in expr.reads(s.value):
            for b in scope:
                if b is not e.source and len(b.shape) == len(e.index) and b.dtype == e.dtype:
                    yield _put(nest.body, position, replace(s, value=_swap(s.value, e, replace(e, source=b))))


# ---------------------------------------------------------------- arithmetic

_OTHER = {
    "add": "sub",
    "sub": "add",
    "mul": "add",
    "max": "min",
    "min": "max",
    "lt": "le",
    "ge": "gt",
    "gt": "ge",
    "le": "lt",
}

FAULTS["wrong operation"] = values(
    lambda e: iter([replace(e, name=_OTHER[e.name])] if isinstance(e, Op) and e.name in _OTHER else [])
)
FAULTS["swapped operands"] = values(
    lambda e: iter([replace(e, args=e.args[::-1])] if isinstance(e, Op) and e.name in ("sub", "div") else [])
)
FAULTS["wrong constant"] = values(
    lambda e: iter([Const(e.value + 1, e.dtype)] if isinstance(e, Const) and e.dtype.kind != "b" else [])
)
FAULTS["wrong combination"] = stores(lambda s: (replace(s, op=op) for op in ("", "add", "max") if s.op and op != s.op))
FAULTS["missing init"] = stores(lambda s: iter([Seq(())] if s.instance.kind == "init" else []))
FAULTS["accumulates instead of storing"] = stores(lambda s: iter([replace(s, op="add")] if not s.op else []))

# ---------------------------------------------------------------- meaning

FAULTS["mis-stated element"] = stores(
    lambda s: (replace(s, instance=replace(s.instance, index=i)) for i in _each(s.instance.index, 1))
)
FAULTS["mis-stated point"] = stores(
    lambda s: (replace(s, instance=replace(s.instance, points=i)) for i in _each(s.instance.points, 1))
)
