"""Definition primitives: they change the program itself, each with an obligation of its own."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from tensordsl.schedules.analysis import read_in_index, tensor_names
from tensordsl.schedules.locate import Path, fresh, homes, stage_of
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    Seq,
    Stmt,
    buffers,
    children,
    control_data,
    map_values,
    seq,
    stores,
    with_children,
)
from tensordsl.schedules.lower import definition_nest, lower
from tensordsl.schedules.nest_text import stmt_lines
from tensordsl.schedules.primitives.placement import defined, own_buffer, without_alloc, without_stage
from tensordsl.schedules.primitives.storage import replace_buffer
from tensordsl.schedules.rounding import keeps_rounding, reassociable
from tensordsl.schedules.schedule import Schedule, primitive
from tensordsl.schedules.simplify import simplify

from tensordsl import accesses, expr
from tensordsl.affine import Affine, Datum
from tensordsl.combination import Monoid
from tensordsl.data_index import affine_value
from tensordsl.errors import ScheduleError
from tensordsl.expr import Axis, Const, Expr, Index, Op, Read, select
from tensordsl.program import Program
from tensordsl.tensor import Definition, Tensor


@primitive
@keeps_rounding()
def compute_inline(s: Schedule, stage: str) -> Schedule:
    """Compute a pointwise stage inside every expression that reads it, and drop its buffer.

    Requires: the stage is pointwise, no output, not a recurrence, and not placed or cached yet.
    Rewrite: ``P[i] = f(i); C[i] = g(P[e])``  ->  ``C[i] = g(f(e))``
    Raises: ScheduleError for a reduction, an output or a stage whose buffer was already moved.
    """
    tensor = defined(s, stage)
    d = tensor.definition
    assert d is not None
    if d.reducer is not None or d.order:
        raise ScheduleError(f"{stage} is a {'reduction' if d.reducer else 'recurrence'}", hint="compute_at it instead")
    if any(t.name == stage for t in s.program.outputs):
        raise ScheduleError(f"{stage} is an output: the caller needs its values")
    old = own_buffer(s, stage)
    if old.shape != tensor.shape or old.scope != "workspace":
        raise ScheduleError(f"the buffer of {stage} has been moved already", hint="inline before compute_at and caches")
    if affine_value(d.body) is None and read_in_index(s.program, stage):
        raise ScheduleError(f"elements of {stage} are used as indices", hint="compute_at it instead")
    program = inline_in_program(s.program, tensor, d)
    known = homes(s.nest)
    if any(st.instance.tensor == stage and st.instance.kind != "compute" for st, _ in stores(s.nest.body)):
        raise ScheduleError(f"copies of {stage} are kept elsewhere", hint="inline before compute_at and caches")
    for r in d.reads:
        if r.source.name not in known:
            raise ScheduleError(
                f"{r.source.name}, which {stage} reads, has no buffer of its own any more",
                hint=f"inline {stage} before {r.source.name} is cached",
            )
    body = without_alloc(without_stage(s.nest.body, stage), stage)
    if any(x.source is old for x in control_data(body)):
        raise ScheduleError(f"elements of {stage} decide which iterations run", hint="compute_at it instead")
    value = accesses.map_sources(d.body, lambda source: known[source.name])
    return s.with_nest(map_values(body, _Inline(old, d, value)), program)


class _Inline:
    """Replaces reads of a tensor or buffer, those in indices included, by its definition."""

    def __init__(self, source: Tensor | Buffer, d: Definition, value: Expr) -> None:
        self.source, self.d, self.value = source, d, value
        self.memo: dict[tuple[Affine, ...], Expr] = {}

    def __call__(self, e: Expr) -> Expr | None:
        if isinstance(e, Index):
            affine = e.affine.map_data(self.datum)
            return None if affine is e.affine else Index(affine, e.dtype)
        if not isinstance(e, Read):
            return None
        index = tuple([i.map_data(self.datum) for i in e.index])
        if e.source is self.source:
            return self.at(index)
        return None if all(a is b for a, b in zip(index, e.index)) else replace(e, index=index)

    def at(self, index: tuple[Affine, ...]) -> Expr:
        if index not in self.memo:
            self.memo[index] = expr.substitute(self.value, {a.name: i for a, i in zip(self.d.axes, index)})
        return self.memo[index]

    def datum(self, d: Datum) -> Affine:
        if d.source is not self.source:
            return Affine(((d, 1),))
        found = affine_value(self.at(d.index))
        if found is None:
            raise ScheduleError(f"{d} is an index, its definition {self.at(d.index)} is none")
        return found


def inline_in_program(program: Program, tensor: Tensor, d: Definition) -> Program:
    new: dict[str, Definition] = {}
    for t in program.tensors:
        c = t.definition
        assert c is not None
        body = expr.transform(c.body, _Inline(tensor, d, d.body))
        if body is not c.body:
            new[t.name] = replace(c, body=body)
    return program.with_definitions(new)


@primitive
@keeps_rounding(when=reassociable)
def rfactor(s: Schedule, stage: str, axis: str, factor: int, name: str | None = None) -> Schedule:
    """Split a reduction into ``factor`` interleaved partial ones and their combination.

    The partial results form a stage of their own with one more dimension: independent accumulators
    for vector lanes or threads.  Where the order of the terms counts, each takes neighbours.

    Requires: the stage is a reduction whose loops are not ordered yet; ``axis`` is one of its
    reduction axes.  A size that does not divide is guarded by the identity.
    Rewrite: ``y[i] = sum_k f(i, k)``  ->  ``y_rf[i, l] = sum_ko f(i, ko*factor + l); y[i] = sum_l y_rf[i, l]``
    Raises: ScheduleError for a pointwise stage or an unknown axis.
    """
    label = name or fresh(f"{stage}_rf", tensor_names(s.program))
    tensor = defined(s, stage)
    program = factored(s.program, stage, axis, factor, label)
    require_unplaced(s, stage, tensor)
    return replace_stage(s, stage, program, label)


def factored(program: Program, stage: str, axis: str, factor: int, label: str) -> Program:
    """The program of `rfactor`: partial results in tensor ``label``, combined in ``stage``."""
    tensor = program[stage]
    d = tensor.definition
    assert d is not None
    if d.reducer is None:
        raise ScheduleError(f"{stage} is not a reduction")
    require_acyclic(program, stage)
    position = next((k for k, a in enumerate(d.reduce_axes) if a.name == axis), None)
    if position is None:
        raise ScheduleError(f"{stage} does not reduce over {axis!r}", legal=[a.name for a in d.reduce_axes])
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
        raise ScheduleError(f"factor={factor!r} is not a positive integer")
    _require_free(program, label)
    size = d.reduce_axes[position].extent
    outer, lane = f"{axis}.o", f"{axis}.l"
    steps = (size + factor - 1) // factor
    whole = Affine.of(outer) * factor + Affine.of(lane)
    if isinstance(d.reducer, Monoid) and not d.reducer.commutative:  # each lane takes neighbours
        if position:
            raise ScheduleError(f"the terms of {stage} are combined in order, first along {d.reduce_axes[0].name}")
        whole = Affine.of(lane) * steps + Affine.of(outer)
    body = expr.substitute(d.body, {axis: whole})
    if size % factor != 0:
        body = select(Index(whole) < size, body, d.reducer.identity(tensor.dtype))
    axes = (*d.axes, Axis(lane, factor))
    others = [a for k, a in enumerate(d.reduce_axes) if k != position]
    partial = replace(d, axes=axes, body=body, reduce_axes=(*others[:position], Axis(outer, steps), *others[position:]))
    added = Tensor(label, tuple(a.extent for a in axes), tensor.dtype, partial)
    combined = Definition(d.axes, Read(added, tuple(Affine.of(a.name) for a in axes)), d.reducer, (Axis(lane, factor),))
    return program.with_definitions({stage: combined}, [added])


@primitive
@keeps_rounding()
def pad(s: Schedule, stage: str, axis: str, multiple: int) -> Schedule:
    """Extend an axis of a stage to a multiple, so that all tiles of that size are full.

    The points added to a reduction hold its identity; so do the elements added to one (those added
    to a pointwise stage are zero), and nobody reads them.

    Requires: the stage's loops are not ordered yet; for an axis of its elements, that it is no
    output and its buffer has not been moved.
    Rewrite: ``y[i] = sum_k<10 f(i, k)``  ->  ``y[i] = sum_k<16 (f(i, k) if k < 10 else 0)``
    Raises: ScheduleError for an unknown axis, a recurrence, or elements that belong to the caller.
    """
    tensor = defined(s, stage)
    if multiple < 1:
        raise ScheduleError(f"multiple={multiple} is not a positive integer")
    program = padded(s.program, stage, axis, multiple)
    require_unplaced(s, stage, tensor)
    shape = program[stage].shape
    if shape == tensor.shape:
        return replace_stage(s, stage, program)
    old = own_buffer(s, stage)
    if old.shape != tensor.shape or old.scope != "workspace" or old.fold or old.pitch:
        raise ScheduleError(f"the buffer of {stage} has been moved already", hint="pad before caches and placement")
    return replace_stage(replace_buffer(s, stage, {"shape": shape}), stage, program)


def padded(program: Program, stage: str, axis: str, multiple: int) -> Program:
    """The program of `pad`."""
    tensor = program[stage]
    d = tensor.definition
    assert d is not None
    require_acyclic(program, stage)
    known = {a.name: a.extent for a in (*d.axes, *d.reduce_axes)}
    if axis not in known:
        raise ScheduleError(f"{stage} has no axis {axis!r}", legal=list(known))
    size = known[axis]
    wide = Axis(axis, -(-size // multiple) * multiple)
    if wide.extent == size:
        return program
    inner = any(a.name == axis for a in d.reduce_axes)
    rest = d.reducer.identity(tensor.dtype) if inner and d.reducer is not None else expr.constant(0, tensor.dtype)
    if not inner and any(t.name == stage for t in program.outputs):
        raise ScheduleError(f"{stage} is an output: its shape is the caller's")
    if not inner and d.reducer is not None:
        rest = d.reducer.identity(tensor.dtype)
    body = select(Index(Affine.of(axis)) < size, d.body, rest)
    axes, reduced = (tuple(wide if a.name == axis else a for a in old) for old in (d.axes, d.reduce_axes))
    new = replace(d, axes=axes, body=body, reduce_axes=reduced)
    return program.with_definitions({stage: new}, [replace(tensor, shape=tuple(a.extent for a in axes))])


@primitive
def reciprocal(s: Schedule, stage: str, name: str | None = None) -> Schedule:
    """Divide once where a divisor does not change along the last axis, and multiply by the result.

    The value may differ by one more rounding (1.5 instead of 0.5 units in the last place), which the
    derived tolerance of the check covers.

    Requires: the stage is pointwise, its loops are not ordered yet, and it divides floats by
    constants, or by something that does not depend on its last axis.
    Rewrite: ``C[i, j] = a[i, j] / b[i]``  ->  ``C_inv[i] = 1 / b[i]; C[i, j] = a[i, j] * C_inv[i]``;
        ``a[i, j] / 9``  ->  ``a[i, j] * 0.111..``
    Raises: ScheduleError when there is no such division.
    """
    tensor = defined(s, stage)
    label = name or inverse_name(s.program, stage)
    program = with_reciprocal(s.program, stage, label)
    require_unplaced(s, stage, tensor)
    return replace_stage(s, stage, program, *([label] if steady_divisor(tensor) is not None else []))


def divides(t: Tensor) -> bool:
    """Has a pointwise definition a divisor that `reciprocal` replaces?"""
    return steady_divisor(t) is not None or any(_constant_inverse(e) is not None for e in _divisions(t))


def inverse_name(program: Program, stage: str) -> str:
    """What `reciprocal` calls the inverse of a stage's divisor."""
    return fresh(f"{stage}_inv", tensor_names(program))


