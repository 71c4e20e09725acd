"""Definition primitives: they change the program itself, each with an obligation of its own."""

from __future__ import annotations

from dataclasses import replace

from tensordsl.schedules.analysis import tensor_names
from tensordsl.schedules.locate import fresh, homes, stage_of
from tensordsl.schedules.loopnest import Alloc, Stmt, buffers, map_values, seq, stores
from tensordsl.schedules.lower import definition_nest, lower
from tensordsl.schedules.primitives.placement import defined, own_buffer, without_alloc, without_stage
from tensordsl.schedules.schedule import Schedule, primitive
from tensordsl.schedules.simplify import simplify

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import Axis, Expr, Index, Op, Read, select
from tensordsl.program import Program
from tensordsl.tensor import Definition, Tensor


@primitive
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
    program = inline_in_program(s.program, tensor, d)
    known = homes(s.nest)
    body = without_alloc(without_stage(s.nest.body, stage), stage)
    value = expr.transform(d.body, lambda e: replace(e, source=known[e.source.name]) if isinstance(e, Read) else None)
    memo: dict[tuple[Affine, ...], Expr] = {}

    def inline(e: Expr) -> Expr | None:
        if isinstance(e, Read) and e.source is old:
            if e.index not in memo:
                memo[e.index] = expr.substitute(value, {a.name: i for a, i in zip(d.axes, e.index)})
            return memo[e.index]
        return None

    return s.with_nest(map_values(body, inline), program)


def inline_in_program(program: Program, tensor: Tensor, d: Definition) -> Program:
    new: dict[str, Definition] = {}
    for t in program.tensors:
        c = t.definition
        assert c is not None
        memo: dict[tuple[Affine, ...], Expr] = {}

        def inline(e: Expr, memo: dict[tuple[Affine, ...], Expr] = memo) -> Expr | None:
            if isinstance(e, Read) and e.source is tensor:
                if e.index not in memo:
                    memo[e.index] = expr.substitute(d.body, {a.name: i for a, i in zip(d.axes, e.index)})
                return memo[e.index]
            return None

        body = expr.transform(c.body, inline)
        if body is not c.body:
            new[t.name] = replace(c, body=body)
    return program.with_definitions(new)


@primitive
def rfactor(s: Schedule, stage: str, axis: str, factor: int, name: str | None = None) -> Schedule:
    """Split a reduction into ``factor`` interleaved partial ones and their combination.

    The partial results form a stage of their own with one more dimension: independent accumulators
    for vector lanes or threads.

    Requires: the stage is a reduction whose loops are not ordered yet; ``axis`` is one of its
    reduction axes.  A size that does not divide is guarded by the identity.
    Rewrite: ``y[i] = sum_k f(i, k)``  ->  ``y_rf[i, l] = sum_ko f(i, ko*factor + l); y[i] = sum_l y_rf[i, l]``
    Raises: ScheduleError for a pointwise stage or an unknown axis.
    """
    label = name or fresh(f"{stage}_rf", tensor_names(s.program))
    tensor = defined(s, stage)
    program = factored(s.program, stage, axis, factor, label)
    _require_unplaced(s, stage, tensor)
    return _replace_stage(s, stage, program, label)


