"""Can a set of affine conditions hold on a domain?  And with it: are all reads of a definition in bounds?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensordsl import conditions, expr
from tensordsl.affine import Affine, Dim, Interval, Quasi, interval, without_data
from tensordsl.errors import ProgramError
from tensordsl.expr import Axis, Expr, Index, Read, Reduce
from tensordsl.sizes import in_words
from tensordsl.tensor import Tensor

if TYPE_CHECKING:
    from tensordsl.arithmetic import Array

#: Points that are enumerated where intervals and corners do not decide.
ENUMERATED = 1 << 20
_CORNERS = 4096
#: Nodes under different conditions that are told apart.
CASES = 1000
#: Sums that may be formed to eliminate one variable.
_MOST_PAIRS = 400


def guarded_reads(body: Expr) -> list[tuple[Read, tuple[Affine, ...]]]:
    """Each read with the affine conditions (each ``>= 0``) of the selects around it; one that is needed in
    several cases is listed with each."""
    found: list[tuple[Read, tuple[Affine, ...]]] = []
    seen: set[tuple[int, tuple[Affine, ...]]] = set()

    def go(e: Expr, given: tuple[Affine, ...]) -> None:
        if (id(e), given) in seen:
            return
        seen.add((id(e), given))
        if isinstance(e, Read):
            found.extend((r, given) for r in (*expr.data_reads(e.index, e.location), e))
            return
        if isinstance(e, Index):
            found.extend((r, given) for r in expr.data_reads((e.affine,)))
        for child, facts in conditions.guarded_children(e, given, len(seen) < CASES):
            go(child, facts)

    go(body, ())
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """possible: True (at ``point``), False (proven), or None (undecided)."""

    possible: bool | None
    point: Mapping[str, int] | None = None

    def __str__(self) -> str:
        return in_words(self.point) if self.point else "always"


def satisfiable(conditions: Sequence[Affine], ranges: Mapping[str, Interval]) -> Answer:
    """Is there a point of the box where every condition is ``>= 0``?  The variables have finite ranges.

    Intervals of the conditions and of their sums, then corners, then elimination of the variables, then,
    on small domains, every point.
    """
    from tensordsl import any_size

    conditions, ranges = without_data(conditions, ranges)
    if any_size.has_sizes(conditions, ranges):
        return any_size.satisfiable(conditions, ranges)
    if excluded(conditions, ranges):
        return Answer(False)
    names = sorted(frozenset[str]().union(*(c.names() for c in conditions)))
    if not names:
        return Answer(True, {})
    sides = [(lo or 0, hi or 0) for lo, hi in (ranges[n] for n in names)]
    for corner in itertools.islice(itertools.product(*sides), _CORNERS):
        point = dict(zip(names, corner))
        if all(c.evaluate(point) >= 0 for c in conditions):
            return Answer(True, point)
    if contradictory(conditions, ranges):
        return Answer(False)
    if math.prod(hi - lo + 1 for lo, hi in sides) > ENUMERATED:
        return Answer(None)
    return enumerate_points(conditions, dict(zip(names, sides)))


def excluded(conditions: Sequence[Affine], ranges: Mapping[str, Interval]) -> bool:
    """If all conditions hold, so does every sum of them: is one of them negative everywhere?"""
    sums = [*conditions, *(a + b for a, b in itertools.combinations(conditions[:8], 2)), sum(conditions, Affine())]
    return any(high is not None and high < 0 for _, high in (interval(s, ranges) for s in sums))


def contradictory(conditions: Sequence[Affine], ranges: Mapping[str, Interval]) -> bool:
    """Does a combination of the conditions and ranges say ``negative >= 0``?

    Variables are eliminated one after the other by adding a bound from below to one from above (J. Fourier,
    T. Motzkin); divisions and remainders count as variables of their own.
    """
    rows = {_tightened(c) for c in conditions}
    atoms = {atom for c in conditions for atom, _ in c.terms}
    for atom in atoms:
        part = Affine(((atom, 1),))
        low, high = interval(part, ranges)
        rows |= {part - low} if low is not None else set()
        rows |= {high - part} if high is not None else set()
    while atoms:
        signs = {a: [r.coefficient(a) for r in rows] for a in atoms}
        pairs = {a: sum(c > 0 for c in cs) * sum(c < 0 for c in cs) for a, cs in signs.items()}
        atom = min(sorted(atoms, key=str), key=lambda a: pairs[a])
        if pairs[atom] > _MOST_PAIRS:
            return False
        atoms.discard(atom)
        above = [(r, r.coefficient(atom)) for r in rows if r.coefficient(atom) > 0]
        below = [(r, -r.coefficient(atom)) for r in rows if r.coefficient(atom) < 0]
        rows = {r for r in rows if not r.coefficient(atom)}
        rows |= {_tightened(a * d + b * c) for a, c in above for b, d in below}
        if any(r.is_constant and r.const < 0 for r in rows):
            return True
    return False


def _tightened(row: Affine) -> Affine:
    """``row >= 0`` for integers: divided by what all coefficients have in common."""
    common = math.gcd(*(c for _, c in row.terms))
    return Affine(tuple((a, c // common) for a, c in row.terms), row.const // common) if common > 1 else row


def enumerate_points(conditions: Sequence[Affine], sides: dict[str, tuple[int, int]]) -> Answer:
    import numpy as np

    shape = tuple(hi - lo + 1 for lo, hi in sides.values())
    axes = {
        n: np.arange(lo, hi + 1).reshape([-1 if i == d else 1 for i in range(len(sides))])
        for d, (n, (lo, hi)) in enumerate(sides.items())
    }

    def value(a: Affine) -> Array:
        total: Array = np.full((1,) * len(sides), a.const)
        for atom, coefficient in a.terms:
            if isinstance(atom, Quasi):
                inner = value(atom.argument)
                total = total + coefficient * (inner // atom.by if atom.kind == "div" else inner % atom.by)
            else:
                total = total + coefficient * axes[str(atom)]
        return total

    holds: Array = np.full((1,) * len(sides), True)
    for c in conditions:
        holds = holds & (value(c) >= 0)
    if not holds.any():
        return Answer(False)
    at = np.argwhere(np.broadcast_to(holds, shape))[0]
    return Answer(True, {n: lo + int(i) for (n, (lo, _)), i in zip(sides.items(), at)})


def ranges_of(tensor: Tensor) -> dict[str, Interval]:
    """The ranges of all axes of a definition."""
    d = tensor.definition
    assert d is not None
    return {a.name: (0, a.extent - 1) for a in d.axes + d.reduce_axes}


def check(tensor: Tensor) -> None:
    """Raises ProgramError with a counterexample for the first read that can be out of bounds.

    What stays open on large domains with interacting conditions is decided exactly when a nest is
    validated, and by the interpreter.
    """
    from tensordsl import any_size

    d = tensor.definition
    assert d is not None
    if any(a.extent == 0 for a in d.axes + d.reduce_axes):
        return
    ranges = ranges_of(tensor)
    for read, given in guarded_reads(d.body):
        for dim, (index, size) in enumerate(zip(read.index, read.source.shape)):
            if not any_size.has_sizes((index - size,), ranges):
                low, high = interval(index, ranges)
                if low is not None and high is not None and low >= 0 and high < size:
                    continue
            for fault in (-index - 1, index - size):  # >= 0 where the read is out of bounds
                found = satisfiable((fault, *given), ranges)
                if found.point is not None:
                    raise ProgramError(
                        f"{tensor.name}: index {index} of {read.source.name} (dimension {dim}) is out of bounds: "
                        f"{index.evaluate(found.point)} is outside 0..{Affine.of(size).evaluate(found.point) - 1}",
                        location=read.location,
                        counterexample=str(found),
                        hint="guard the read with td.select, clamp the index with td.clip, or change the shape"
                        if any(True for _ in index.data())
                        else "guard the read with td.select, or change the shape",
                    )


def inside(e: Reduce, around: Sequence[Axis]) -> bool:
    """Is every read of a reduction in bounds without what is known around it?"""
    nested = [a for x in expr.walk(e) if isinstance(x, Reduce) for a in x.axes]
    ranges: dict[str, Interval] = {a.name: (0, a.extent - 1) for a in (*around, *nested)}
    return all(
        satisfiable((fault, *given), ranges).possible is False
        for read, given in guarded_reads(e)
        for index, size in zip(read.index, read.source.shape)
        if {n for n in index.names() if not isinstance(n, Dim)} <= ranges.keys()
        for fault in (-index - 1, index - size)
    )