def _require_free(program: Program, label: str) -> None:
    if label in tensor_names(program):
        raise ScheduleError(f"the name {label!r} is taken", hint="give another name=, or none")


def steady_divisor(t: Tensor) -> Expr | None:
    """The first divisor of a pointwise definition that reads data but not along its last axis."""
    last = t.definition.axes[-1].name if t.definition is not None and t.definition.axes else ""
    for e in _divisions(t):
        if expr.reads(e.args[1]) and not any(last in n for n in map(_names, expr.walk(e.args[1]))):
            return e.args[1]
    return None


def _divisions(t: Tensor) -> list[Op]:
    d = t.definition
    if d is None or d.reducer is not None or d.order or len(d.axes) < 1 or not t.dtype.is_float:
        return []
    return [e for e in expr.walk(d.body) if isinstance(e, Op) and e.name == "div" and e.dtype.is_float]


def _constant_inverse(e: Op) -> Const | None:
    """The inverse of a constant divisor, where it is as ordinary a number as the divisor itself."""
    by = e.args[1]
    if not isinstance(by, Const) or not 2.0**-100 < abs(by.value) < 2.0**100:
        return None
    return Const(1.0 / float(by.value), e.dtype)


def _names(e: Expr) -> frozenset[str]:
    indices = e.index if isinstance(e, Read) else (e.affine,) if isinstance(e, Index) else ()
    return frozenset(n for i in indices for n in i.names())


