"""From `Affine` to isl: sets, maps and orders over unnamed tuples, built without any parsing.

A point of an instance space is a tuple of values, one per name of ``dims``.  Building is cached by
structure, because neighbouring nests of one schedule share most of their expressions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import islpy as isl

from tensordsl.affine import Affine, Datum, Quasi
from tensordsl.errors import InternalError

Dims = tuple[str, ...]
CONTEXT = isl.DEFAULT_CONTEXT
IN = isl.dim_type.in_
OUT = isl.dim_type.out
SET = isl.dim_type.set
_CACHED = 1 << 15  # entries; a nest needs a few hundred


class Undecided(Exception):
    """isl used up its allowance of operations."""


@contextmanager
def operations(limit: int) -> Iterator[None]:
    """Allow isl at most `limit` elementary operations (about 1 us each) inside the block; 0: no limit.

    Raises Undecided where they do not suffice.  The context stays usable.
    """
    CONTEXT.set_max_operations(limit)
    CONTEXT.reset_operations()
    try:
        yield
    except isl.Error as error:
        if _exhausted():
            raise Undecided(str(error)) from None
        raise InternalError(f"isl: {error}") from error
    finally:
        CONTEXT.set_max_operations(0)
        CONTEXT.reset_operations()


def _exhausted() -> bool:
    """Is the allowance used up?  The error that comes of it may say anything."""
    try:
        isl.Val(1)
    except isl.Error:
        return True
    return False


@lru_cache(maxsize=64)
def space(n: int) -> isl.Space:
    """The unnamed space of n-tuples."""
    return isl.Space.set_alloc(CONTEXT, 0, n)


@lru_cache(maxsize=64)
def _zero(n: int) -> isl.Aff:
    return isl.Aff.zero_on_domain(isl.LocalSpace.from_space(space(n)))


@lru_cache(maxsize=_CACHED)
def aff(e: Affine, dims: Dims) -> isl.Aff:
    """The expression as a function of a point of ``dims``; a number read from memory is a dimension named
    like its text."""
    a = _zero(len(dims))
    if e.const:
        a = a.set_constant_val(e.const)
    for atom, coefficient in e.terms:
        if not isinstance(atom, Quasi):
            a = a.set_coefficient_val(IN, dims.index(str(atom)), coefficient)
            continue
        part = aff(atom.argument, dims)
        part = part.mod_val(atom.by) if atom.kind == "mod" else part.scale_down_val(atom.by).floor()
        a = a.add(part if coefficient == 1 else part.scale_val(coefficient))
    return a


@lru_cache(maxsize=_CACHED)
def multi(exprs: tuple[Affine, ...], dims: Dims) -> isl.MultiAff:
    """Several expressions as one function from a point of ``dims`` to a tuple."""
    m = isl.MultiAff.zero(isl.Space.alloc(CONTEXT, 0, len(dims), len(exprs)))
    for i, e in enumerate(exprs):
        m = m.set_aff(i, aff(e, dims))
    return m


@lru_cache(maxsize=_CACHED)
def where(conditions: tuple[Affine, ...], dims: Dims) -> isl.Set:
    """The points where every condition is ``>= 0``."""
    s = isl.BasicSet.universe(space(len(dims)))
    for c in conditions:
        s = s.add_constraint(isl.Constraint.inequality_from_aff(aff(c, dims)))
    return s.to_set()


@lru_cache(maxsize=_CACHED)
def zero(e: Affine, dims: Dims) -> isl.Set:
    """The points where the expression is 0."""
    s = isl.BasicSet.universe(space(len(dims)))
    return s.add_constraint(isl.Constraint.equality_from_aff(aff(e, dims))).to_set()


def box(names: Sequence[str], extents: Sequence[int]) -> tuple[Affine, ...]:
    """The conditions ``0 <= name < extent``."""
    found: list[Affine] = []
    for name, extent in zip(names, extents):
        v = Affine.of(name)
        found += (v, extent - 1 - v)
    return tuple(found)


def with_data(domain: isl.Set, dims: Dims, exprs: Iterable[Affine]) -> tuple[isl.Set, Dims]:
    """The domain with a dimension for each number that the expressions read from memory.

    All values of its range are there: which one it is, nobody knows.
    """
    new = {str(d): d for e in exprs for d in e.data() if str(d) not in dims}
    if not new:
        return domain, dims
    known = (*dims, *new)
    bounds: list[Affine] = []
    for d in new.values():
        v = Affine(((d, 1),))
        bounds += (v - d.low, d.high - v)
    return domain.add_dims(SET, len(new)).intersect(where(tuple(bounds), known)), known


def data_of(exprs: Iterable[Affine]) -> tuple[Datum, ...]:
    """The different numbers that some expressions read from memory."""
    return tuple({str(d): d for e in exprs for d in e.data()}.values())


def named(names: Iterable[str]) -> tuple[Affine, ...]:
    return tuple([Affine.of(n) for n in names])


@lru_cache(maxsize=_CACHED)
def ordered(first: Dims, second: Dims, names: Dims, strict: bool, backwards: bool) -> isl.Map:
    """Pairs (x in ``first``, y in ``second``) with x before y in the lexicographic order of ``names``.

    backwards: y before x instead.
    """
    s = space(len(names))
    if backwards:
        order = isl.Map.lex_gt(s) if strict else isl.Map.lex_ge(s)
    else:
        order = isl.Map.lex_lt(s) if strict else isl.Map.lex_le(s)
    exprs = named(names)
    return order.preimage_domain_multi_aff(multi(exprs, first)).preimage_range_multi_aff(multi(exprs, second))


def point(s: isl.Set, dims: Dims) -> dict[str, int]:
    """The lexicographically least point of a bounded non-empty set, by name."""
    p = s.lexmin().sample_point()
    return coordinates(p, dims)


def coordinates(p: isl.Point, dims: Dims) -> dict[str, int]:
    return {v: p.get_coordinate_val(SET, i).to_python() for i, v in enumerate(dims)}


def fixed(m: isl.Map, dims: Dims, env: dict[str, int]) -> isl.Map:
    """The map with its domain restricted to one point."""
    for i, v in enumerate(dims):
        m = m.fix_val(IN, i, env[v])
    return m
