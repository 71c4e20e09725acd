"""Program -> LoopNest: the plain loops of every definition, in order.  The start of every schedule."""

from __future__ import annotations

from dataclasses import replace

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
    seq,
)  # fmt: skip

from tensordsl import expr
from tensordsl.affine import Affine, affines
from tensordsl.errors import ScheduleError
from tensordsl.expr import Axis, Expr, Read
from tensordsl.program import Group, Program
from tensordsl.tensor import Tensor


def lower(program: Program) -> LoopNest:
    """The nest that computes one tensor after the other, each with its loops in written order."""
    outputs = {t.name for t in program.outputs}
    external = {t.name for t in program.inputs} | outputs
    buffers = {
        t.name: Buffer(t.name, t.shape, t.dtype, "external" if t.name in external else "workspace")
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


def group_nest(group: Group, buffers: dict[str, Buffer]) -> Stmt:
    """The plain loops of a group: definitions that need each other share the loop of their causal order."""
    nests = [definition_nest(t, buffers) for t in group.tensors]
    if group.order is None or len(nests) == 1:
        return seq(*nests)
    steps: dict[str, int] = {}
    parts: list[Stmt] = []
    for t, nest in zip(group.tensors, nests):
        assert isinstance(nest, For) and nest.var == group.order and t.definition is not None
        steps[t.name] = next(a.extent for a in t.definition.axes if a.name == group.order)
        parts.append(nest.body)
    longest = max(steps.values())
    guarded = [
        part if extent == longest else If((Affine((), extent - 1) - Affine.of(group.order),), part)
        for part, extent in zip(parts, steps.values())
    ]
    return For(group.order, (Affine(),), (Affine((), longest),), seq(*guarded))


def definition_nest(t: Tensor, buffers: dict[str, Buffer]) -> Stmt:
    """The plain loops of one definition: init, update for a reduction, compute for a pointwise one."""
    d = t.definition
    assert d is not None
    target = _own(t.name, t, buffers)
    index = tuple(Affine.of(a.name) for a in d.axes)

    def link(e: Expr) -> Expr | None:
        return replace(e, source=_own(e.source.name, t, buffers)) if isinstance(e, Read) else None

    value = expr.transform(d.body, link)
    if d.reducer is None:
        body: Stmt = Store(target, index, value, Instance("compute", t.name, index))
    else:
        points = tuple(Affine.of(a.name) for a in d.reduce_axes)
        update = Store(target, index, value, Instance("update", t.name, index, points), d.reducer.combine)
        init = Store(target, index, d.reducer.identity(t.dtype), Instance("init", t.name, index))
        body = seq(init, _loops(d.reduce_axes, update))
    axes = sorted(d.axes, key=lambda a: a.name != d.order)  # the causal axis outermost
    return _loops(tuple(axes), body)


def _own(name: str, t: Tensor, buffers: dict[str, Buffer]) -> Buffer:
    """The buffer of a tensor that the loops of ``t`` read or write."""
    if name not in buffers:
        raise ScheduleError(
            f"{name}, which {t.name} needs, has no buffer of its own any more",
            hint=f"place {t.name} before {name} is cached",
        )
    return buffers[name]


def _loops(axes: tuple[Axis, ...], body: Stmt) -> Stmt:
    for a in reversed(axes):
        body = For(a.name, (Affine(),), (Affine((), a.extent),), body)
    return body
