"""The definition primitive that computes a recurrence a block of steps at a time."""

from __future__ import annotations

from dataclasses import replace

from tensordsl.schedules.analysis import definition_of, tensor_names
from tensordsl.schedules.associative import Steps, steps_of
from tensordsl.schedules.locate import fresh
from tensordsl.schedules.primitives.definitions import replace_stage, require_unplaced
from tensordsl.schedules.primitives.placement import defined
from tensordsl.schedules.rounding import keeps_rounding
from tensordsl.schedules.schedule import Schedule, primitive

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError
from tensordsl.expr import Axis, Expr, Index, Read
from tensordsl.program import Program
from tensordsl.tensor import Definition, Tensor


def _keeps(program: Program, stage: str) -> bool:
    """Do combined steps give the same bits: whole numbers, and extremes of anything?"""
    t = next((t for t in program.tensors if t.name == stage), None)
    if t is None:
        return False
    steps = steps_of(t)
    return not t.dtype.is_float or (steps.plus in ("max", "min") and steps.scale is None)


@primitive
@keeps_rounding(when=_keeps)
def scan(s: Schedule, stage: str, block: int) -> Schedule:
    """Compute a recurrence in blocks: the steps of a block are combined pairwise, at distances of 1, 2, 4, ..., and
    what came before the block enters all of them at once.

    Within a block nothing waits for the element before: its steps are lanes of vectors.  Hillis and
    Steele (1986); Blelloch (1990).  Values may differ by rounding; products of scales that leave the range
    of their type give other results where the recurrence itself stays within it.

    Requires: a recurrence along one axis whose loops are not ordered yet, of the form h + v, h * v,
    max(h, v), a * h + v or max(h + a, v), with a and v free of h; a block of 2, 4, 8, ... steps.
    Rewrite: ``y[i] = y[i-1] + x[i]``  ->  ``y_1[t, r] = x[..] + (x[..-1] if r >= 1); ..;
        y[i] = y[last of the block before] + y_n[i // block, i % block]``
    Raises: ScheduleError with the operation that keeps steps from being combined.
    """
    tensor = defined(s, stage)
    if isinstance(block, bool) or not isinstance(block, int) or block < 2 or block & (block - 1):
        raise ScheduleError(f"block={block!r} is not one of 2, 4, 8, ...")
    if any(t.name == stage for g in s.program.groups if len(g.tensors) > 1 for t in g.tensors):
        raise ScheduleError(f"{stage} advances together with other definitions")
    program, added = scanned(s.program, tensor, steps_of(tensor), block)
    require_unplaced(s, stage, tensor)
    return replace_stage(s, stage, program, *added)


def scanned(program: Program, t: Tensor, steps: Steps, block: int) -> tuple[Program, tuple[str, ...]]:
    """The program of `scan`, and the names of the tensors that hold combined steps."""
    d = definition_of(t)
    names = tensor_names(program)
    extent = next(a.extent for a in d.axes if a.name == steps.axis)
    used = [a.name for a in d.axes]
    outer, inner = (Axis(fresh(f"{steps.axis}.{x}", used), n) for x, n in (("t", -(-extent // block)), ("r", block)))
    axes = (*(a for a in d.axes if a.name != steps.axis), outer, inner)
    count = Affine.of(outer.name) * block + Affine.of(inner.name)
    at = Affine((), extent - 1) - count if steps.descending else count
    added: list[Tensor] = []

    def tensor(kind: str, level: int, body: Expr) -> Tensor:
        label = fresh(f"{t.name}_{kind}{level}", names)
        names.append(label)
        found = Tensor(label, tuple(a.extent for a in axes), t.dtype, Definition(axes, body))
        added.append(found)
        return found

    def here(x: Tensor, back: int = 0) -> Read:
        return Read(x, (*(Affine.of(a.name) for a in axes[:-1]), Affine.of(inner.name) - back))

    def guarded(e: Expr, first: Expr, rest: Expr) -> Expr:
        """A value of a step; of the one that makes the first element, and of those past the end."""
        body = expr.select(Index(count) <= 0, expr.substitute(first, {}), expr.substitute(e, {steps.axis: at}))
        return expr.select(Index(count) < extent, body, rest) if extent % block != 0 else body

    plus, times = steps.plus, steps.times if steps.scale is not None else ""
    term = tensor("v", 0, guarded(steps.term, steps.first, steps.neutral(plus)))
    scale = None
    if steps.scale is not None:
        one = steps.neutral(times)
        scale = tensor("a", 0, guarded(steps.scale, one, one))
    distance, level = 1, 0
    while distance < block:
        level += 1
        far = Index(Affine.of(inner.name)) >= distance
        earlier: Expr = here(term, distance)
        if scale is not None:
            earlier = expr.binary(times, earlier, here(scale))
        new = tensor("v", level, expr.select(far, expr.binary(plus, earlier, here(term)), here(term)))
        if scale is not None:
            both = expr.binary(times, here(scale, distance), here(scale))
            scale = tensor("a", level, expr.select(far, both, here(scale)))
        term, distance = new, 2 * distance
    place = Affine((), extent - 1) - Affine.of(steps.axis) if steps.descending else Affine.of(steps.axis)
    inside = {outer.name: place // block, inner.name: place % block}
    last = place // block * block - 1
    before = Affine((), extent - 1) - last if steps.descending else last
    carried: Expr = Read(t, tuple(before if a.name == steps.axis else Affine.of(a.name) for a in d.axes))
    if scale is not None:
        carried = expr.binary(times, carried, expr.substitute(here(scale), inside))
    local = expr.substitute(here(term), inside)
    body = expr.select(Index(place) >= block, expr.binary(plus, carried, local), local)
    new_program = program.with_definitions({t.name: replace(d, body=body)}, added)
    return new_program, tuple(x.name for x in added)
