"""Addresses: affine index expressions as C text, linearised once per access.

The physical address of an element is the sum of stride times (index mod fold); constants are
folded into one literal.  Inside an outlined function, the part of an address that does not vary
there is a pointer argument, so that equal code at other places is the same function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tensordsl.codegen.c.writer import LANE, PointerKey, Writer
from tensordsl.schedules.loopnest import Buffer

from tensordsl.affine import ZERO, Affine, Atom, Datum, Interval, Quasi, interval


class Variables(Protocol):
    """What expressions need of what prints them: the ranges of variables and their names in C."""

    @property
    def ranges(self) -> Mapping[str, Interval]: ...
    def variable(self, name: str) -> str: ...


def affine_text(w: Variables, a: Affine) -> str:
    """C text of an affine expression over 64-bit integers (no parentheses around a sum)."""
    if not a.terms:
        return str(a.const)
    parts: list[str] = []
    for atom, coefficient in _outermost_first(w, a):
        if isinstance(atom, str):
            name = w.variable(atom)
        elif isinstance(atom, Quasi):
            name = quasi_text(w, atom)
        else:
            assert isinstance(w, Writer)  # sizes are not read from memory
            name = datum_text(w, atom)
        size = abs(coefficient)
        if coefficient < 0:
            parts.append(f" - {name}" if size == 1 else f" - {name} * {size}")
        elif parts:
            parts.append(f" + {name}" if size == 1 else f" + {name} * {size}")
        else:
            parts.append(name if size == 1 else f"{name} * {size}")
    if a.const:
        parts.append(f" + {a.const}" if a.const > 0 else f" - {-a.const}")
    text = "".join(parts)
    return "-" + text[3:] if text.startswith(" - ") else text


def _outermost_first(w: Variables, a: Affine) -> list[tuple[Atom, int]]:
    """The terms in the order of their loops: no name decides how an address is added up."""
    if len(a.terms) < 2:
        return list(a.terms)
    depth = {name: n for n, name in enumerate(w.ranges)}

    def place(atom: Atom) -> tuple[object, ...]:
        if isinstance(atom, str):
            return depth.get(atom, len(depth)), 0
        if isinstance(atom, Datum):
            parts = [sorted((place(x), c) for x, c in i.terms) for i in atom.index]
            last = max((p[-1][0][0] for p in parts if p), default=-1, key=lambda x: (isinstance(x, int), x))
            return last, 2, atom.low, atom.high, repr(parts)
        inner = sorted((place(x), c) for x, c in atom.argument.terms)
        by = str(atom.by) if atom.kind == "mul" else atom.by
        return inner[-1][0][0], 1, atom.kind, by, tuple(inner), atom.argument.const

    return sorted(a.terms, key=lambda term: place(term[0]))


def wrapped(w: Variables, a: Affine) -> str:
    """The text as one operand."""
    text = affine_text(w, a)
    return text if len(a.terms) + (a.const != 0) == 1 and not text.startswith("-") and "*" not in text else f"({text})"


def quasi_text(w: Variables, q: Quasi) -> str:
    """A floor division or remainder; C rounds towards zero, so signs matter."""
    if q.kind == "mul":
        return f"{wrapped(w, q.argument)} * {wrapped(w, Affine.of(q.by))}"
    x, by = wrapped(w, q.argument), q.by
    low, _ = interval(q.argument, w.ranges)
    known = low is not None and low >= 0
    if q.kind == "mod":
        if by & (by - 1) == 0:
            return f"({x} & {by - 1})"
        if known:
            return f"({x} % {by})"
        return f"({x} % {by} + ({x} % {by} < 0 ? {by} : 0))"
    if by & (by - 1) == 0:
        return f"({x} >> {by.bit_length() - 1})"
    return f"({x} / {by})" if known else f"({x} / {by} - ({x} % {by} < 0))"


def datum_text(w: Writer, d: Datum) -> str:
    """A number that is read from memory."""
    if d.source.name in w.scalars:
        return f"(int64_t){w.base(d.source.name)}"
    form = w.forms.get(d.source.name)
    if form is not None:
        from tensordsl.codegen.c import registers  # which prints addresses as well

        return f"(int64_t){registers.read(w, d.source, form, d.index, 0).text}"
    return f"(int64_t){element_text(*pointer(w, d.source, *linear(w, d.source, d.index)))}"


def bound_text(w: Writer, bounds: tuple[Affine, ...], lower: bool) -> str:
    """The greatest of lower bounds or the least of upper ones."""
    text = affine_text(w, bounds[0])
    for b in bounds[1:]:
        other = affine_text(w, b)
        text = f"({text} {'>' if lower else '<'} {other} ? {text} : {other})"
    return text


def value_range(w: Writer, a: Affine) -> Interval:
    return interval(a, w.ranges)


def linear(w: Writer, buffer: Buffer, index: tuple[Affine, ...]) -> tuple[Affine | None, Affine]:
    """(bank, address in elements) of an access, in the variables of the nest; cached per access."""
    key = (id(index), id(buffer))
    found = w.linear.get(key)
    if found is not None:
        return found[1], found[2]
    address, bank = ZERO, None
    for d, (i, stride) in enumerate(zip(index, buffer.strides())):
        if d < len(buffer.fold) and buffer.fold[d]:
            i = i % buffer.fold[d]
        if d == 0 and buffer.banks:
            bank = i
        else:
            address = address + i * stride
    address = address.recombined()
    w.linear[key] = ((index, buffer), bank, address)  # both are kept alive, so their ids stay their own
    return bank, address


def lane_part(a: Affine) -> tuple[int, bool]:
    """(coefficient of the lane, does the lane occur inside a division or remainder)."""
    coefficient, inside = 0, False
    for atom, c in a.terms:
        if isinstance(atom, str):
            if atom == LANE:
                coefficient = c
        elif LANE in atom.names():
            inside = True
    return coefficient, inside


def at_lane(a: Affine, lane: int) -> Affine:
    """The value of an affine expression in one lane."""
    return a.substitute({LANE: Affine((), lane)})


def pointer(w: Writer, buffer: Buffer, bank: Affine | None, address: Affine) -> tuple[str, str]:
    """(base pointer, offset) as C text for a lane-free address; the offset is "" for zero."""
    f = w.function
    key = (buffer.name, bank, address, _assumed(w, address), _assumed(w, bank or ZERO))
    found = f.texts.get(key)
    if found is None:
        found = f.texts[key] = _pointer(w, buffer, bank, address)
    return found


def _assumed(w: Writer, a: Affine) -> tuple[object, ...]:
    """What the text of a division says about signs: loops of one name may have other bounds elsewhere."""
    names = [n for atom, _ in a.terms if not isinstance(atom, str) for n in atom.names()]
    return tuple((n, w.ranges.get(n)) for n in dict.fromkeys(names))


def _pointer(w: Writer, buffer: Buffer, bank: Affine | None, address: Affine) -> tuple[str, str]:
    f = w.function
    if f.kind == "outline" and buffer.name not in f.buffers:
        free, inner = _split(f.variables, w.stored, address)
        if bank is None or not bank.names() & f.variables:
            base, const = _argument(w, PointerKey(buffer.name, bank, free), address.const)
        else:
            names, const = [], 0
            for n in range(len(buffer.banks)):
                name, const = _argument(w, PointerKey(buffer.name, n, free), address.const)
                names.append(name)
            base = _choose(w, bank, names)
        rest = inner + (address.const - const)
    else:
        base = w.base(buffer.name) if bank is None else _choose(w, bank, [w.base(n) for n in buffer.banks])
        rest = address
    return base, affine_text(w, rest) if rest.terms or rest.const else ""


def _split(inside: set[str], stored: set[str], address: Affine) -> tuple[Affine, Affine]:
    """The terms that do not vary in a function and those that do, or may (constants left out)."""
    free: list[tuple[Atom, int]] = []
    inner: list[tuple[Atom, int]] = []
    for atom, c in address.terms:
        varies = atom in inside if isinstance(atom, str) else bool(atom.names() & inside)
        varies = varies or any(d.source.name in stored for d in Affine(((atom, 1),)).data())
        (inner if varies else free).append((atom, c))
    return Affine(tuple(free)), Affine(tuple(inner))


def _argument(w: Writer, key: PointerKey, const: int) -> tuple[str, int]:
    pointers = w.function.pointers
    if key not in pointers:
        pointers[key] = (f"q{len(pointers) + 1}", const)
    return pointers[key]


def _choose(w: Writer, bank: Affine, names: list[str]) -> str:
    """One of several pointers by the value of an affine expression."""
    if bank.is_constant:
        return names[bank.const]
    text = wrapped(w, bank)
    tests = [f"{text} == {n} ? {name} : " for n, name in enumerate(names[:-1])]
    return f"({''.join(tests)}{names[-1]})"


def joined(base: str, offset: str) -> str:
    """``base + offset`` as one operand."""
    return f"({base} + {offset})" if offset else base


def element_text(base: str, offset: str) -> str:
    return f"{base}[{offset or 0}]"
