"""States of several values, and monoids over them: what a reduction by a user's reducer is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from tensordsl import dtypes
from tensordsl.dtypes import DType
from tensordsl.expr import Expr, Op, Read, structure, transform


def pack(parts: Sequence[Expr]) -> Expr:
    """Several values as one."""
    return Op("tuple", tuple(parts), dtypes.tuple_type(tuple([p.dtype for p in parts])))


def part(e: Expr, n: int) -> Expr:
    """One component of a tuple of values; of a single value, the value."""
    if not isinstance(e.dtype, dtypes.TupleType):
        return e
    return e.args[n] if isinstance(e, Op) and e.name == "tuple" else Op(f"part{n}", (e,), e.dtype.parts[n])


@dataclass(frozen=True, slots=True)
class Slot:
    """What a combination reads: the state on one of its sides, without a place in memory."""

    name: str
    dtype: DType
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Combination:
    """How two states become one: ``value`` reads the states ``left`` and ``right``.

    name: what a user calls it; it has no meaning.
    """

    name: str
    left: Slot
    right: Slot
    value: Expr

    def of(self, left: Expr, right: Expr) -> Expr:
        """The combination of two states."""
        sides = {id(self.left): left, id(self.right): right}
        return transform(self.value, lambda e: sides.get(id(e.source)) if isinstance(e, Read) else None)


#: How a reduction combines: an operation by its name, or a combination of states.
Combine = Union[str, Combination]


@dataclass(frozen=True, slots=True, eq=False)
class Monoid:
    """A reducer defined by a user: an associative combination with its identity (see monoids.py).

    commutative: may the terms be taken in any order?
    """

    name: str
    combine: Combination
    unit: Expr
    commutative: bool = True

    def identity(self, t: DType) -> Expr:
        return self.unit

    @property
    def key(self) -> str:
        """A text equal for monoids of equal structure."""
        return repr((structure(self.combine.value), structure(self.unit), self.commutative))
