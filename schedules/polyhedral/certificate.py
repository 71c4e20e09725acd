"""What is proven once about a program: which axes of each definition are free, which bands permute.

A certificate depends on the structure of the program alone (its sizes included, its names not), is
memoised by it, and is plain data: `Certificate.to_json` and back.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from tensordsl.schedules.loopnest import For, LoopNest, stores
from tensordsl.schedules.lower import lower
from tensordsl.schedules.polyhedral.dependences import Analysis
from tensordsl.schedules.polyhedral.isl_build import Undecided, operations

from tensordsl import accesses, expr
from tensordsl.affine import Affine
from tensordsl.errors import RecordError
from tensordsl.program import Program
from tensordsl.tensor import Tensor

#: parallel: in any order or at once, with identical results; reassociate: the same if reductions may
#: be reassociated; serial: in order.
Order = Literal["parallel", "reassociate", "serial"]
#: Elementary operations of isl allowed for one program; the largest seen needs a hundredth of it.
LIMIT = 10_000_000
#: The largest multiple of the causal axis tried to make an axis of a recurrence tileable.
MAX_SKEW = 16


@dataclass(frozen=True, slots=True)
class Axes:
    """One definition.  Its axes are numbered: the axes of its elements, then its reduction axes.

    bands: runs of axes, outermost first as the plain loops have them, that may be tiled and
    interchanged among themselves (by the statement that computes or updates; an init goes before).
    A loop shared with other definitions, as the steps of mutual recurrences, is a band of its own.
    skew: per axis, the multiple of the first axis of its band that must be added to it before.
    """

    order: tuple[Order, ...]
    bands: tuple[tuple[int, ...], ...]
    skew: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """Per definition, in the order of ``program.tensors``."""

    definitions: tuple[Axes, ...]

    def by_name(self, program: Program) -> dict[str, Axes]:
        """The entry of each tensor of a program of this structure."""
        return {t.name: a for t, a in zip(program.tensors, self.definitions)}

    def to_json(self) -> dict[str, Any]:
        return {
            "definitions": [
                {"order": list(a.order), "bands": [list(b) for b in a.bands], "skew": list(a.skew)}
                for a in self.definitions
            ]
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Certificate:
        """Raises RecordError where the data are no certificate."""
        try:
            return Certificate(tuple([_axes(d) for d in data["definitions"]]))
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"not a certificate: {error!r}") from None


def _axes(data: Mapping[str, Any]) -> Axes:
    order = tuple(data["order"])
    for word in order:
        if word not in get_args(Order):
            raise ValueError(f"unknown order {word!r}")
    return Axes(order, tuple(tuple(int(n) for n in b) for b in data["bands"]), tuple(int(n) for n in data["skew"]))


def certify(program: Program) -> Certificate:
    """The certificate of a program, computed once per structure (about 1-20 ms)."""
    return _certify(_Key(structure(program), program))


def structure(program: Program) -> Hashable:
    """A key equal for programs that differ in names only."""
    names = {t.name: f"t{n}" for n, t in enumerate((*program.inputs, *program.tensors))}
    rows: list[Hashable] = [(t.shape, t.dtype.name) for t in program.inputs]
    for t in program.tensors:
        d = t.definition
        assert d is not None
        axes = d.axes + d.reduce_axes
        env = {a.name: Affine.of(f"a{n}") for n, a in enumerate(axes)}
        body = accesses.map_sources(expr.substitute(d.body, env), lambda source: _renamed(source, names))
        number = {a.name: n for n, a in enumerate(axes)}
        causal = tuple([(number[o.axis], o.descending) for o in d.order])
        sizes = tuple([a.extent for a in axes])
        reducer = d.reducer.key if d.reducer else None
        rows.append((sizes, len(d.axes), reducer, causal, t.dtype.name, expr.structure(body)))
    return (tuple(rows), tuple([names[t.name] for t in program.outputs]))


def _renamed(source: expr.Source, names: Mapping[str, str]) -> Tensor:
    return Tensor(names[source.name], source.shape, source.dtype)


class _Key:
    """A program compared by its structure."""

    def __init__(self, key: Hashable, program: Program) -> None:
        self.key, self.program = key, program
        self.hash = hash(key)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.key == other.key


@lru_cache(maxsize=256)
def _certify(key: _Key) -> Certificate:
    p = key.program
    nest = lower(Program(p.arguments, p.outputs, p.name))  # in whose memory an output lies is no part of it
    try:
        with operations(LIMIT):
            analysis = Analysis(nest)
            return Certificate(tuple([_definition(nest, analysis, t) for t in p.tensors]))
    except Undecided:  # nothing is claimed
        return Certificate(tuple([_in_order(t) for t in p.tensors]))


def _in_order(t: Tensor) -> Axes:
    assert t.definition is not None
    n = t.ndim + len(t.definition.reduce_axes)
    serial: Order = "serial"
    return Axes((serial,) * n, tuple([(a,) for a in range(n)]), (0,) * n)


def _definition(nest: LoopNest, analysis: Analysis, t: Tensor) -> Axes:
    d = t.definition
    assert d is not None
    names = [a.name for a in d.axes + d.reduce_axes]
    main, path = next(
        (s, path) for s, path in stores(nest.body) if s.instance.tensor == t.name and s.instance.kind != "init"
    )
    loops = [s for s in path if isinstance(s, For)]
    i = main.instance
    axis = {str(e): name for e, name in zip((*i.index, *i.points), names)}
    position = {axis[f.var]: n for n, f in enumerate(loops)}
    order: list[Order] = []
    for name in names:
        free = analysis.freedom(loops[position[name]])
        order.append("parallel" if free.exact else "reassociate" if free.reassociated else "serial")
    bands: list[tuple[int, ...]] = []
    skew = [0] * len(names)
    common = [f for f in loops if any(s.instance.tensor != t.name for s, _ in stores(f))]
    start = 0
    while start < len(loops):
        factors = [0]
        while start >= len(common) and start + len(factors) < len(loops):
            band = loops[start : start + len(factors) + 1]
            found = next((f for f in range(MAX_SKEW + 1) if analysis.permutable(band, (*factors, f), only=main)), None)
            if found is None:
                break
            factors.append(found)
        members = tuple([names.index(axis[f.var]) for f in loops[start : start + len(factors)]])
        for n, f in zip(members, factors):
            skew[n] = f
        bands.append(members)
        start += len(factors)
    return Axes(tuple(order), tuple(bands), tuple(skew))
