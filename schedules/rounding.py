"""Steps and programs whose float results do not depend on the schedule.

A program says how far a kernel may deviate from its written order (`tensordsl.program.Rounding`).
`exact` fixes every operation as it is written.  `reproducible` first writes the program with one
reduction tree for every machine and then fixes that: wide enough for the vectors of each, the same on
all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeVar

from tensordsl import dtypes, expr
from tensordsl.combination import Monoid
from tensordsl.dtypes import DType
from tensordsl.errors import InternalError, ProgramError
from tensordsl.expr import Axis, Expr, Op
from tensordsl.program import Program
from tensordsl.tensor import Definition, Tensor

#: Bytes of the partial results of one reduction: a vector of the widest machine, four of which hide the
#: latency of an addition; four vectors of 64 bytes, eight of 32, sixteen of 16.
VECTOR, VECTORS = 64, 4
#: Terms of each partial result, at least; a tree of few terms is short.
ENOUGH = 4
#: Elements of the last vector, which are combined one after the other.
LAST = 4

Step = TypeVar("Step", bound=Callable[..., object])
Condition = Callable[[Program, str], bool]
#: primitive -> the stages for which it leaves every rounding as it is
_KEEPING: dict[str, Condition] = {}


def keeps_rounding(when: Condition = lambda program, stage: True) -> Callable[[Step], Step]:
    """Declare that a definition step changes no float result (of stages that satisfy a condition).

    All other definition steps are refused for programs with a fixed rounding.
    """

    def mark(fn: Step) -> Step:
        _KEEPING[fn.__name__] = when
        return fn

    return mark


def changes_rounding(step: str, program: Program, stage: str) -> bool:
    """May a definition step change float results of a program?"""
    return step not in _KEEPING or not _KEEPING[step](program, stage)


def reassociable(program: Program, stage: str) -> bool:
    """Is a reduction the same in any order?"""
    t = next((t for t in program.tensors if t.name == stage), None)
    return t is not None and not order_matters(t)


def order_matters(t: Tensor) -> bool:
    """May a reduction round: a sum or product of floats, or a reducer of a user's?"""
    d = t.definition
    if d is None or d.reducer is None:
        return False
    return isinstance(d.reducer, Monoid) or order_matters_in(d.reducer.combine, t.dtype)


def order_matters_in(operation: str, dtype: DType) -> bool:
    """Does the result of combining values depend on the order?"""
    return operation in ("add", "mul") and dtype.is_inexact


def exact(program: Program) -> Program:
    """The program with its written order fixed: kernels give the same bits on every machine.

    Each float operation is rounded once, as written; sums add their terms one after the other.
    """
    return _checked("exact", program).with_rounding("written")


def reproducible(program: Program) -> Program:
    """The program with one order of every float sum and product fixed, chosen for vectors.

    Kernels give the same bits on every machine, under every schedule, at about the speed of free ones.
    """
    from tensordsl.schedules.analysis import inlinable
    from tensordsl.schedules.primitives.definitions import (
        divides,
        inline_in_program,
        inverse_name,
        with_reciprocal,
    )

    program = _checked("reproducible", program)
    while (name := inlinable(program)) is not None:
        tensor = program[name]
        assert tensor.definition is not None
        program = inline_in_program(program, tensor, tensor.definition)
    cyclic = _cyclic(program)
    for t in program.tensors:
        if t.name not in cyclic and divides(t):
            program = with_reciprocal(program, t.name, inverse_name(program, t.name))
    for t in program.tensors:
        if t.name not in cyclic:
            program = _as_tree(program, t)
    fused = {t.name: replace(d, fused=True) for t in program.tensors if (d := t.definition) and _fusible(d)}
    return program.with_definitions(fused).with_rounding("fused")


