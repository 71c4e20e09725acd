"""A program for all sizes, at some of them: which sizes arrays have, whether they are legal, and the
program with numbers in the place of its dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tensordsl import accesses, expr
from tensordsl.affine import Affine, Dim
from tensordsl.errors import ProgramError, closest
from tensordsl.expr import Axis, Const, Expr, Index, Op
from tensordsl.sizes import Size, in_dimensions, variables_of
from tensordsl.tensor import Tensor

if TYPE_CHECKING:
    from tensordsl.program import Program


def assumptions(d: Dim) -> list[tuple[str, bool]]:
    """What is assumed of a dimension beyond that it is a size: each a text, and is it a remainder?"""
    found = []
    if d.by > 1:
        found.append((f"{d.name} % {d.by} == {d.rest}", True))
    if d.least * d.by + d.rest > d.rest:
        found.append((f"{d.name} >= {d.least * d.by + d.rest}", False))
    if d.most is not None:
        found.append((f"{d.name} <= {d.most * d.by + d.rest}", False))
    return found


def guard_texts(program: Program) -> list[str]:
    """Every assumption of a program, in words."""
    own = [text for d in program.free for text, _ in assumptions(d)]
    return own + [relation_text(r) for r in program.relations]


def relation_text(r: Affine) -> str:
    """``r >= 0`` with its positive terms on the left: ``M >= N + 3``."""
    a = in_dimensions(r)
    left = Affine(tuple((x, c) for x, c in a.terms if c > 0), max(0, a.const))
    return f"{left} >= {left - a}"


def violated(program: Program, sizes: Mapping[str, int]) -> str | None:
    """The first assumption that some sizes do not fulfil, None for legal sizes."""
    for d in program.free:
        n = sizes[d.name]
        if n < 0:
            return f"{d.name} >= 0"
        legal = {
            f"{d.name} % {d.by} == {d.rest}": n % d.by == d.rest,
            f"{d.name} >= {d.least * d.by + d.rest}": n >= d.least * d.by + d.rest,
            f"{d.name} <= {(d.most or 0) * d.by + d.rest}": d.most is None or n <= d.most * d.by + d.rest,
        }
        for text, holds in legal.items():
            if not holds:
                return text
    for r in program.relations:
        if r.evaluate(variables_of(r, sizes)) < 0:
            return relation_text(r)
    return None


def require_legal(program: Program, sizes: Mapping[str, int]) -> None:
    """Raises ProgramError where an assumption of the program fails."""
    wrong = violated(program, sizes)
    if wrong is not None:
        at = ", ".join(f"{n} = {v}" for n, v in sizes.items())
        raise ProgramError(f"{program.name} assumes {wrong}, but {at}", legal=", ".join(guard_texts(program)) or None)


def sizes_of(
    program: Program, shapes: Sequence[tuple[Tensor, Sequence[int]]], pitches: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The sizes of the dimensions that give the tensors of a program these shapes.

    pitches: elements between rows, of the inputs where they are no dimension of their own (by name).
    Raises ProgramError where the shapes contradict each other or an assumption.
    """
    for t, shape in shapes:
        if len(shape) != t.ndim:
            raise ProgramError(f"{program.name}: {t} got an array of shape {list(shape)}")
    found: dict[str, int] = {}
    origin: dict[str, str] = {}
    known = {n for t, _ in shapes for e in t.shape if isinstance(e, Size) for n in in_dimensions(e.affine).names()}
    for _ in known:  # an extent of several dimensions is solved once the others are known
        for t, shape in shapes:
            for d, (e, n) in enumerate(zip(t.shape, shape)):
                _solve(e, n, found, origin, f"dimension {d} of {t.name}")
    for t, shape in shapes:
        if isinstance(t.pitch, Size):
            _solve(t.pitch, (pitches or {}).get(t.name, shape[-1]), found, origin, f"the rows of {t.name}")
    for size in program.free:
        if size.name not in found:
            raise ProgramError(
                f"{program.name}: the shapes of its inputs do not say what {size.name} is",
                hint=f"give an input whose size is {size.name} alone, or bind {size.name}",
            )
    sizes = {d.name: found[d.name] for d in program.free}
    require_legal(program, sizes)
    for t, shape in shapes:
        for d, (e, n) in enumerate(zip(t.shape, shape)):
            needed = e.at(sizes) if isinstance(e, Size) else e
            if needed != n:
                why = "; ".join(f"{x} = {sizes[x]} by {origin[x]}" for x in sizes if isinstance(e, Size))
                raise ProgramError(
                    f"{program.name}: dimension {d} of {t} is {n}, where {e} is {needed}" + (f" ({why})" if why else "")
                    if isinstance(e, Size)
                    else f"{program.name}: {t} got an array of shape {list(shape)}"
                )
    return sizes