def factored(program: Program, stage: str, axis: str, factor: int, label: str) -> Program:
    """The program of `rfactor`: partial results in tensor ``label``, combined in ``stage``."""
    tensor = program[stage]
    d = tensor.definition
    assert d is not None
    if d.reducer is None:
        raise ScheduleError(f"{stage} is not a reduction")
    _require_acyclic(program, stage)
    position = next((k for k, a in enumerate(d.reduce_axes) if a.name == axis), None)
    if position is None:
        raise ScheduleError(f"{stage} does not reduce over {axis!r}", legal=[a.name for a in d.reduce_axes])
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
        raise ScheduleError(f"factor={factor!r} is not a positive integer")
    _require_free(program, label)
    size = d.reduce_axes[position].extent
    outer, lane = f"{axis}.o", f"{axis}.l"
    whole = Affine.of(outer) * factor + Affine.of(lane)
    body = expr.substitute(d.body, {axis: whole})
    if size % factor:
        body = select(Index(whole) < size, body, d.reducer.identity(tensor.dtype))
    axes = (*d.axes, Axis(lane, factor))
    others = [a for k, a in enumerate(d.reduce_axes) if k != position]
    partial = Definition(
        axes, body, d.reducer, (*others[:position], Axis(outer, -(-size // factor)), *others[position:])
    )
    added = Tensor(label, tuple(a.extent for a in axes), tensor.dtype, partial)
    combined = Definition(d.axes, Read(added, tuple(Affine.of(a.name) for a in axes)), d.reducer, (Axis(lane, factor),))
    return program.with_definitions({stage: combined}, [added])


@primitive
def reciprocal(s: Schedule, stage: str, name: str | None = None) -> Schedule:
    """Divide once where a divisor does not change along the last axis, and multiply by the result.

    The value may differ by one more rounding (1.5 instead of 0.5 units in the last place), which the
    derived tolerance of the check covers.

    Requires: the stage is pointwise, its loops are not ordered yet, and it divides floats by
    something that does not depend on its last axis.
    Rewrite: ``C[i, j] = a[i, j] / b[i]``  ->  ``C_inv[i] = 1 / b[i]; C[i, j] = a[i, j] * C_inv[i]``
    Raises: ScheduleError when there is no such division.
    """
    tensor = defined(s, stage)
    label = name or inverse_name(s.program, stage)
    program = with_reciprocal(s.program, stage, label)
    _require_unplaced(s, stage, tensor)
    return _replace_stage(s, stage, program, label)


def inverse_name(program: Program, stage: str) -> str:
    """What `reciprocal` calls the inverse of a stage's divisor."""
    return fresh(f"{stage}_inv", tensor_names(program))


def _require_free(program: Program, label: str) -> None:
    if label in tensor_names(program):
        raise ScheduleError(f"the name {label!r} is taken", hint="give another name=, or none")


def steady_divisor(t: Tensor) -> Expr | None:
    """The first divisor of a pointwise definition that reads data but not along its last axis."""
    d = t.definition
    if d is None or d.reducer is not None or d.order or len(d.axes) < 1 or not t.dtype.is_float:
        return None
    last = d.axes[-1].name
    for e in expr.walk(d.body):
        if isinstance(e, Op) and e.name == "div" and e.dtype.is_float:
            read = expr.reads(e.args[1])
            if read and not any(last in n for n in map(_names, expr.walk(e.args[1]))):
                return e.args[1]
    return None


def _names(e: Expr) -> frozenset[str]:
    indices = e.index if isinstance(e, Read) else (e.affine,) if isinstance(e, Index) else ()
    return frozenset(n for i in indices for n in i.names())


def with_reciprocal(program: Program, stage: str, label: str) -> Program:
    """The program of `reciprocal`, with the inverse in tensor ``label``."""
    tensor = program[stage]
    d = tensor.definition
    divisor = steady_divisor(tensor)
    _require_acyclic(program, stage)
    if d is None or divisor is None:
        raise ScheduleError(f"{stage} divides by nothing that stays the same along its last axis")
    _require_free(program, label)
    used = {n for e in expr.walk(divisor) for n in _names(e)}
    axes = tuple(a for a in d.axes if a.name in used)
    inverse = expr.binary("div", 1.0, divisor)
    added = Tensor(label, tuple(a.extent for a in axes), inverse.dtype, Definition(axes, inverse))
    read = Read(added, tuple(Affine.of(a.name) for a in axes))
    same = expr.structure(divisor)

    def multiply(e: Expr) -> Expr | None:
        if isinstance(e, Op) and e.name == "div" and expr.structure(e.args[1]) == same:
            return replace(e, name="mul", args=(e.args[0], read))
        return None

    return program.with_definitions({stage: replace(d, body=expr.transform(d.body, multiply))}, [added])


def _require_acyclic(program: Program, stage: str) -> None:
    for group in program.groups:
        if group.order is not None and any(t.name == stage for t in group.tensors):
            raise ScheduleError(f"{stage} belongs to a recurrence in order of {group.order}")


def _require_unplaced(s: Schedule, stage: str, tensor: Tensor) -> None:
    plain = simplify(definition_nest(tensor, homes(s.nest)))
    here = [
        (st.instance, [x.var for x in p if hasattr(x, "var")])
        for st, p in stores(simplify(s.nest.body))
        if stage_of(st, p) == stage
    ]
    there = [(st.instance, [x.var for x in p if hasattr(x, "var")]) for st, p in stores(plain)]
    if here != there:
        raise ScheduleError(
            f"the loops of {stage} are already ordered", hint="change definitions before ordering their loops"
        )


def _replace_stage(s: Schedule, stage: str, program: Program, *added: str) -> Schedule:
    """The nest with the plain loops of ``added`` and then ``stage`` in place of the stage's old ones."""
    fresh = buffers(lower(program))
    known = {**{n: b for n, b in fresh.items() if n in added}, **homes(s.nest)}
    new = seq(*[definition_nest(program[n], known) for n in (*added, stage)])
    placed = False

    def go(x: Stmt) -> Stmt:
        nonlocal placed
        from tensordsl.schedules.loopnest import Seq, children, with_children

        own = {st.instance.tensor for st, _ in stores(x)}
        if own == {stage} and not placed and not isinstance(x, Alloc):
            placed = True
            return new
        if own == {stage} and not isinstance(x, Alloc):
            return Seq(())
        return with_children(x, tuple([go(c) for c in children(x)]))

    body = go(s.nest.body)
    for n in added:
        element = tuple(Affine.of(f"@{d}") for d in range(len(fresh[n].shape)))
        body = Alloc(known[n], body, n, element)
    return s.with_nest(body, program)