def _checked(what: str, program: object) -> Program:
    if not isinstance(program, Program):
        raise ProgramError(f"{what} takes a Program, got a value of type {type(program).__name__}")
    if program.rounding != "free":
        raise ProgramError(f"the rounding of {program.name} is fixed already")
    if program.free:
        raise ProgramError(
            f"{what}: {program.name} is for all sizes, a fixed rounding is for some", hint="bind them: op.bind(...)"
        )
    return program


def _cyclic(program: Program) -> set[str]:
    return {t.name for g in program.groups if g.order is not None for t in g.tensors}


def _as_tree(program: Program, t: Tensor) -> Program:
    """With a long contiguous reduction as partial results side by side, added up vector by vector."""
    from tensordsl.schedules.analysis import definition_of, tensor_names
    from tensordsl.schedules.locate import fresh
    from tensordsl.schedules.plan import reduction_vector_axis, tile_of
    from tensordsl.schedules.primitives.definitions import factored

    own = isinstance(definition_of(t).reducer, Monoid)  # its states keep their order
    axis = None if own or not order_matters(t) or tile_of(t) is not None else reduction_vector_axis(t)
    if axis is None:
        return program
    extent = next(a.extent for a in definition_of(t).reduce_axes if a.name == axis)
    lanes, count = VECTOR // t.dtype.bytes, VECTORS
    while count > 1 and ENOUGH * count * lanes > extent:
        count //= 2
    if lanes > extent:
        return program
    widths = [("rf", count * lanes), ("lanes", lanes), ("last", LAST)]
    for suffix, width in widths if count > 1 else [widths[0], widths[2]]:
        program = factored(program, t.name, axis, width, fresh(f"{t.name}_{suffix}", tensor_names(program)))
        axis += ".l"
    return program


#: Where a stage stands in a tree: many partial results of data, a few of those, or what is left at the end.
Place = Literal["many", "few", "end"]


def tree_places(program: Program) -> dict[str, Place]:
    """The stages that reduce interleaved partial results or make them, found by their structure."""
    found: dict[str, Place] = {}
    for t in program.tensors:
        d = t.definition
        if d is None or not order_matters(t):
            continue
        parts = len(d.reads) == 1 and d.reads[0].source.name in found
        if d.axes and any(_interleaved(d, a.name, d.axes[-1]) for a in d.reduce_axes):
            found[t.name] = "few" if parts else "many"
        elif parts:
            found[t.name] = "end"
    return found


def _interleaved(d: Definition, axis: str, lane: Axis) -> bool:
    """Is a term the ``axis * lanes + lane``-th of some data, wherever both are used?"""
    sites = [i for r in d.reads for i in r.index if axis in i.names() or lane.name in i.names()]
    return bool(sites) and all(i.coefficient(axis) == lane.extent * i.coefficient(lane.name) != 0 for i in sites)


def _fusible(d: Definition) -> bool:
    """Is every term of a sum one product of floats (or left out)?"""
    if d.reducer is None or isinstance(d.reducer, Monoid) or d.reducer.combine != "add":
        return False
    if d.body.dtype not in (dtypes.float32, dtypes.float64):
        return False
    return product_of(d.body) is not None


def factors(term: Expr) -> tuple[Expr, Expr]:
    """What the product is made of that a term is, where conditions leave it out both 0."""
    if isinstance(term, Op) and term.name == "select":
        condition, then, _ = term.args
        left, right = factors(then)
        zero = expr.constant(0, term.dtype)
        return expr.select(condition, left, zero), expr.select(condition, right, zero)
    if not (isinstance(term, Op) and term.name == "mul"):
        raise InternalError(f"{term} is added to a sum of products")
    return term.args[0], term.args[1]


def product_of(term: Expr) -> Op | None:
    """The product that a term is, without the conditions under which it counts; None where it is none."""
    while isinstance(term, Op) and term.name == "select" and isinstance(term.args[2], expr.Const):
        term = term.args[1]
    return term if isinstance(term, Op) and term.name == "mul" and term.dtype.is_float else None
