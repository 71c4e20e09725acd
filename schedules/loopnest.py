"""The one loop IR: what is validated, interpreted, measured and printed as C or CUDA.

A nest is sequential; its meaning is that of the plain loops.  `For.kind` (unroll, vector,
parallel, block, thread) only says how a printer expands a loop.  Each `Store` says which logical
elements of the program it computes (`Instance`), so that the nest can be proven by value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tensordsl import accesses, expr
from tensordsl.affine import Affine, AffineLike, Datum, affines
from tensordsl.combination import Combination, Combine
from tensordsl.dtypes import DType
from tensordsl.expr import Expr, Read
from tensordsl.program import Program

#: Where a buffer lives.  external: the caller's memory; workspace: scratch given by the caller;
#: stack: a local array; register: named scalars or vectors; shared: CUDA shared memory.
Scope = Literal["external", "workspace", "stack", "register", "shared"]
Kind = Literal["serial", "unroll", "vector", "parallel", "block", "thread"]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Physical storage; names are unique along a path of allocations.

    pitch: padded extent of the last dimension (0: none).
    fold: per dimension, the modulus its index is taken by (0: none), () for no fold at all.
    banks: buffer names, one per value of folded dimension 0, in place of one memory block.
    values: what integer elements are known to lie in, both ends included.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    scope: Scope = "external"
    pitch: int = 0
    fold: tuple[int, ...] = ()
    banks: tuple[str, ...] = ()
    values: tuple[int, int] | None = None

    def extents(self) -> tuple[int, ...]:
        """The physical extents, folds applied, pitch not."""
        folds = self.fold + (0,) * (len(self.shape) - len(self.fold))
        return tuple(f or e for e, f in zip(self.shape, folds))

    def strides(self) -> tuple[int, ...]:
        """Elements between neighbours per dimension (a banked dimension 0 has stride 0)."""
        ext = list(self.extents())
        if self.banks:
            ext[0] = 1
        if ext:
            ext[-1] = self.pitch if self.pitch != 0 else ext[-1]
        result, step = [], 1
        for e in reversed(ext):
            result.append(step)
            step *= e
        result.reverse()
        if self.banks:
            result[0] = 0
        return tuple(result)

    def size(self) -> int:
        """Elements of memory of one bank."""
        ext = self.extents()
        if not ext:
            return 1
        return self.strides()[0] * ext[0] if not self.banks else (self.strides()[1] * ext[1] if len(ext) > 1 else 1)

    def at(self, *index: AffineLike) -> Read:
        return Read(self, affines(index))

    def fault(self, banks: Sequence[Buffer | None] = ()) -> str | None:
        """Why cells would share memory or have none, or None.  banks: the buffers of that name, where known."""
        if len(self.fold) > len(self.shape) or any(f < 0 for f in self.fold) or any(e < 0 for e in self.shape):
            return f"{self} has a fold or an extent that is no size of a dimension"
        if self.pitch != 0 and (not self.shape or self.pitch < self.extents()[-1]):
            return f"the pitch {self.pitch} of {self.name} is less than the elements of a row"
        if not self.banks:
            return None
        if not self.fold or self.fold[0] != len(self.banks) or len(set(self.banks)) != len(self.banks):
            return f"dimension 0 of {self} must be folded by the number of its banks, {len(self.banks)}"
        for name, bank in zip(self.banks, banks):
            if bank is None:
                return f"bank {name!r} of {self.name} is no buffer around it"
            layout = bank.extents(), bank.strides(), bank.dtype
            if layout != (self.extents()[1:], self.strides()[1:], self.dtype) or bank.banks or bank.scope == "register":
                return f"bank {bank} does not have the layout of a slice of {self}"
        return None

    def __str__(self) -> str:
        notes: list[str] = [self.scope]
        if self.pitch != 0:
            notes.append(f"pitch {self.pitch}")
        if any(self.fold):
            notes.append(f"fold {', '.join(map(str, self.fold))}")
        if self.banks:
            notes.append(f"banks {', '.join(self.banks)}")
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}] {' '.join(notes)}"


@dataclass(frozen=True, slots=True)
class Instance:
    """The logical meaning of a store: which element of which tensor the cell holds afterwards.

    compute: the complete element by its (pointwise) definition.
    init: an accumulator with no points yet.
    update: combine the points ``points`` (one value per reduction axis) into an accumulator.
    copy: a complete element moved from another cell.
    partial: an accumulator moved from another cell while it holds exactly the ``points`` given,
        which range over ``over`` = (variable, lo, hi) triples.
    merge: such an accumulator combined into another one.
    """

    kind: Literal["compute", "init", "update", "copy", "partial", "merge"]
    tensor: str
    index: tuple[Affine, ...]
    points: tuple[Affine, ...] = ()
    over: tuple[tuple[str, Affine, Affine], ...] = ()

    def substitute(self, env: Mapping[str, Affine]) -> Instance:
        return Instance(
            self.kind,
            self.tensor,
            tuple(i.substitute(env) for i in self.index),
            tuple(p.substitute(env) for p in self.points),
            tuple((v, lo.substitute(env), hi.substitute(env)) for v, lo, hi in self.over),
        )

    def __str__(self) -> str:
        points = f" at ({', '.join(map(str, self.points))})" if self.points else ""
        over = "".join(f", {lo} <= {v} < {hi}" for v, lo, hi in self.over)
        return f"{self.kind} {self.tensor}[{', '.join(map(str, self.index))}]{points}{over}"


#: Placeholders for the cell of a buffer in `Alloc.element`.
CELL = tuple(f"@{d}" for d in range(16))


class Stmt:
    """Base of the statements."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class For(Stmt):
    """``for var in range(max(lo), min(hi), step)``; names are unique along a path."""

    var: str
    lo: tuple[Affine, ...]
    hi: tuple[Affine, ...]
    body: Stmt
    kind: Kind = "serial"
    step: int = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class If(Stmt):
    """``if`` every condition is ``>= 0``.  On a vector lane it becomes a mask."""

    conditions: tuple[Affine, ...]
    then: Stmt
    otherwise: Stmt | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Store(Stmt):
    """``buffer[index] = value`` or, with an operation (add mul max min) or a combination of states,
    ``buffer[index] op= value``.

    nt: the store bypasses the caches (a promise about use, no change of meaning).
    """

    buffer: Buffer
    index: tuple[Affine, ...]
    value: Expr
    instance: Instance
    op: Combine = ""
    nt: bool = False

    @property
    def plain(self) -> Store:
        """The same store with the combination of states, if there is one, written out in the value."""
        if not isinstance(self.op, Combination):
            return self
        return replace(self, op="", value=self.op.of(Read(self.buffer, self.index), self.value))


