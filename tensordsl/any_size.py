"""Can a set of affine conditions hold for some sizes that are known only at the call?

A proof takes the sizes as unknowns (see `bounds.contradictory`); a counterexample is looked for among
small sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tensordsl import bounds
from tensordsl.affine import Affine, Dim, Interval, interval
from tensordsl.bounds import Answer
from tensordsl.sizes import RELATIONS, Size

#: Values tried of each dimension, from the least on, as many as the number of points allows.
_TRIED = (40, 12, 5, 3, 2)


def has_sizes(conditions: Sequence[Affine], ranges: Mapping[str, Interval]) -> bool:
    names = frozenset[str]().union(*(c.names() for c in conditions))
    return any(isinstance(n, Dim) or isinstance(ranges.get(n, (0, 0))[1], Size) for n in names)


def refuted(conditions: Sequence[Affine]) -> bool:
    """Is it proven that conditions on sizes alone never hold together?"""
    box: dict[str, Interval] = {n: (n.least, n.most) for n in _names(conditions) if isinstance(n, Dim)}
    return bounds.excluded(conditions, box) or bounds.contradictory(conditions, box)


def satisfiable(conditions: Sequence[Affine], ranges: Mapping[str, Interval]) -> Answer:
    """`bounds.satisfiable` where conditions or ranges depend on sizes."""
    rows = [*conditions, *RELATIONS.get()]
    box: dict[str, Interval] = {}
    for n in _names(rows):
        if isinstance(n, Dim):
            continue
        low, high = ranges[n]
        if isinstance(high, Size):
            rows.append(high.affine - Affine.of(n))
            high = None
        box[n] = low, high
    dims: dict[str, tuple[int, int | None]] = {n: (n.least, n.most) for n in _names(rows) if isinstance(n, Dim)}
    box |= dims
    if bounds.excluded(rows, box) or bounds.contradictory(rows, box):
        return Answer(False)
    for count in _TRIED:
        small = {d: (a, a + count - 1 if b is None else min(b, a + count - 1)) for d, (a, b) in dims.items()}
        sides: dict[str, tuple[int, int]] = dict(small)
        for n, (low, high) in box.items():
            if n not in small:
                most = ranges[n][1]
                high = interval(most.affine, small)[1] if isinstance(most, Size) else high
                sides[n] = low or 0, max(low or 0, high or 0)
        points = 1
        for a, b in sides.values():
            points *= b - a + 1
        if points <= bounds.ENUMERATED:
            found = bounds.enumerate_points(rows, sides)
            return found if found.possible else Answer(None)
    return Answer(None)


def _names(rows: Sequence[Affine]) -> list[str]:
    return sorted(frozenset[str]().union(*(c.names() for c in rows)))
