"""Types a processor does not compute with, in terms of those it does: a nest rewritten before it is printed.

A float16 or bfloat16 element is an unsigned integer of its bits in memory and a float32 in registers:

- a read of memory widens: ``x[i]`` -> ``widen_float16(bits[i])``, a float32, exactly;
- arithmetic in the type is arithmetic in float32, without a rounding of its own;
- a store to memory narrows, to the nearest number, ties to even: ``bits[i] = narrow_float16(value)``;
- a cast to the type rounds: it narrows and widens;
- register buffers are float32 (but those through which elements only pass), and so are buffers of the kernel's own in
  which sums accumulate;
- a 4-bit integer is half a byte in the caller's memory, and has a byte of its own everywhere else;
- a complex number is a pair of real ones (see complex_parts.py);
- a loop that accumulates into one cell of memory does so in a register, and stores once.

So a kernel rounds less often than a definition says, never more often: its error bound holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count

import numpy as np
from tensordsl.codegen.complex_parts import Parts, apart, interleaved
from tensordsl.codegen.packed import bytes_index, is_packed, packed_shape, unpacked
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    If,
    Instance,
    LoopNest,
    Prefetch,
    Stmt,
    Store,
    buffers,
    children,
    rewrite,
    seq,
    stores,
    variables,
    walk,
    with_children,
)  # fmt: skip

from tensordsl import dtypes, expr
from tensordsl.affine import Affine
from tensordsl.dtypes import DType
from tensordsl.expr import Const, Expr, Op, Read

#: buffer -> the buffer in its place
Places = Mapping[Buffer, Buffer]


def represented(nest: LoopNest) -> LoopNest:
    """The same kernel in terms of what processors compute with; most nests are returned as they are."""
    return _without_narrow(_without_complex(nest))


def _without_complex(nest: LoopNest) -> LoopNest:
    known = list(buffers(nest).values())
    found = [b for b in known if b.dtype.is_complex]
    if not found and not any(e.dtype.is_complex for st, _ in stores(nest.body) for e in expr.walk(st.value)):
        return nest
    taken = {b.name for b in known} | variables(nest.body)
    shared = {name for b in known for name in (*b.banks, *([b.name] if b.banks else ()))}
    homes: dict[Buffer, Buffer | tuple[Buffer, Buffer]] = {
        b: interleaved(b) if b.scope == "external" or b.name in shared else apart(b, taken) for b in found
    }
    fresh = (name for n in count() if (name := f"part{n}") not in taken)
    parts = Parts(homes, lambda: next(fresh), shared)
    body = rewrite(_factors_in_order(nest.body), parts.statement)
    parameters = [homes.get(b, b) for b in nest.parameters]
    return LoopNest(nest.program, tuple([b for b in parameters if isinstance(b, Buffer)]), body)


def _factors_in_order(s: Stmt) -> Stmt:
    """Vector loops whose lanes would multiply into one complex cell run one after the other."""

    def serial(x: Stmt) -> Stmt | None:
        if not isinstance(x, For) or x.kind != "vector":
            return None
        shared = [st for st, _ in stores(x.body) if st.op == "mul" and st.buffer.dtype.is_complex]
        return replace(x, kind="serial") if any(x.var not in _names(st.index) for st in shared) else None

    return rewrite(s, serial)


def _without_narrow(nest: LoopNest) -> LoopNest:
    known = list(buffers(nest).values())
    narrow = {b for b in known if is_narrow(b.dtype)}
    if not narrow and not any(is_narrow(e.dtype) for st, _ in stores(nest.body) for e in expr.walk(st.value)):
        return nest
    accumulated = {st.buffer for st, _ in stores(nest.body) if st.op}
    shared = {name for b in known for name in (*b.banks, *([b.name] if b.banks else ()))}
    moved = _only_moved(nest.body, {b for b in narrow if b.scope == "register"})
    places = {b: _place(b, b in accumulated and b.name not in shared, b in moved) for b in narrow}
    taken = {b.name for b in known} | variables(nest.body)
    fresh = (name for n in count() if (name := f"acc{n}") not in taken)
    body = _in_registers(nest.body, places, fresh)
    places.update({b: _place(b, True) for b in _allocated(body) if is_narrow(b.dtype) and b not in places})
    memo: dict[int, Expr] = {}
    body = rewrite(body, lambda s: _statement(s, places, memo))
    return LoopNest(nest.program, tuple(places.get(b, b) for b in nest.parameters), body)


def is_narrow(t: DType) -> bool:
    return t.computed is not t


def bits_of(t: DType) -> DType:
    """The integer that holds a narrow float in memory."""
    return dtypes.ALL[f"uint{t.bits}"]


def _place(b: Buffer, accumulates: bool, moved: bool = False) -> Buffer:
    if is_packed(b.dtype):
        outside = b.scope == "external"
        return (
            replace(b, dtype=dtypes.uint8, shape=packed_shape(b.shape))
            if outside
            else replace(b, dtype=b.dtype.computed)
        )
    inside = not moved and (b.scope == "register" or (accumulates and b.scope != "external"))
    return replace(b, dtype=b.dtype.computed if inside else bits_of(b.dtype))


def _only_moved(s: Stmt, registers: set[Buffer]) -> set[Buffer]:
    """The registers through which elements only pass, from memory to memory: they keep the bits."""
    moves: list[tuple[Buffer, Buffer]] = []
    other: set[object] = set()
    for st, _ in stores(s):
        if not st.op and isinstance(st.value, Read) and st.value.source.dtype == st.buffer.dtype:
            moves.append((st.value.source, st.buffer))  # type: ignore[arg-type]
        else:
            other.update([st.buffer, *(r.source for r in expr.reads(st.value))])
    found = registers - other
    while True:
        left = {b for a, b in moves if b in found and a in registers and a not in found}
        left |= {a for a, b in moves if a in found and b in registers and b not in found}
        if not left:
            return found
        found -= left


def _allocated(s: Stmt) -> list[Buffer]:
    return [x.buffer for x, _ in walk(s) if isinstance(x, Alloc)]


# ---------------------------------------------------------------- accumulators


def _in_registers(s: Stmt, places: Places, fresh: object) -> Stmt:
    """Loops that accumulate into one narrow cell of memory, with a register in its place."""
    if isinstance(s, For):
        target = _single_cell(s, places)
        if target is not None:
            return _hoisted(s, target, next(fresh))  # type: ignore[call-overload]
        if s.kind == "vector" and any(_shared_cell(st, s.var, places) for st, _ in stores(s.body)):
            s = replace(s, kind="serial")  # lanes would round into one cell, one after the other
    return with_children(s, tuple([_in_registers(c, places, fresh) for c in children(s)]))


def _shared_cell(st: Store, var: str, places: Places) -> bool:
    """Does a store accumulate into a narrow cell that all iterations of a loop share?"""
    place = places.get(st.buffer)
    return bool(st.op) and place is not None and not place.dtype.is_float and var not in _names(st.index)


def _names(index: tuple[Affine, ...]) -> frozenset[str]:
    return frozenset[str]().union(*(i.names() for i in index))


def _single_cell(s: For, places: Places) -> Store | None:
    """The only store of a loop, where it always runs and accumulates into a cell that no loop inside changes."""
    found = list(stores(s.body))
    inside = [x for x, _ in walk(s)]
    loops = [x for x in inside if isinstance(x, For)]
    plain = all(x.kind in ("serial", "unroll", "vector") and _runs(x) for x in loops)
    if len(found) != 1 or not plain or any(isinstance(x, (If, Alloc)) for x in inside):
        return None
    st = found[0][0]
    free = all(_shared_cell(st, x.var, places) for x in loops)
    return st if free and all(r.source is not st.buffer for r in expr.reads(st.value)) else None


def _runs(x: For) -> bool:
    """Does a loop certainly run at least once?"""
    return len(x.lo) == len(x.hi) == 1 and (x.hi[0] - x.lo[0]).is_constant and (x.hi[0] - x.lo[0]).const > 0


def _hoisted(s: For, st: Store, name: str) -> Stmt:
    acc = Buffer(name, (), st.buffer.dtype, "register")
    moved = Instance("copy", st.instance.tensor, st.instance.index)

    def within(x: Stmt) -> Stmt | None:
        return replace(st, buffer=acc, index=()) if x is st else None

    before = Store(acc, (), Read(st.buffer, st.index), moved)
    after = Store(st.buffer, st.index, Read(acc, ()), moved)
    return Alloc(acc, seq(before, rewrite(s, within), after))


# ---------------------------------------------------------------- statements and expressions


def _statement(s: Stmt, places: Places, memo: dict[int, Expr]) -> Stmt | None:
    if isinstance(s, Alloc):
        return replace(s, buffer=places.get(s.buffer, s.buffer))
    if isinstance(s, Prefetch):
        place = places.get(s.buffer, s.buffer)
        return replace(s, buffer=place, index=s.index if place.shape == s.buffer.shape else bytes_index(s.index))
    if not isinstance(s, Store):
        return None
    place = places.get(s.buffer, s.buffer)
    if place.dtype == s.buffer.dtype.computed:
        return replace(s, buffer=place, value=_value(s.value, places, memo))
    if not s.op and isinstance(s.value, Read) and s.value.source.dtype == s.buffer.dtype:
        source = places[s.value.source]  # type: ignore[index]
        if source.dtype == place.dtype:
            return replace(s, buffer=place, value=replace(s.value, source=source))
    value = _value(s.value, places, memo)
    if s.op:
        assert isinstance(s.op, str)  # states are apart already
        old = widened(Read(place, s.index), s.buffer.dtype)
        value = Op(s.op, (old, value), value.dtype)
    return replace(s, buffer=place, value=narrowed(value, s.buffer.dtype), op="")


def _value(e: Expr, places: Places, memo: dict[int, Expr]) -> Expr:
    """An expression on what the buffers now hold; where it was a narrow float it is a float32."""

    def go(x: Expr) -> Expr | None:
        if isinstance(x, Read):
            place = places.get(x.source)  # type: ignore[call-overload]
            if place is None:
                return None
            cell = replace(x, source=place)
            if is_packed(x.source.dtype) and place.scope == "external":
                return unpacked(place, x, x.source.dtype)
            return cell if place.dtype == x.source.dtype.computed else widened(cell, x.source.dtype)
        if isinstance(x, Const):
            return Const(x.value, x.dtype.computed) if is_narrow(x.dtype) else None
        if not isinstance(x, Op):
            return None
        if x.name == "cast":
            return _cast(x.args[0], x.dtype)
        return replace(x, dtype=x.dtype.computed) if is_narrow(x.dtype) else None

    return expr.transform(e, go, memo)


def _cast(value: Expr, to: DType) -> Expr:
    if not is_narrow(to):
        return expr.cast(value, to)
    wide = expr.cast(value, to.computed)
    exact = not value.dtype.is_float and value.dtype.bits <= 8 and to.digits >= 8
    return wide if exact else widened(narrowed(wide, to), to)


def widened(bits: Expr, t: DType) -> Expr:
    if isinstance(bits, Const):
        number = np.array(bits.value, bits.dtype.numpy).view(t.numpy)
        return Const(float(number), t.computed)
    return Op(f"widen_{t}", (bits,), t.computed)


def narrowed(value: Expr, t: DType) -> Expr:
    if isinstance(value, Const):
        with np.errstate(over="ignore"):
            return Const(int(np.array(float(value.value)).astype(t.numpy).view(bits_of(t).numpy)), bits_of(t))
    if isinstance(value, Op) and value.name == f"widen_{t}":
        return value.args[0]
    return Op(f"narrow_{t}", (value,), bits_of(t))