@dataclass(frozen=True, slots=True, eq=False)
class Alloc(Stmt):
    """A buffer that lives for the duration of the body; its contents start undefined.

    tensor, element: what the buffer is for: its cell (`CELL[0]`, `CELL[1]`, ...) is meant to hold
    ``tensor[element]``, affine in the cell and the loops around.  A guide for primitives; the
    validator derives the truth from the stores.
    """

    buffer: Buffer
    body: Stmt
    tensor: str = ""
    element: tuple[Affine, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Seq(Stmt):
    items: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Prefetch(Stmt):
    """A hint without meaning; its index may lie outside the buffer."""

    buffer: Buffer
    index: tuple[Affine, ...]
    locality: int = 3


@dataclass(frozen=True, slots=True, eq=False)
class Outline(Stmt):
    """The body as a function of its own: no meaning, but shared text and bounded compile time."""

    name: str
    body: Stmt


@dataclass(frozen=True, slots=True, eq=False)
class Sync(Stmt):
    """A CUDA synchronisation: no sequential meaning.  kind: barrier, commit or wait."""

    kind: Literal["barrier", "commit", "wait"]
    count: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LoopNest:
    """A complete kernel: the caller's buffers in calling order, and the loops.

    program: the definitions the stores refer to.  Workspace buffers are allocated in the body.
    """

    program: Program
    parameters: tuple[Buffer, ...]
    body: Stmt

    @property
    def name(self) -> str:
        return self.program.name

    def __str__(self) -> str:
        from tensordsl.schedules.nest_text import nest_text

        return nest_text(self)


# ---------------------------------------------------------------- builders


def seq(*parts: Stmt | None) -> Stmt:
    """Statements in order, flattened; one statement stays itself."""
    items: list[Stmt] = []
    for p in parts:
        if isinstance(p, Seq):
            items += p.items
        elif p is not None:
            items.append(p)
    return items[0] if len(items) == 1 else Seq(tuple(items))


def loop(
    var: str, lo: AffineLike | tuple[AffineLike, ...], hi: AffineLike | tuple[AffineLike, ...],
    *body: Stmt | None, kind: Kind = "serial", step: int = 1,
) -> For:  # fmt: skip
    lows = affines(lo if isinstance(lo, tuple) else (lo,))
    highs = affines(hi if isinstance(hi, tuple) else (hi,))
    return For(var, lows, highs, seq(*body), kind, step)


def items(s: Stmt) -> tuple[Stmt, ...]:
    return s.items if isinstance(s, Seq) else (s,)


# ---------------------------------------------------------------- traversal


def children(s: Stmt) -> tuple[Stmt, ...]:
    if isinstance(s, (For, Alloc, Outline)):
        return (s.body,)
    if isinstance(s, If):
        return (s.then,) if s.otherwise is None else (s.then, s.otherwise)
    if isinstance(s, Seq):
        return s.items
    return ()


def with_children(s: Stmt, new: tuple[Stmt, ...]) -> Stmt:
    if all(a is b for a, b in zip(children(s), new)):
        return s
    if isinstance(s, (For, Alloc, Outline)):
        return replace(s, body=new[0])
    if isinstance(s, If):
        return replace(s, then=new[0], otherwise=new[1] if len(new) > 1 else None)
    if isinstance(s, Seq):
        return seq(*new)
    return s


def walk(s: Stmt, path: tuple[Stmt, ...] = ()) -> Iterator[tuple[Stmt, tuple[Stmt, ...]]]:
    """Every statement in execution order with the statements around it, outermost first."""
    yield s, path
    for child in children(s):
        yield from walk(child, (*path, s))


def stores(s: Stmt) -> Iterator[tuple[Store, tuple[Stmt, ...]]]:
    for x, path in walk(s):
        if isinstance(x, Store):
            yield x, path


def rewrite(s: Stmt, f: Callable[[Stmt], Stmt | None]) -> Stmt:
    """Rebuild bottom-up; ``f`` may replace a statement (None: keep)."""
    t = with_children(s, tuple([rewrite(c, f) for c in children(s)]))
    new = f(t)
    return t if new is None else new


def map_values(s: Stmt, f: Callable[[Expr], Expr | None]) -> Stmt:
    """Rebuild every stored expression bottom-up (see `expr.transform`)."""

    def store(x: Stmt) -> Stmt | None:
        if isinstance(x, Store):
            value = expr.transform(x.value, f)
            return x if value is x.value else replace(x, value=value)
        return None

    return rewrite(s, store)


def map_accesses(s: Stmt, f: accesses.Access, stores: bool = True) -> Stmt:
    """Rebuild with some accesses elsewhere: reads, those in indices, bounds and conditions, and (stores) what
    is stored and prefetched.  f: buffer and index -> the new ones, or None to keep them."""

    def t(indices: tuple[Affine, ...]) -> tuple[Affine, ...]:
        return accesses.map_index_accesses(indices, f)

    def go(x: Stmt) -> Stmt | None:
        new: Stmt = x
        match x:
            case For():
                lo, hi = t(x.lo), t(x.hi)
                new = x if lo is x.lo and hi is x.hi else replace(x, lo=lo, hi=hi)
            case If():
                conditions = t(x.conditions)
                new = x if conditions is x.conditions else replace(x, conditions=conditions)
            case Prefetch():
                buffer, index = place(x)
                new = x if buffer is x.buffer and index is x.index else replace(x, buffer=buffer, index=index)
            case Store():
                buffer, index = place(x)
                value = accesses.map_accesses(x.value, f)
                i = x.instance
                meaning = i.index, i.points
                moved = (t(i.index), t(i.points)) if stores else meaning
                if moved[0] is not meaning[0] or moved[1] is not meaning[1]:
                    i = replace(i, index=moved[0], points=moved[1])
                old = x.buffer, x.index, x.value, x.instance
                if any(a is not b for a, b in zip(old, (buffer, index, value, i))):
                    new = replace(x, buffer=buffer, index=index, value=value, instance=i)
        return None if new is x else new

    def place(x: Store | Prefetch) -> tuple[Buffer, tuple[Affine, ...]]:
        index = t(x.index)
        return (f(x.buffer, index) if stores else None) or (x.buffer, index)

    return rewrite(s, go)


def substitute(s: Stmt, env: Mapping[str, Affine]) -> Stmt:
    """Replace loop variables everywhere (bounds, guards, indices, instances)."""
    if not env:
        return s
    memo: dict[int, Expr] = {}

    def t(xs: tuple[Affine, ...]) -> tuple[Affine, ...]:
        return tuple([x.substitute(env) for x in xs])

    def go(x: Stmt) -> Stmt:
        if isinstance(x, For):
            if x.var in env:
                return substitute(x, {k: v for k, v in env.items() if k != x.var})
            return replace(x, lo=t(x.lo), hi=t(x.hi), body=go(x.body))
        if isinstance(x, If):
            return If(t(x.conditions), go(x.then), None if x.otherwise is None else go(x.otherwise))
        if isinstance(x, Store):
            value = expr.substitute(x.value, env, memo)
            return replace(x, index=t(x.index), value=value, instance=x.instance.substitute(env))
        if isinstance(x, Prefetch):
            return replace(x, index=t(x.index))
        if isinstance(x, Alloc) and x.element:
            return replace(x, element=t(x.element), body=go(x.body))
        return with_children(x, tuple([go(c) for c in children(x)]))

    return go(s)


def variables(s: Stmt) -> set[str]:
    """The names of all loops in a statement."""
    return {x.var for x, _ in walk(s) if isinstance(x, For)}


def control_data(s: Stmt) -> Iterator[Datum]:
    """The numbers read from memory that decide which iterations run, and where they store."""
    for x, _ in walk(s):
        exprs: tuple[Affine, ...] = ()
        if isinstance(x, For):
            exprs = x.lo + x.hi
        elif isinstance(x, If):
            exprs = x.conditions
        elif isinstance(x, (Store, Prefetch)):
            exprs = x.index
        for e in exprs:
            yield from e.data()


def index_data(s: Stmt) -> Iterator[Datum]:
    """Every number read from memory to be an index, a bound or part of a condition."""
    yield from control_data(s)
    for x, _ in stores(s):
        for e in expr.walk(x.value):
            for i in e.index if isinstance(e, Read) else (e.affine,) if isinstance(e, expr.Index) else ():
                yield from i.data()


def buffers(nest: LoopNest) -> dict[str, Buffer]:
    """Every buffer of a nest by name: parameters and allocations."""
    found = {b.name: b for b in nest.parameters}
    for x, _ in walk(nest.body):
        if isinstance(x, Alloc):
            found[x.buffer.name] = x.buffer
    return found
