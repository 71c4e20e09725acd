"""Names of reduction axes that the user has not named: unlike all others, until a definition takes them in.

An axis is known by its name, so two of them must never be called the same in one expression.  What
`reduce_axis` makes up carries a number; the definition that reduces over it gives it a plain name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.expr import Axis, Reduce

_NUMBERS = itertools.count(1)
_MARK = "#"
_NUMBER = re.compile(f"{_MARK}[0-9]+")


def hidden(name: str) -> str:
    """A name that no other axis has."""
    return f"{name}{_MARK}{next(_NUMBERS)}"


def shown(name: str) -> str:
    """A name, or a text with names, as errors show it."""
    return _NUMBER.sub("", name)


def with_names(e: Reduce, around: Sequence[Axis]) -> Reduce:
    """A reduction whose made-up axes are called k, k1, .. : what is free among the axes around it and inside."""
    if not any(_MARK in a.name for a in e.axes):
        return e
    inside = [x for x in expr.walk(e) if isinstance(x, Reduce)]
    taken = expr.free_names(e.body) | {a.name for a in around} | {a.name for x in inside for a in x.axes}
    axes: list[Axis] = []
    for a in e.axes:
        name = a.name if _MARK not in a.name else _unlike(shown(a.name), taken)
        taken |= {name}
        axes.append(replace(a, name=name))
    renamed = {old.name: Affine.of(new.name) for old, new in zip(e.axes, axes) if old != new}
    return replace(e, axes=tuple(axes), body=expr.substitute(e.body, renamed))


def _unlike(name: str, taken: frozenset[str]) -> str:
    numbered = (f"{name}{k}" for k in itertools.count(1))
    return next(n for n in itertools.chain([name], numbered) if n not in taken)