def with_reciprocal(program: Program, stage: str, label: str) -> Program:
    """The program of `reciprocal`, with the inverse of data in tensor ``label``."""
    tensor = program[stage]
    d = tensor.definition
    require_acyclic(program, stage)
    if d is None or not divides(tensor):
        raise ScheduleError(f"{stage} divides by nothing that stays the same along its last axis")
    _require_free(program, label)
    divisor = steady_divisor(tensor)
    added: list[Tensor] = []
    same: Hashable = None
    inverse: Read | None = None
    if divisor is not None:
        used = {n for e in expr.walk(divisor) for n in _names(e)}
        axes = tuple(a for a in d.axes if a.name in used)
        value = expr.binary("div", 1.0, divisor)
        added = [Tensor(label, tuple(a.extent for a in axes), value.dtype, Definition(axes, value))]
        same, inverse = expr.structure(divisor), Read(added[0], tuple(Affine.of(a.name) for a in axes))

    def multiply(e: Expr) -> Expr | None:
        if not isinstance(e, Op) or e.name != "div" or not e.dtype.is_float:
            return None
        factor = inverse if inverse is not None and expr.structure(e.args[1]) == same else _constant_inverse(e)
        return None if factor is None else replace(e, name="mul", args=(e.args[0], factor))

    return program.with_definitions({stage: replace(d, body=expr.transform(d.body, multiply))}, added)


