"""What a record is about: a program's structure and sizes, and the conditions of measuring.

Names of tensors, axes and operators do not enter: a user's own definition finds the records of a
library operator that means the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import msgspec

from tensordsl import accesses, expr
from tensordsl.affine import Affine, Atom, Datum, Quasi
from tensordsl.expr import Axis, Const, Expr, Index, Op, Read
from tensordsl.program import Program
from tensordsl.tensor import Definition, Tensor
from tensordsl.tolerance import SAFETY

#: Coefficients up to this are strides of the operator; larger ones come from its sizes.
_STRIDE = 8

Cache = Literal["warm", "cold"]


class Workload(msgspec.Struct, frozen=True, omit_defaults=True):
    """The key of a record, always matched whole.

    program: digest of the program, sizes included.  structure: the same without sizes.
    shapes: inputs, "->", outputs, for the reader.  sizes: every extent in canonical order.
    tolerance: what the derived error bound was multiplied by (see `tensordsl.tolerance`).  threads: used by the kernel.
    cache: whether operands were in the caches (warm) or flushed before every call (cold).  pin: what a
    user fixed of the schedule (see `tensordsl.autotune.pinning`).
    """

    program: str
    structure: str
    shapes: tuple[str, ...]
    sizes: tuple[int, ...]
    target: str
    threads: int = 1
    cache: Cache = "warm"
    exact: bool = False
    tolerance: float = SAFETY
    pin: str = ""

    def same_conditions(self, other: Workload) -> bool:
        """Whether two workloads differ in their sizes alone."""
        return (
            self.structure == other.structure
            and self.target == other.target
            and self.threads == other.threads
            and self.cache == other.cache
            and self.exact == other.exact
            and self.tolerance == other.tolerance
            and self.pin == other.pin
        )

    def distance(self, other: Workload) -> float:
        """How far the sizes are apart: the sum of |log2| of their ratios (inf: not comparable)."""
        if len(self.sizes) != len(other.sizes):
            return math.inf
        return sum(abs(math.log2(max(a, 1) / max(b, 1))) for a, b in zip(self.sizes, other.sizes))


def workload(program: Program, target: str, threads: int = 1, cache: Cache = "warm", exact: bool = False) -> Workload:
    """The key of a program on a target, by the target's id."""
    sizes = tuple(
        [n for t in program.inputs for n in t.shape]
        + [a.extent for t in program.tensors for a in (*_definition(t).axes, *_definition(t).reduce_axes)]
    )
    shapes = (*map(_shape, program.inputs), "->", *map(_shape, program.outputs))
    return Workload(
        _digest(program, sized=True),
        _digest(program, sized=False),
        shapes,
        sizes,
        target,
        threads,
        cache,
        exact or program.rounding != "free",
    )


def canonical_names(program: Program) -> tuple[tuple[str, ...], ...]:
    """(tensor, its axes, its reduction axes) in the order of the digest: equal digests line up."""
    inputs = tuple((t.name,) for t in program.inputs)
    defined = tuple(
        (t.name, *(a.name for a in (*_definition(t).axes, *_definition(t).reduce_axes))) for t in program.tensors
    )
    return inputs + defined


def with_names(program: Program, names: Sequence[Sequence[str]]) -> Program:
    """The program with its tensors and axes named as ``canonical_names`` of an equal one gave them."""
    every = (*program.inputs, *program.tensors)
    # all at once: recurrences read each other
    fresh = {t.name: replace(t, name=given[0], definition=None, named=True) for t, given in zip(every, names)}
    for t, given in zip(every, names):
        new = fresh[t.name]
        if t.definition is None:
            continue
        d = t.definition
        axes = tuple(Axis(n, a.extent) for n, a in zip(given[1:], (*d.axes, *d.reduce_axes)))
        axis = {a.name: new_axis.name for a, new_axis in zip((*d.axes, *d.reduce_axes), axes)}

        linked = accesses.map_sources(d.body, lambda source: fresh[source.name])
        body = expr.substitute(linked, {old: Affine.of(n) for old, n in axis.items()})
        count = len(d.axes)
        order = tuple(replace(o, axis=axis[o.axis]) for o in d.order)
        new.definition = replace(d, axes=axes[:count], reduce_axes=axes[count:], body=body, order=order)
    get = {old: t.name for old, t in fresh.items()}
    inplace = {get[o]: get[i] for o, i in program.inplace.items()}
    inputs, outputs = ([fresh[t.name] for t in ts] for ts in (program.inputs, program.outputs))
    arguments = [t for t in inputs if t.value is None]
    return Program(arguments, outputs, program.name, inplace, program.dims, program.rounding, program.relations)


