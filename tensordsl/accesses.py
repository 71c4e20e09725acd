"""Where an expression reads: its sources replaced, those that are read in indices included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tensordsl.affine import Affine, Datum
from tensordsl.expr import Expr, Index, Read, transform

Access = Callable[[Any, tuple[Affine, ...]], "tuple[Any, tuple[Affine, ...]] | None"]


def map_accesses(e: Expr, f: Access) -> Expr:
    """The expression with some reads, those in indices included, from other places.

    f: source and index (done already) -> the new ones, or None to keep them.
    """

    def go(x: Expr) -> Expr | None:
        if isinstance(x, Read):
            index = map_index_accesses(x.index, f)
            new = f(x.source, index)
            if new is not None:
                return Read(new[0], new[1], x.location)
            return None if index is x.index else replace(x, index=index)
        if isinstance(x, Index):
            [affine] = map_index_accesses((x.affine,), f)
            return None if affine is x.affine else Index(affine, x.dtype)
        return None

    return transform(e, go)


def map_index_accesses(indices: tuple[Affine, ...], f: Access) -> tuple[Affine, ...]:
    """Index expressions with some of the numbers that they read from other places."""

    def datum(d: Datum) -> Affine:
        new = f(d.source, d.index)
        return Affine(((d if new is None else replace(d, source=new[0], index=new[1]), 1),))

    found = tuple([i.map_data(datum) for i in indices])
    return indices if all(a is b for a, b in zip(found, indices)) else found


def map_sources(e: Expr, f: Callable[[Any], Any]) -> Expr:
    """The expression with other tensors or buffers in its reads, those in indices included."""
    return map_accesses(e, lambda source, index: (f(source), index))


def map_index_sources(indices: tuple[Affine, ...], f: Callable[[Any], Any]) -> tuple[Affine, ...]:
    """Index expressions with other tensors or buffers."""
    return map_index_accesses(indices, lambda source, index: (f(source), index))


@dataclass(frozen=True, slots=True)
class _Name:
    """A source of which only the name counts."""

    name: str


def names_only(indices: tuple[Affine, ...]) -> tuple[Affine, ...]:
    """Index expressions in which a source is its name."""
    return map_index_sources(indices, lambda source: _Name(source.name))