def _solve(extent: int, n: int, found: dict[str, int], origin: dict[str, str], where: str) -> None:
    if not isinstance(extent, Size):
        return
    a = in_dimensions(extent.affine)
    open_terms = [(x, c) for x, c in a.terms if not isinstance(x, str) or x not in found]
    if len(open_terms) != 1 or not isinstance(open_terms[0][0], str):
        return
    name, c = open_terms[0]
    rest = n - a.const - sum(k * found[x] for x, k in a.terms if isinstance(x, str) and x in found)
    if rest % c == 0 and isinstance(name, Dim):  # a fraction of a dimension, which it divides
        found[name.name], origin[name.name] = rest // c * name.by + name.rest, where
    elif rest % c == 0:
        found[str(name)], origin[str(name)] = rest // c, where


def at(program: Program, sizes: Mapping[str, int]) -> Program:
    """The program with numbers in the place of its dimensions.  Raises ProgramError for sizes that are
    missing, unknown, or against its assumptions."""
    from tensordsl.program import Program

    names = [d.name for d in program.free]
    for n in sizes:
        if n not in names:
            like = closest(n, names)
            raise ProgramError(
                f"{program.name} has no dimension {n!r}", legal=names, hint=f"did you mean {like!r}?" if like else None
            )
    missing = [n for n in names if n not in sizes]
    if missing:
        raise ProgramError(f"{program.name}: no size for {', '.join(missing)}")
    require_legal(program, sizes)
    env = values(program.free, sizes)
    fresh: dict[str, Tensor] = {}

    def number(e: int) -> int:
        return e.at(sizes) if isinstance(e, Size) else e

    def axes(old: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(Axis(a.name, number(a.extent)) for a in old)

    def get(t: Tensor) -> Tensor:
        if t.name not in fresh:
            fresh[t.name] = copy = replace(t, definition=None, shape=tuple(map(number, t.shape)), pitch=number(t.pitch))
            d = t.definition
            if d is not None:
                body = accesses.map_sources(expr.transform(expr.substitute(d.body, env), folded), get)
                new = replace(d, axes=axes(d.axes), reduce_axes=axes(d.reduce_axes), body=body)
                copy.definition = new
        return fresh[t.name]

    dims = {n: number(v) for n, v in program.dims.items()}
    inputs, outputs = ([get(t) for t in ts] for ts in (program.arguments, program.outputs))
    return Program(inputs, outputs, program.name, program.inplace, dims, program.rounding)


def folded(e: Expr) -> Expr | None:
    """A size that has become a number, as what it would be in a program of this size; None for all else."""
    if isinstance(e, Index) and e.affine.is_constant:
        return Const(e.affine.const, e.dtype)
    return (
        expr.cast(e.args[0], e.dtype)
        if isinstance(e, Op) and e.name == "cast" and isinstance(e.args[0], Const)
        else None
    )


def values(free: Sequence[Dim], sizes: Mapping[str, int]) -> dict[str, Affine]:
    """What each variable of a size stands for."""
    return {d: Affine((), (sizes[d.name] - d.rest) // d.by) for d in free}