def _shape(t: Tensor) -> str:
    text = f"{t.dtype}[{', '.join(map(str, t.shape))}]"
    return text if t.value is None else f"constant {text}"


def _definition(t: Tensor) -> Definition:
    assert t.definition is not None
    return t.definition


def _digest(program: Program, sized: bool) -> str:
    position = {t.name: n for n, t in enumerate((*program.inputs, *program.tensors))}
    parts: list[object] = [[(str(t.dtype), t.shape if sized else len(t.shape)) for t in program.inputs]]
    if program.constants:  # which inputs are known, not their values
        parts.append([position[t.name] for t in program.constants])
    stated = [t.values if sized and t.stated else t.stated for t in program.inputs]
    parts += [stated] if any(stated) else []
    for t in program.tensors:
        d = _definition(t)
        axes = (*d.axes, *d.reduce_axes)
        names = {a.name: Affine.of(f"a{n}") for n, a in enumerate(axes)}
        body = expr.substitute(d.body, names)
        number = {a.name: n for n, a in enumerate(axes)}
        order = [(number[o.axis], o.descending) for o in d.order]
        extents = [a.extent if sized else "n" for a in axes]
        reducer = d.reducer.key if d.reducer else ""
        parts.append((str(t.dtype), len(d.axes), extents, reducer, order, _body(body, position, sized)))
    parts.append([position[t.name] for t in program.outputs])
    parts.append(sorted((position[o], position[i]) for o, i in program.inplace.items()))
    if program.rounding != "free":
        parts.append((program.rounding, [_definition(t).fused for t in program.tensors]))
    return _hash(parts)


def _body(body: Expr, position: dict[str, int], sized: bool) -> str:
    """A digest of an expression whose axes have canonical names; shared nodes count once."""
    memo: dict[int, str] = {}
    for x in expr.walk(body):
        key: tuple[Any, ...]
        if isinstance(x, Const):
            key = ("const", x.dtype.name, repr(x.value) if sized else "c")
        elif isinstance(x, Index):
            key = ("index", _affine(x.affine, position, sized))
        elif isinstance(x, Read):
            key = ("read", position[x.source.name], *(_affine(i, position, sized) for i in x.index))
        else:
            assert isinstance(x, Op)
            key = (x.name, x.dtype.name, *(memo[id(a)] for a in x.args))
        memo[id(x)] = _hash(key)
    return memo[id(body)]


def _affine(a: Affine, position: dict[str, int], sized: bool) -> str:
    if sized and not any(True for _ in a.data()):
        return str(a)

    def atom(x: Atom) -> str:
        if isinstance(x, Quasi):
            inner = _affine(x.argument, position, sized)
            return f"{x.kind}({inner}{f', {x.by}' if sized else ''})"
        if isinstance(x, Datum):
            inner = ", ".join(_affine(i, position, sized) for i in x.index)
            return f"data({position[x.source.name]}, {inner}{f', {x.low}, {x.high}' if sized else ''})"
        return x

    def coefficient(c: int) -> str:
        return str(c) if sized or abs(c) <= _STRIDE else "n" if c > 0 else "-n"

    terms = sorted(f"{coefficient(c)}*{atom(x)}" for x, c in a.terms)
    return " + ".join([*terms, str(a.const)] if sized else terms)


def _hash(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()


def describe(shapes: Sequence[str]) -> str:
    """The shapes of a workload as one readable line."""
    return " ".join(shapes)
