"""Program -> LoopNest: the plain loops of every definition, in order.  The start of every schedule."""

from __future__ import annotations

from tensordsl.schedules.loopnest import (
    CELL,
    Alloc,
    Buffer,
    For,
    If,
    Instance,
    LoopNest,
    Stmt,
    Store,
    control_data,
    seq,
    substitute,
)  # fmt: skip
from tensordsl.schedules.simplify import simplify

from tensordsl import accesses, conditions, expr
from tensordsl.affine import Affine, affines
from tensordsl.causality import Group
from tensordsl.errors import ScheduleError
from tensordsl.expr import Axis
from tensordsl.program import Program
from tensordsl.tensor import Tensor


def lower(program: Program) -> LoopNest:
    """The nest that computes one tensor after the other, each with its loops in written order."""
    outputs = {t.name for t in program.outputs}
    external = {t.name for t in program.inputs} | outputs
    buffers = {
        t.name: Buffer(
            t.name, t.shape, t.dtype, "external" if t.name in external else "workspace", t.pitch, values=t.values
        )
        for t in (*program.inputs, *program.tensors)
    }
    for output, source in program.inplace.items():  # one memory; the program is checked to allow it
        buffers[output] = buffers[source]
    body: Stmt = seq(*[group_nest(g, buffers) for g in program.groups])
    for t in reversed(program.tensors):
        if t.name not in external:
            body = Alloc(buffers[t.name], body, t.name, affines(CELL[: t.ndim]))
    parameters = tuple(buffers[t.name] for t in (*program.inputs, *program.outputs) if t.name not in program.inplace)
    return LoopNest(program, parameters, body)


def group_nest(group: Group, buffers: dict[str, Buffer], around: tuple[str, ...] = ()) -> Stmt:
    """The plain loops of a group: definitions that need each other share the loop of their causal order.

    around: the axes whose loops are there already.
    """
    if group.order is None:
        [t] = group.tensors
        return definition_nest(t, buffers)
    axis = group.order.axis
    inside = (*around, axis)
    longest = max(_extent(t, axis) for t in group.tensors)
    parts = []
    for p in group.parts:
        nest = group_nest(p, buffers, inside) if isinstance(p, Group) else _ascending(p, buffers, inside)
        shortest = min(_extent(t, axis) for t in (p.tensors if isinstance(p, Group) else (p,)))
        parts.append(nest if shortest == longest else If((Affine.of(shortest - 1) - Affine.of(axis),), nest))
    return _causal_loop(axis, longest, group.order.descending, seq(*parts))


def _extent(t: Tensor, axis: str) -> int:
    assert t.definition is not None
    return next(a.extent for a in t.definition.axes if a.name == axis)


def _causal_loop(axis: str, extent: int, descending: bool, body: Stmt) -> For:
    """A loop over the steps of a causal axis.  Loops count up: a descending axis is counted from its end."""
    if descending:
        body = substitute(body, {axis: Affine.of(extent - 1) - Affine.of(axis)})
    return For(axis, (Affine(),), (Affine.of(extent),), body)


def definition_nest(t: Tensor, buffers: dict[str, Buffer]) -> Stmt:
    """The plain loops of one definition: init, update for a reduction, compute for a pointwise one."""
    d = t.definition
    assert d is not None
    body = _ascending(t, buffers, d.causal_axes)
    for o in reversed(d.order):
        body = _causal_loop(o.axis, _extent(t, o.axis), o.descending, body)
    return body


def _ascending(t: Tensor, buffers: dict[str, Buffer], around: tuple[str, ...]) -> Stmt:
    """The loops of a definition but those of the causal axes ``around``."""
    d = t.definition
    assert d is not None
    target = _own(t.name, t, buffers)
    index = tuple(Affine.of(a.name) for a in d.axes)

    def own(source: expr.Source) -> Buffer:
        return _own(source.name, t, buffers)

    value = accesses.map_sources(d.body, own)
    if d.reducer is None:
        body: Stmt = Store(target, index, value, Instance("compute", t.name, index))
    else:
        points = tuple(Affine.of(a.name) for a in d.reduce_axes)
        update = Store(target, index, value, Instance("update", t.name, index, points), d.reducer.combine)
        init = Store(target, index, d.reducer.identity(t.dtype), Instance("init", t.name, index))
        where = accesses.map_index_sources(conditions.terms_where(d.body, d.reducer), own)
        body = seq(init, loops(d.reduce_axes, update, where))
    nest = loops(tuple(a for a in d.loop_axes if a.name not in around), body)
    # what is read from memory has a range, which decides bounds at once
    return simplify(nest) if any(True for _ in control_data(nest)) else nest


def _own(name: str, t: Tensor, buffers: dict[str, Buffer]) -> Buffer:
    """The buffer of a tensor that the loops of ``t`` read or write."""
    if name not in buffers:
        raise ScheduleError(
            f"{name}, which {t.name} needs, has no buffer of its own any more",
            hint=f"place {t.name} before {name} is cached",
        )
    return buffers[name]


def loops(axes: tuple[Axis, ...], body: Stmt, where: tuple[Affine, ...] = ()) -> Stmt:
    """Loops over axes, cut to where some conditions (``>= 0``) hold: by bounds where they are solved for
    the loop's variable, else by a guard as far outside as possible."""
    for a in reversed(axes):
        mine = [c for c in where if a.name in c.names()]
        where = tuple(c for c in where if a.name not in c.names())
        lo, hi = [Affine()], [Affine.of(a.extent)]
        inside: list[Affine] = []
        for c in mine:
            v, factor = Affine.of(a.name), c.coefficient(a.name)
            if abs(factor) != 1 or a.name in (c - v * factor).names():  # such as k - k % 2
                inside.append(c)
            elif factor == 1:
                lo.append(v - c)
            else:
                hi.append(c + v + 1)
        body = For(a.name, tuple(lo), tuple(hi), If(tuple(inside), body) if inside else body)
    return If(where, body) if where else body