def require_acyclic(program: Program, stage: str) -> None:
    for group in program.groups:
        if group.order is not None and any(t.name == stage for t in group.tensors):
            raise ScheduleError(f"{stage} belongs to a recurrence in order of {group.order}")


def require_unplaced(s: Schedule, stage: str, tensor: Tensor) -> None:
    """The stage's loops stand by themselves as the definition wrote them, with nothing placed inside."""
    own: list[Stmt] = []

    def go(x: Stmt, path: Path) -> None:
        if isinstance(x, (Alloc, Seq)):
            for c in children(x):
                go(c, (*path, x))
        elif any(stage_of(st, (*path, *p)) == stage for st, p in stores(x)):
            own.append(x)

    go(s.nest.body, ())
    plain = simplify(definition_nest(tensor, homes(s.nest)))
    if list(stmt_lines(simplify(seq(*own)))) != list(stmt_lines(plain)):
        raise ScheduleError(
            f"the loops of {stage} are already ordered", hint="change definitions before ordering their loops"
        )


def replace_stage(s: Schedule, stage: str, program: Program, *added: str) -> Schedule:
    """The nest with the plain loops of ``added`` and then ``stage`` in place of the stage's old ones."""
    fresh = buffers(lower(program))
    known = {**{n: b for n, b in fresh.items() if n in added}, **homes(s.nest)}
    body = with_stage(s.nest.body, stage, seq(*[definition_nest(program[n], known) for n in (*added, stage)]))
    for n in added:
        element = tuple(Affine.of(f"@{d}") for d in range(len(fresh[n].shape)))
        body = Alloc(known[n], body, n, element)
    return s.with_nest(body, program)


def with_stage(body: Stmt, stage: str, new: Stmt) -> Stmt:
    """The nest with other loops in place of those of a stage."""
    placed = False

    def go(x: Stmt, path: Path) -> Stmt:
        nonlocal placed
        own = {stage_of(st, (*path, *p)) for st, p in stores(x)}
        if own == {stage} and not placed and not isinstance(x, Alloc):
            placed = True
            return new
        if own == {stage} and not isinstance(x, Alloc):
            return Seq(())
        return with_children(x, tuple([go(c, (*path, x)) for c in children(x)]))

    return go(body, ())
