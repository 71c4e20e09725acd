"""Quasi-affine integer expressions: every index, loop bound and guard of the compiler.

An `Affine` is ``sum(coefficient * atom) + constant``.  An atom is a variable name, a `Quasi` (a floor
division or a remainder of an affine expression by a positive integer, Python's meaning: the remainder
is never negative) or a `Datum`, an integer that is read from memory and whose range is known.  Where
sizes are known only at the call (sizes.py), an address also has products of a variable and sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Union

#: The size to choose tiles for where a dimension's own is known only at the call: what fits a dimension of
#: a model's layer, and what most tiles divide.
LIKELY = 512


@dataclass(frozen=True, slots=True)
class Quasi:
    """``argument // by`` or ``argument % by``, with ``by > 1``; ``argument * by`` with a size that is
    known at the call (see `product`)."""

    kind: Literal["div", "mod", "mul"]
    argument: Affine
    by: int

    def __str__(self) -> str:
        text, sign = str(self.argument), {"div": "//", "mod": "%", "mul": "*"}[self.kind]
        alone = len(self.argument.terms) == 1 and self.argument.terms[0][1] == 1 and not self.argument.const
        plain = alone and not isinstance(self.argument.terms[0][0], Quasi)
        return f"{text if plain else f'({text})'} {sign} {self.by}"

    def names(self) -> frozenset[str]:
        own = self.argument.names()
        return own | Affine.of(self.by).names() if self.kind == "mul" else own


class Dim(str):
    """The variable of a size that is known only at the call: a name with the range of its values.

    name: the dimension it belongs to, whose value is ``by * variable + rest``.
    """

    __slots__ = ("by", "least", "most", "name", "rest")
    name: str
    by: int
    rest: int
    least: int
    most: int | None

    def __new__(cls, name: str, least: int = 0, most: int | None = None, by: int = 1, rest: int = 0) -> Dim:
        """least, most: of the dimension's values, which leave ``rest`` when divided by ``by``."""
        self = str.__new__(cls, name if by == 1 else f"{name}//{by}")
        self.name, self.by, self.rest = name, by, rest if by > 1 else 0
        self.least = max(0, -((self.rest - least) // by))
        self.most = None if most is None else (most - self.rest) // by
        return self

    @property
    def likely(self) -> int:
        """A value to choose tile sizes for."""
        return self.near(LIKELY)

    def near(self, size: int) -> int:
        """The legal value near a size of the dimension."""
        n = max(self.least, (size - self.rest) // self.by)
        return n if self.most is None else min(n, self.most)

    def __reduce__(self) -> tuple[object, ...]:
        most = None if self.most is None else self.most * self.by + self.rest
        return Dim, (self.name, self.least * self.by + self.rest, most, self.by, self.rest)


@dataclass(frozen=True, slots=True)
class Datum:
    """The element ``source[index]`` of an integer tensor or buffer, known to lie in ``low..high``.

    Two of the same text at one point of the loops are the same number, as long as nothing is written
    to the source in between.
    """

    source: Any
    index: tuple[Affine, ...]
    low: int
    high: int

    def names(self) -> frozenset[str]:
        return frozenset[str]().union(*(i.names() for i in self.index))

    def substitute(self, env: Mapping[str, Affine]) -> Datum:
        index = tuple([i.substitute(env) for i in self.index])
        return self if all(a is b for a, b in zip(index, self.index)) else replace(self, index=index)

    def __str__(self) -> str:
        return f"{self.source.name}[{', '.join(map(str, self.index))}]" if self.index else str(self.source.name)


Atom = Union[str, Quasi, Datum]
AffineLike = Union["Affine", int, str]
#: The least and greatest value, None: unbounded.
Interval = tuple[Union[int, None], Union[int, None]]


def _order(atom: Atom) -> tuple[int, str]:
    return (0, atom) if isinstance(atom, str) else (1, str(atom))


@dataclass(frozen=True, slots=True)
class Affine:
    """An immutable quasi-affine expression in canonical form (equal values compare equal)."""

    terms: tuple[tuple[Atom, int], ...] = ()
    const: int = 0

    @staticmethod
    def of(value: AffineLike) -> Affine:
        """An integer, a variable name or an `Affine` as an `Affine`."""
        if isinstance(value, Affine):
            return value
        if isinstance(value, str):
            return Affine(((value, 1),))
        return Affine((), value) if type(value) is int else _of_number(value)

    @staticmethod
    def build(coefficients: Mapping[Atom, int], const: int) -> Affine:
        items = [(a, c) for a, c in coefficients.items() if c]
        if len(items) > 1:
            items.sort(key=lambda item: _order(item[0]))
        return Affine(tuple(items), const)

    def __add__(self, other: AffineLike) -> Affine:
        if type(other) is int:
            return Affine(self.terms, self.const + other)
        other = Affine.of(other)
        if not other.terms:
            return Affine(self.terms, self.const + other.const)
        if not self.terms:
            return Affine(other.terms, self.const + other.const)
        total = dict(self.terms)
        for atom, coefficient in other.terms:
            total[atom] = total.get(atom, 0) + coefficient
        return Affine.build(total, self.const + other.const)

    __radd__ = __add__

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: AffineLike) -> Affine:
        if type(other) is int:
            return Affine(self.terms, self.const - other)
        other = Affine.of(other)
        if not other.terms:
            return Affine(self.terms, self.const - other.const)
        total = dict(self.terms)
        for atom, coefficient in other.terms:
            total[atom] = total.get(atom, 0) - coefficient
        return Affine.build(total, self.const - other.const)

    def __rsub__(self, other: AffineLike) -> Affine:
        return Affine.of(other) - self

    def __mul__(self, factor: int) -> Affine:
        if type(factor) is not int:
            return product(self, Affine.of(factor))
        if not factor:
            return ZERO
        return Affine(tuple((a, c * factor) for a, c in self.terms), self.const * factor)

    __rmul__ = __mul__

    def __floordiv__(self, by: int) -> Affine:
        """Floor division; terms whose coefficient is a multiple of ``by`` are divided exactly."""
        if by == 1:
            return self
        whole = {a: c // by for a, c in self.terms if c % by == 0}
        rest = {a: c for a, c in self.terms if c % by}
        if not rest:
            return Affine.build(whole, self.const // by)
        part = Affine.build(rest, self.const % by)
        return Affine.build({**whole, Quasi("div", part, by): 1}, self.const // by)

    def __mod__(self, by: int) -> Affine:
        """The non-negative remainder; multiples of ``by`` vanish."""
        if by == 1:
            return ZERO
        rest = {a: c % by for a, c in self.terms if c % by}
        if not rest:
            return Affine((), self.const % by)
        for atom, c in rest.items():
            if isinstance(atom, Quasi) and atom.kind == "mod" and atom.by % by == 0:  # x % 12 % 3 = x % 3
                others = {a: n for a, n in rest.items() if a is not atom}
                return (atom.argument * c + Affine.build(others, self.const)) % by
        return Affine(((Quasi("mod", Affine.build(rest, self.const % by), by), 1),))

    def recombined(self) -> Affine:
        """With ``by * (x // by) + x % by`` as x, which it is: what is left when loops were fused."""
        for rest, c in self.terms:
            if not isinstance(rest, Quasi) or rest.kind != "mod":
                continue
            for whole, k in self.terms:
                if not isinstance(whole, Quasi) or whole.kind != "div" or whole.by != rest.by or k != c * rest.by:
                    continue
                x = whole.argument  # a remainder keeps of its argument what counts for it
                if (x - rest.argument) % rest.by == ZERO:
                    return (self - Affine.build({rest: c, whole: k}, 0) + x * c).recombined()
        return self

    def coefficient(self, atom: Atom) -> int:
        """The factor of an atom (0 where it does not occur at the top level)."""
        for name, coefficient in self.terms:
            if name == atom:
                return coefficient
        return 0

    def names(self) -> frozenset[str]:
        """Every variable, those inside divisions and remainders included."""
        return frozenset(self._names())

    def _names(self) -> Iterator[str]:
        for atom, _ in self.terms:
            if isinstance(atom, str):
                yield atom
            elif isinstance(atom, Quasi):
                yield from atom.argument._names()
                if atom.kind == "mul":
                    yield from Affine.of(atom.by)._names()
            else:
                yield from atom.names()

    def data(self) -> Iterator[Datum]:
        """Every number read from memory, those inside divisions and inside the index of another included."""
        for atom, _ in self.terms:
            if isinstance(atom, Quasi):
                yield from atom.argument.data()
            elif isinstance(atom, Datum):
                for i in atom.index:
                    yield from i.data()
                yield atom

    def outer_data(self) -> Iterator[Datum]:
        """The numbers read from memory that are in no index of another one."""
        for atom, _ in self.terms:
            if isinstance(atom, Quasi):
                yield from atom.argument.outer_data()
            elif isinstance(atom, Datum):
                yield atom

    def map_data(self, f: Callable[[Datum], Affine], *, outer: bool = False) -> Affine:
        """With every `Datum` replaced; ``f`` sees it with its own index done, or as it is (outer)."""
        if not any(not isinstance(atom, str) for atom, _ in self.terms):
            return self
        total = Affine((), self.const)
        for atom, coefficient in self.terms:
            if isinstance(atom, Quasi):
                inner = atom.argument.map_data(f, outer=outer)
                if atom.kind == "mul":
                    part = product(inner, Affine.of(atom.by))
                else:
                    part = inner // atom.by if atom.kind == "div" else inner % atom.by
            elif isinstance(atom, Datum):
                part = f(atom if outer else replace(atom, index=tuple([i.map_data(f) for i in atom.index])))
            else:
                part = Affine(((atom, 1),))
            total = total + part * coefficient
        return self if total == self else total

    def substitute(self, env: Mapping[str, Affine]) -> Affine:
        """Replace variables; divisions and remainders are simplified again."""
        if not self.terms or not env:
            return self
        const, total = self.const, dict[Atom, int]()
        changed = False
        for atom, coefficient in self.terms:
            value = None
            if isinstance(atom, str):
                value = env.get(atom)
            elif isinstance(atom, Datum):
                datum = atom.substitute(env)
                if datum is not atom:
                    value = Affine(((datum, 1),))
            else:
                argument = atom.argument.substitute(env)
                if atom.kind == "mul":
                    by = Affine.of(atom.by)
                    new = by.substitute(env)
                    value = product(argument, new) if argument is not atom.argument or new is not by else None
                elif argument is not atom.argument:
                    value = argument // atom.by if atom.kind == "div" else argument % atom.by
            if value is None:
                total[atom] = total.get(atom, 0) + coefficient
                continue
            changed = True
            const += coefficient * value.const
            for inner, factor in value.terms:
                total[inner] = total.get(inner, 0) + coefficient * factor
        return Affine.build(total, const) if changed else self

    def within(self, ranges: Mapping[str, Interval]) -> Affine:
        """Without the divisions and remainders that boxes of the variables decide."""
        total = Affine((), self.const)
        for atom, coefficient in self.terms:
            part = Affine(((atom, 1),))
            if isinstance(atom, Quasi) and atom.kind != "mul":
                argument = atom.argument.within(ranges)
                low, high = interval(argument, ranges)
                known = low is not None and high is not None and low // atom.by == high // atom.by
                if known and low is not None:
                    quotient = low // atom.by
                    part = Affine((), quotient) if atom.kind == "div" else argument - quotient * atom.by
                elif argument is not atom.argument:
                    part = argument // atom.by if atom.kind == "div" else argument % atom.by
            total = total + part * coefficient
        return total

    def evaluate(self, env: Mapping[str, int]) -> int:
        """The integer value under an assignment of every variable, and of every `Datum` by its text."""
        total = self.const
        for atom, coefficient in self.terms:
            if not isinstance(atom, Quasi):
                total += coefficient * env[str(atom)]
            else:
                value = atom.argument.evaluate(env)
                if atom.kind == "mul":
                    value *= Affine.of(atom.by).evaluate(env)
                else:
                    value = value // atom.by if atom.kind == "div" else value % atom.by
                total += coefficient * value
        return total

    @property
    def is_constant(self) -> bool:
        return not self.terms

    def __str__(self) -> str:
        if len(self.terms) == 1 and self.terms[0][1] == 1 and not self.const:
            return str(self.terms[0][0])
        parts: list[str] = []
        for atom, coefficient in self.terms:
            name = f"({atom})" if isinstance(atom, Quasi) else str(atom)
            sign = "-" if coefficient < 0 else "+"
            size = abs(coefficient)
            parts.append(f" {sign} {name if size == 1 else f'{size}*{name}'}")
        if self.const or not parts:
            parts.append(f" {'-' if self.const < 0 else '+'} {abs(self.const)}")
        text = "".join(parts)
        return text[3:] if text.startswith(" + ") else "-" + text[3:]


ZERO = Affine()


def _of_number(value: int) -> Affine:
    """An integer, or a size that is known at the call (see sizes.py)."""
    symbolic = getattr(value, "affine", None)
    return symbolic if isinstance(symbolic, Affine) else Affine((), int(value))


def product(a: Affine, b: Affine) -> Affine:
    """The product, of which all factors but one are sizes that are known at the call."""
    if not a.terms or not b.terms:
        return b * a.const if not a.terms else a * b.const
    total = a * b.const + Affine(b.terms) * a.const
    for x, c in a.terms:
        for y, d in b.terms:
            total = total + _monomial([*factors(x), *factors(y)]) * (c * d)
    return total


def factors(atom: Atom) -> list[Atom]:
    """What an atom is a product of."""
    if not isinstance(atom, Quasi) or atom.kind != "mul":
        return [atom]
    return [f for part in (atom.argument, Affine.of(atom.by)) for f in factors(part.terms[0][0])]


def _monomial(factors: list[Atom]) -> Affine:
    """A product in canonical form: the variable first, then the sizes in order of their names."""
    from tensordsl.sizes import made

    varying = [f for f in factors if not is_symbolic(Affine(((f, 1),)))]
    assert len(varying) <= 1, f"a product of the variables {varying}"
    ordered = varying + sorted([f for f in factors if f not in varying], key=_order)
    total = Affine(((ordered[0], 1),))
    for f in ordered[1:]:
        total = Affine(((Quasi("mul", total, made(Affine(((f, 1),)))), 1),))
    return total


def is_symbolic(a: Affine) -> bool:
    """Does the value depend on nothing but sizes that are known at the call?"""
    return all(isinstance(n, Dim) for n in a.names()) and not any(True for _ in a.data())


def interval(expression: Affine, ranges: Mapping[str, Interval]) -> Interval:
    """The least and greatest value (inclusive; None: unbounded) over boxes of the variables."""
    low: int | None = expression.const
    high: int | None = expression.const
    for atom, coefficient in expression.terms:
        if isinstance(atom, str):
            first, last = ranges.get(atom) or ((atom.least, atom.most) if isinstance(atom, Dim) else (None, None))
        elif isinstance(atom, Datum):
            first, last = atom.low, atom.high
        else:
            first, last = interval(atom.argument, ranges)
            if atom.kind == "mul":
                first, last = _times((first, last), interval(Affine.of(atom.by), ranges))
            elif atom.kind == "div":
                first = None if first is None else first // atom.by
                last = None if last is None else last // atom.by
            elif first is None or last is None or first // atom.by != last // atom.by:
                first, last = 0, atom.by - 1
            else:
                first, last = first % atom.by, last % atom.by
        if coefficient < 0:
            first, last = last, first
        low = None if low is None or first is None else low + coefficient * first
        high = None if high is None or last is None else high + coefficient * last
    return low, high


def _times(a: Interval, size: Interval) -> Interval:
    """The range of a product with a size, which is never negative."""
    (low, high), (least, most) = a, size

    def end(x: int | None, outward: bool) -> int | None:
        """outward: the greatest size takes this end farthest."""
        if x is None or x == 0:
            return x
        by = most if outward else least or 0
        return None if by is None else x * by

    return end(low, low is not None and low < 0), end(high, high is not None and high > 0)


def without_data(
    expressions: Iterable[Affine], ranges: Mapping[str, Interval]
) -> tuple[list[Affine], dict[str, Interval]]:
    """The expressions with each `Datum` as a variable named like its text, and the ranges of all variables."""
    known = dict(ranges)

    def free(d: Datum) -> Affine:
        known[str(d)] = (d.low, d.high)
        return Affine.of(str(d))

    return [e.map_data(free) for e in expressions], known


def variables(*names: str) -> tuple[Affine, ...]:
    """One `Affine` per name."""
    return tuple(Affine.of(name) for name in names)


def affines(values: Iterable[AffineLike]) -> tuple[Affine, ...]:
    return tuple(Affine.of(value) for value in values)
