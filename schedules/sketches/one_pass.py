"""Chains of reductions over values that are computed: one pass over tiles, and the values are never stored.

Attention is the example: the scores of a block of rows and a tile of terms are computed, reduced and
used while they lie in the first caches, and the running results are carried from tile to tile (`online`).
A chain is found by what its definitions read (schedules/online/chain.py); what it spares are the *spared*
tensors: computed, as large as rows times terms, and read by the chain alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tensordsl.schedules.analysis import Tile, definition_of, elements, instances
from tensordsl.schedules.locate import stages
from tensordsl.schedules.online.chain import Chain, name_of
from tensordsl.schedules.online.rewrite import streamed
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches.contraction import TileSizes, default_sizes, row_extent
from tensordsl.schedules.sketches.recurrence import fold_slices

from tensordsl import expr
from tensordsl.errors import ScheduleError
from tensordsl.program import Program
from tensordsl.targets import Target
from tensordsl.tensor import Tensor

#: Rows of a block and terms of a tile: they may be, and are without measuring.
ROWS, TERMS = (16, 32, 64), (64, 128, 256)
DEFAULT_ROWS, DEFAULT_TERMS = 32, 128


@dataclass(frozen=True, slots=True)
class Pass:
    """stage: the reduction to stream.  axis: its reduction axis, of ``extent`` terms.  row: the axis of its
    results that is cut into blocks.  spared: bytes of the tensors that are never stored."""

    stage: str
    axis: str
    extent: int
    row: str
    rows: int
    spared: int


@dataclass(frozen=True, slots=True)
class Roles:
    """The stages of a streamed program.  step: the axis of tiles.  carried: those that run from tile to tile.
    inside: computed once a tile, in the order of the program.  produced: the spared ones.  after: those that
    finish a block of rows.  root: the last of these, whose loop over ``row`` is cut into blocks.  local:
    stage -> its axes along rows and along terms."""

    step: str
    carried: tuple[str, ...]
    inside: tuple[str, ...]
    produced: tuple[str, ...]
    after: tuple[str, ...]
    root: str
    row: str
    local: Mapping[str, tuple[frozenset[str], frozenset[str]]]

    @property
    def body(self) -> frozenset[str]:
        """All stages of the pass but its root."""
        return frozenset((*self.inside, *self.produced, *self.after))


def find_pass(program: Program) -> Pass | None:
    """The chain that spares most, or None."""
    found = [p for t in program.tensors if (p := _pass(program, t)) is not None]
    for p in sorted(found, key=lambda p: p.spared, reverse=True):
        with contextlib.suppress(ScheduleError):  # no formula moves the running results
            if roles(program, streamed(program, p.stage, p.axis, p.extent), p) is not None:
                return p
    return None


def _pass(program: Program, t: Tensor) -> Pass | None:
    d = definition_of(t)
    if d.reducer is None or len(d.reduce_axes) != 1 or not _reads_computed(t):
        return None
    [axis] = d.reduce_axes
    try:
        links = Chain(program, t.name, axis.name).links
    except ScheduleError:
        return None
    shared = [a for a in d.axes if all(a in link.axes for link in links)]
    if len(links) < 2 or not shared or axis.extent <= TERMS[0]:
        return None
    row = max(shared, key=lambda a: (a.extent, shared.index(a)))
    names = {link.name for link in links}
    reads = {r.source.name: r for link in links for r in expr.reads(link.opened) if r.source.name not in names}
    spared = sum(
        elements(program[n]) * r.dtype.bytes
        for n, r in reads.items()
        if all(any(a in i.names() for i in r.index) for a in (row.name, axis.name)) and _private(program, n, names)
    )
    return Pass(t.name, axis.name, axis.extent, row.name, row.extent, spared) if spared else None


def _private(program: Program, name: str, links: set[str]) -> bool:
    """Is a tensor computed, and read by the links alone, through any pointwise definitions?"""
    if program[name].definition is None or any(t.name == name for t in program.outputs):
        return False
    return all(
        c.name in links or (definition_of(c).reducer is None and _private(program, c.name, links))
        for c in program.consumers(name)
    )


def _reads_computed(t: Tensor) -> bool:
    return any(isinstance(r.source, Tensor) and r.source.definition is not None for r in definition_of(t).reads)


def roles(source: Program, program: Program, p: Pass) -> Roles | None:
    """Who is who in the streamed program (perhaps after further definition steps); None: it has another form."""
    old = {t.name for t in source.tensors}
    new = [t for t in program.tensors if t.name not in old]
    carried = [t for t in new if definition_of(t).order]
    if not carried:
        return None
    step = definition_of(carried[0]).order[0].axis
    inside = [t.name for t in new if any(a.name == step for a in definition_of(t).axes)]
    local = _local(program, inside, step, p.row)
    produced = tuple(n for n in local if n not in inside)
    body = {*inside, *produced}
    after = _after(program, body, set(inside))
    if not after or not produced:
        return None
    names = [t.name for t in after]
    root = after[-1]
    for t in program.tensors:  # nothing else may need what lives within a block
        if t.name not in body and t not in after and _uses(t, set(produced)):
            return None
    row = _row_of(after, carried, p.row)
    if row is None or any(c.name not in names for t in after if t is not root for c in program.consumers(t.name)):
        return None
    names.remove(root.name)
    return Roles(step, tuple(t.name for t in carried), tuple(inside), produced, tuple(names), root.name, row, local)


def _local(
    program: Program, inside: list[str], step: str, row: str
) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """The stages of the pass, in the order of the program, and their axes along rows and along terms: those
    inside, and tensors over rows and terms that are read inside only."""
    outputs = {t.name for t in program.outputs}
    found = {n: (frozenset([row]), frozenset([step])) for n in inside}
    for t in reversed(program.tensors):
        readers = program.consumers(t.name)
        if t.name in found or t.name in outputs or not readers or any(c.name not in found for c in readers):
            continue
        d = definition_of(t)
        rows, terms = set[str](), set[str]()
        for c in readers:
            for r in definition_of(c).reads:
                if r.source.name == t.name:
                    for a, i in zip(d.axes, r.index):
                        rows |= {a.name} if i.names() & found[c.name][0] else set()
                        terms |= {a.name} if i.names() & found[c.name][1] else set()
        if rows and terms and not d.order:
            found[t.name] = (frozenset(rows), frozenset(terms))
    return {t.name: found[t.name] for t in program.tensors if t.name in found}


def _after(program: Program, body: set[str], inside: set[str]) -> list[Tensor]:
    """What reads the results of the pass, up to the one that everything else there serves; [] where there is none."""
    chosen = {t.name for t in program.tensors if t.name not in body and _uses(t, inside)}
    while True:
        after = [t for t in program.tensors if t.name in chosen]
        last = {t.name for t in after if not any(c.name in chosen for c in program.consumers(t.name))}
        if len(last) < 2:
            return after
        more = [t.name for t in program.tensors if t.name not in chosen and _uses(t, last) and _pointwise(t)]
        if not more:
            return []
        chosen.add(more[0])


def _uses(t: Tensor, names: set[str]) -> bool:
    return any(r.source.name in names for r in definition_of(t).reads)


def _pointwise(t: Tensor) -> bool:
    return definition_of(t).reducer is None and not definition_of(t).order


def _row_of(after: list[Tensor], carried: list[Tensor], row: str) -> str | None:
    """The axis of the last stage that is the row of what it reads, perhaps through the others."""
    known = {t.name: [a.name for a in definition_of(t).axes].index(row) for t in carried}
    name = None
    for t in after:
        axes = [a.name for a in definition_of(t).axes]
        found = {name_of(r.index[known[r.source.name]]) for r in definition_of(t).reads if r.source.name in known}
        name = found.pop() if len(found) == 1 else None
        if name not in axes:
            return None
        known[t.name] = axes.index(name)
    return name


def arrange(s: Schedule, r: Roles, partial: dict[str, str], block: int) -> Schedule:
    """All stages of the pass in one loop over blocks of rows, and in it one over tiles of terms.

    partial: stage -> the reduction whose partial results it holds, row by row.
    Raises ScheduleError where a stage does not fit.
    """
    root, at = r.root, f"{r.row}.block"
    axes = [a.name for a in definition_of(s.program[root]).axes]
    s = s.split(root, r.row, block, names=(at, f"{r.row}.row"))
    leading = axes[: axes.index(r.row)]
    s = s.reorder(root, *leading, at, f"{r.row}.row", *axes[len(leading) + 1 :])
    first = [n for n in reversed(r.carried) if {t.name for t in s.program.consumers(n)} <= {n, root}]
    head: str | None = None
    for n in first:
        s, head = _carry(s, n, head, r, at)
    for n in reversed(r.after):
        s = s.compute_at(n, root, at)
    for t in reversed(s.program.tensors):
        n = t.name
        if n in r.carried and n not in first:
            s, head = _carry(s, n, head, r, at)
        elif n in partial:
            s = s.compute_at(n, partial[n], definition_of(s.program[partial[n]]).axes[-1].name)
        elif n in r.produced or (n in r.inside and n not in r.carried):
            if head is None:
                raise ScheduleError(f"{n} is computed before anything is carried")
            s = s.compute_at(n, head, r.step)
    for n in r.carried:
        s = fold_slices(s, n)
    return s


def _carry(s: Schedule, name: str, head: str | None, r: Roles, at: str) -> tuple[Schedule, str]:
    """A running result in the loop over tiles of those before; the stage that names this loop now."""
    s = s.compute_at(name, r.root, at)
    if head is None:
        return s, name
    order = stages(s.nest)
    a, b = sorted((head, name), key=order.index)
    return s.jam(a, b, r.step), b


def within(t: Tensor, r: Roles, block: int, terms: int) -> Tensor:
    """A stage as large as what one block of rows and one tile of terms needs of it."""
    d = definition_of(t)
    rows, along = r.local[t.name]
    limit = {**dict.fromkeys(along, 1 if r.step in along else terms), **dict.fromkeys(rows, block)}
    axes = tuple(replace(a, extent=min(a.extent, limit.get(a.name, a.extent))) for a in d.axes)
    return replace(t, shape=tuple(a.extent for a in axes), definition=replace(d, axes=axes))


def local_sizes(t: Tensor, small: Tensor, tile: Tile, target: Target) -> TileSizes:
    """Register tiles of a contraction of which a block of rows (and a tile of terms) is computed at a time."""
    packed = default_sizes(t, tile, target).packed  # the panel serves all blocks
    sizes = default_sizes(small, tile, target)
    return replace(sizes, kc=instances(t), mc=row_extent(t, tile), packed=packed, ahead=False, near=0)  # kc: all terms
