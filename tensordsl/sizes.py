"""Sizes that are known only when a kernel is called.

A `Size` is an integer to the code that passes sizes on; its arithmetic stays symbolic.  A question
about it is answered where every size that the assumptions allow has the same answer, and raises
`DependsOnSizes` where not: no code can mistake one size for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tensordsl.affine import Affine, Dim, Quasi, interval, product
from tensordsl.errors import ProgramError


class DependsOnSizes(ProgramError):
    """The answer is another one for other sizes."""


class Size(int):
    """An affine expression in dimensions (a product of them in strides and counts of elements)."""

    affine: Affine

    def __new__(cls, affine: Affine) -> Size:
        self = int.__new__(cls, 1 << 62)  # what is used as a number by mistake is too large for anything
        self.affine = affine
        return self

    def at(self, sizes: Mapping[str, int]) -> int:
        """The value for some values of the dimensions."""
        return self.affine.evaluate(variables_of(self.affine, sizes))

    def __add__(self, other: Any) -> Any:
        return self.affine + other if isinstance(other, Affine) else _arithmetic("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return _arithmetic("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self.affine - other if isinstance(other, Affine) else _arithmetic("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _arithmetic("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return product(self.affine, other) if isinstance(other, Affine) else _arithmetic("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _arithmetic("mul", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _arithmetic("floordiv", self, other)

    def __mod__(self, other: Any) -> Any:
        return _arithmetic("mod", self, other)

    def __truediv__(self, other: Any) -> Any:
        return _scalar("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _scalar("div", other, self)

    def __rfloordiv__(self, other: Any) -> Any:
        return _arithmetic("floordiv", other, self)

    def __rmod__(self, other: Any) -> Any:
        return _arithmetic("mod", other, self)

    def __neg__(self) -> Any:
        return made(-self.affine)

    def __abs__(self) -> int:
        return self if self >= 0 else -self

    def __eq__(self, other: object) -> bool:
        """Equal for all sizes?"""
        return isinstance(other, Size) and self.affine == other.affine

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.affine)

    def __lt__(self, other: int) -> bool:
        return _holds("<", self, other)

    def __le__(self, other: int) -> bool:
        return _holds("<=", self, other)

    def __gt__(self, other: int) -> bool:
        return _holds(">", self, other)

    def __ge__(self, other: int) -> bool:
        return _holds(">=", self, other)

    def __bool__(self) -> bool:
        return _holds(">", self, 0)

    def __int__(self) -> int:
        raise DependsOnSizes(f"the size {self} is known only at the call", hint="bind the dimension to a number")

    def __float__(self) -> float:
        return float(int(self))

    def bit_length(self) -> int:
        return int(self)

    def __reduce__(self) -> Any:
        return Size, (self.affine,)

    def __str__(self) -> str:
        return str(in_dimensions(self.affine, fractions=True))

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def _no_number(self: Size, *arguments: object) -> int:
    return int(self)


for _name in (
    "pow", "rpow", "divmod", "rdivmod", "lshift", "rlshift", "rshift", "rrshift", "and", "rand", "or", "ror", "xor",
    "rxor", "invert", "round", "trunc", "floor", "ceil", "index",
):  # fmt: skip
    setattr(Size, f"__{_name}__", _no_number)


def made(a: Affine) -> int:
    """The size with this value: an ordinary integer where it is one."""
    return a.const if a.is_constant else Size(a)


def _arithmetic(name: str, left: Any, right: Any) -> Any:
    if not (isinstance(left, int) and isinstance(right, int)):
        return _scalar(name, left, right)
    a, b = Affine.of(left), Affine.of(right)
    match name:
        case "add":
            return made(a + b)
        case "sub":
            return made(a - b)
        case "mul":
            return made(product(a, b))
    if not b.is_constant or b.const < 1:
        raise DependsOnSizes(f"the size {left} {'//' if name == 'floordiv' else '%'} {right} is not affine")
    return made(a // b.const if name == "floordiv" else a % b.const)


def _scalar(name: str, left: Any, right: Any) -> Any:
    """Arithmetic with what is no integer: a scalar expression."""
    from tensordsl import expr

    if not all(isinstance(x, (int, float, expr.Expr)) for x in (left, right)):
        return NotImplemented
    return expr.binary(name, left, right)


def _holds(sign: str, left: int, right: int) -> bool:
    """Does ``left sign right`` hold, for all sizes or for none?"""
    a, b = Affine.of(left), Affine.of(right)
    distance = {"<": b - a - 1, "<=": b - a, ">": a - b - 1, ">=": a - b}[sign]  # >= 0 where it holds
    if _never_negative(distance):
        return True
    if _never_negative(-distance - 1):
        return False
    if RELATIONS.get():
        from tensordsl import any_size

        for answer, fact in ((True, distance), (False, -distance - 1)):
            if any_size.refuted((-fact - 1, *RELATIONS.get())):
                return answer
    raise DependsOnSizes(
        f"whether {left} {sign} {right} depends on the sizes",
        hint='assume what holds, as in "x: float32[N]; N >= 1", or bind the dimension to a number',
    )


def _never_negative(a: Affine) -> bool:
    """Is it proven, by the ranges of the dimensions and by ``x - n < n * (x // n) <= x``?"""
    loose = Affine((), a.const)
    for atom, c in a.terms:
        if isinstance(atom, Quasi) and atom.kind == "div" and c % atom.by == 0:
            k = c // atom.by
            loose = loose + atom.argument * k - max(0, k) * (atom.by - 1)
        else:
            loose = loose + Affine(((atom, c),))
    return any(low is not None and low >= 0 for low, _ in (interval(x, {}) for x in (a, loose)))


def variables_of(a: Affine, sizes: Mapping[str, int]) -> dict[str, int]:
    """The values of the variables of a size, for values of the dimensions."""
    found = [n for n in a.names() if isinstance(n, Dim)]
    missing = [d.name for d in found if d.name not in sizes]
    if missing:
        raise ProgramError(f"no size for {missing[0]}")
    return {d: (sizes[d.name] - d.rest) // d.by for d in found}


def dims_of(values: Iterable[int]) -> list[Dim]:
    """The variables of sizes, each once, in order."""
    found: dict[str, Dim] = {}
    for v in values:
        for atom, _ in Affine.of(v).terms:
            for n in [atom] if isinstance(atom, str) else sorted(atom.names()):
                if isinstance(n, Dim):
                    found.setdefault(n, n)
    return list(found.values())


def is_linear(a: Affine) -> bool:
    quasis = [x for x, _ in a.terms if isinstance(x, Quasi)]
    return all(x.kind != "mul" and is_linear(x.argument) for x in quasis)


def in_dimensions(a: Affine, fractions: bool = False) -> Affine:
    """``8*N//8``, where 8 divides N, is N; with fractions, for people only, ``4*N//8`` is N//2."""
    total = Affine((), a.const)
    for atom, c in a.terms:
        if isinstance(atom, Dim) and atom.by > 1 and c % atom.by == 0:
            total = total + (Affine.of(atom.name) - atom.rest) * (c // atom.by)
        elif fractions and isinstance(atom, Dim) and c > 1 and atom.by % c == 0 and not atom.rest:
            total = total + Affine.of(f"{atom.name}//{atom.by // c}")
        else:
            total = total + Affine(((atom, c),))
    return total


def clash(axes: Iterable[tuple[str, int]]) -> str | None:
    """An axis (name, extent) that has the name of a dimension, if there is one."""
    found = list(axes)
    names = {n for d in dims_of(e for _, e in found) for n in (str(d), d.name)}
    return next((name for name, _ in found if name in names), None)


# ---------------------------------------------------------------- assumptions

_ASSUMPTION = re.compile(r"\s*(?:(?P<sign>>=|<=|==|>|<)\s*(?P<bound>\d+)|%\s*(?P<by>\d+)\s*==\s*(?P<rest>\d+))\s*")


def dim(name: str, *assumptions: str) -> Size:
    """A size that is known only at the call, and what may be assumed of it.

    assumptions: ``">= 1"``, ``"<= 4096"``, ``"% 8 == 0"``; sizes are never negative.  The dimension
    stands in shapes like an integer.  Raises ProgramError for what cannot be read, or for
    assumptions that no size fulfils.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ProgramError(f"{name!r} is not the name of a dimension", hint="use letters, digits and underscores")
    least, most, by, rest = 0, None, 1, 0
    for text in assumptions:
        found = _ASSUMPTION.fullmatch(text)
        if found is None:
            raise ProgramError(
                f"{text!r} is not an assumption about {name}", legal='such as ">= 1", "<= 4096", "% 8 == 0"'
            )
        if found["by"]:
            if by != 1:
                raise ProgramError(f"two remainders are assumed of {name}", hint="give the one that implies both")
            by, rest = int(found["by"]), int(found["rest"])
            if by < 1 or rest >= by:
                raise ProgramError(f"{text!r}: no size of {name} has this remainder")
            continue
        bound = int(found["bound"])
        if found["sign"] in (">=", ">", "=="):
            least = max(least, bound + (found["sign"] == ">"))
        if found["sign"] in ("<=", "<", "=="):
            most = min(bound - (found["sign"] == "<"), bound if most is None else most)
    d = Dim(name, least, most, by, rest)
    if d.most is not None and d.most < d.least:
        raise ProgramError(f"no size of {name} fulfils the assumptions {', '.join(assumptions)}")
    return Size(Affine(((d, d.by),), d.rest))


#: What is assumed of several dimensions at once (each ``>= 0``) while a program is being written.
RELATIONS: ContextVar[tuple[Affine, ...]] = ContextVar("tensordsl_relations", default=())


@contextmanager
def assuming(relations: tuple[Affine, ...]) -> Iterator[None]:
    """What a program assumes of several dimensions at once answers questions about sizes inside the block."""
    token = RELATIONS.set(relations)
    try:
        yield
    finally:
        RELATIONS.reset(token)


def unproven(condition: Affine) -> str | None:
    """Sizes for which a condition (``>= 0``) fails, in words; None: it holds for all that are assumed."""
    from tensordsl import bounds

    low, _ = interval(condition, {})
    if low is not None and low >= 0:
        return None
    facts = (-condition - 1, *RELATIONS.get())
    found = bounds.satisfiable(facts, {})
    if found.possible is False:
        return None
    return in_words(found.point or {}) if found.point is not None else "it is not proven for all sizes"


def in_words(point: Mapping[str, int]) -> str:
    """A counterexample: the dimensions first, by their own names and values."""
    named = [(n.name, v * n.by + n.rest) if isinstance(n, Dim) else (n, v) for n, v in point.items()]
    sizes = [n for n, (key, _) in zip(named, point.items()) if isinstance(key, Dim)]
    rest = [n for n in named if n not in sizes]
    return "when " + ", ".join(f"{n} = {v}" for n, v in [*sizes, *rest])


def likely(value: int) -> int:
    """A number in the place of a size, to choose tiles for."""
    return value.affine.evaluate({d: d.likely for d in dims_of([value])}) if isinstance(value, Size) else value


def greatest(value: int) -> int | None:
    """An upper bound of a size, None where it has none."""
    return interval(Affine.of(value), {})[1]


def at_most(value: int, limit: int) -> bool:
    """Is it proven that ``value <= limit``, whatever the sizes are?"""
    return _never_negative(Affine.of(limit) - value)


def larger(a: int, b: int) -> int:
    """A size that is at least as large as both: the sum where it depends which one is larger."""
    try:
        return max(a, b)
    except DependsOnSizes:
        return a + b
