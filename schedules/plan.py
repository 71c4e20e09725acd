"""Which stages share loops: decided from the structure of a program, before any size is chosen.

Every stage is a *root* with loops of its own, is computed inside a root's loops (`inside`), or
follows a register-tiled reduction as its *epilogue*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tensordsl.schedules.analysis import (
    Tile,
    decided_by_data,
    definition_of,
    elements,
    identity_dims,
    inlinable,
    instances,
    leading,
    register_tile,
    stride,
    tensor_names,
)  # fmt: skip
from tensordsl.schedules.locate import fresh
from tensordsl.schedules.rounding import Place, order_matters, tree_places
from tensordsl.schedules.sketches.data import scatters

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.combination import Monoid
from tensordsl.program import Program
from tensordsl.targets import Target
from tensordsl.tensor import Tensor

#: A reduction is worth a register tile when each element sums at least this many terms.
LEAST_TERMS = 2


@dataclass(frozen=True, slots=True)
class Placement:
    """A stage computed inside loop ``axis`` (the ``depth``-th from outside) of another."""

    stage: str
    consumer: str
    axis: str
    depth: int


@dataclass(frozen=True, slots=True)
class Plan:
    """project: axes of stages to drop, in order.  inline: pointwise stages to inline, in order.
    reciprocals: stages that divide by a value of their row or by a constant.  partial: reduction ->
    the contiguous axis to reduce in vectors first (`rfactor`).  placements: in the order to apply.
    tiles: reductions with register tiles.  epilogues: tiled reduction -> stage that follows it.
    jammed: (root, the next root), which run in one outermost loop.  trees: stages of reduction trees that
    the program itself defines.
    """

    project: tuple[tuple[str, str], ...]
    inline: tuple[str, ...]
    reciprocals: tuple[str, ...]
    partial: dict[str, str]
    placements: tuple[Placement, ...]
    tiles: dict[str, Tile]
    epilogues: dict[str, str]
    roots: tuple[str, ...]
    jammed: tuple[tuple[str, str], ...]
    trees: Mapping[str, Place]


def make_plan(program: Program, target: Target, fixed: frozenset[str] = frozenset()) -> tuple[Plan, Program]:
    """The plan, and the program after its definition steps (partial reductions of one vector).

    fixed: stages that are arranged already and stay as they are.
    """
    from tensordsl.schedules.primitives.definitions import (
        divides,
        factored,
        inline_in_program,
        inverse_name,
        with_reciprocal,
    )
    from tensordsl.schedules.primitives.projection import projected

    written = program
    projections = []
    while not fixed and (steady := _steady(program)) is not None:
        projections.append(steady)
        program = projected(program, *steady)
    program = _without_single_terms(program)
    inline: list[str] = []
    while (name := inlinable(program, fixed)) is not None:
        inline.append(name)
        tensor = program[name]
        program = inline_in_program(program, tensor, definition_of(tensor))
    cyclic = {t.name for g in program.groups if g.order is not None for t in g.tensors}
    reciprocals = []
    for t in program.tensors:
        if written.rounding == "free" and t.name not in {*cyclic, *fixed} and divides(t):
            reciprocals.append(t.name)
            program = with_reciprocal(program, t.name, inverse_name(program, t.name))
    free = program.rounding == "free"
    trees = {} if free else tree_places(program)
    apart = {*cyclic, *trees, *fixed} | {t.name for t in program.tensors if scatters(t)}
    tiles = {t.name: x for t in program.tensors if t.name not in apart and (x := tile_of(t)) is not None}
    partial = {}
    for t in program.tensors:
        axis = None if t.name in tiles or t.name in apart else reduction_vector_axis(t)
        axis = axis if free or not order_matters(t) else None
        if axis is not None and next(a.extent for a in definition_of(t).reduce_axes if a.name == axis) >= partial_lanes(
            t, target
        ):
            partial[t.name] = axis
    for stage, axis in partial.items():
        lanes = partial_lanes(program[stage], target)
        program = factored(program, stage, axis, 2 * lanes, partial_name(written, stage))
        program = factored(program, stage, f"{axis}.l", lanes, lanes_name(written, stage))
        for name, size in half_names(written, stage, lanes):
            program = factored(program, stage, definition_of(program[stage]).reduce_axes[0].name, size, name)
    epilogues = {n: e for n in tiles if (e := _epilogue(program, n)) is not None and e not in fixed}
    placements, shared = _placements(program, tiles, epilogues, fixed)
    placed = {p.stage for p in placements} | set(epilogues.values())
    roots = tuple(t.name for t in program.tensors if t.name not in placed)
    jammed = _jammed(
        program, roots, {p.stage: p.consumer for p in placements}, shared, {*tiles, *cyclic, *fixed}, target
    )
    plan = Plan(
        tuple(projections), tuple(inline), tuple(reciprocals), partial, tuple(placements), tiles, epilogues, roots,
        jammed, trees,
    )  # fmt: skip
    return plan, program


def _steady(program: Program) -> tuple[str, str] | None:
    """A recurrence and an axis along which it does not change."""
    from tensordsl.schedules.primitives.projection import steady_axes

    return next(((t.name, a) for t in program.tensors if definition_of(t).order for a in steady_axes(program, t)), None)


def _without_single_terms(program: Program) -> Program:
    """The program with reduction axes of one value written as 0, so that they hide no structure."""
    new = {}
    for t in program.tensors:
        d = definition_of(t)
        single = {a.name: Affine() for a in d.reduce_axes if a.extent == 1}
        if single:
            new[t.name] = replace(d, body=expr.substitute(d.body, single))
    return program.with_definitions(new) if new else program


def partial_name(program: Program, stage: str) -> str:
    """The stage that holds the partial results of a reduction of the program as it was written."""
    return fresh(f"{stage}_rf", tensor_names(program))


def lanes_name(program: Program, stage: str) -> str:
    """The stage that adds the vectors of partial results up to one."""
    return fresh(f"{stage}_lanes", tensor_names(program))


def partial_lanes(t: Tensor, target: Target) -> int:
    """How many partial results of a reduction are a vector.

    Combinations of states are not as cheap as a sum: what they compute with fills a vector, too.
    """
    d = definition_of(t)
    sizes = [r.dtype.bytes for r in d.reads] if isinstance(d.reducer, Monoid) else []
    return target.vector_bytes // max(t.dtype.bytes, *sizes, 1)


def half_names(program: Program, stage: str, lanes: int) -> list[tuple[str, int]]:
    """The stages that combine the lanes of one vector of states in pairs, with the states each leaves.

    The machine's own steps over the lanes of a vector only know the reducers of the language.
    """
    if not isinstance(definition_of(program[stage]).reducer, Monoid):
        return []
    sizes = [lanes >> n for n in range(1, lanes.bit_length() - 1)]
    return [(fresh(f"{stage}_lanes{size}", tensor_names(program)), size) for size in sizes]


def reduction_vector_axis(t: Tensor) -> str | None:
    """The reduction axis along which every read is contiguous or constant, or None."""
    d = definition_of(t)
    ragged = decided_by_data(d)
    if isinstance(d.reducer, Monoid) and not d.reducer.commutative:
        return None  # the lanes would take far terms
    for a in reversed(d.reduce_axes):
        if a.name in ragged:
            continue
        steps = [stride(r, a.name) for r in d.reads]
        if all(x in (0, 1) for x in steps) and 1 in steps:
            return a.name
    return None


def tile_of(t: Tensor) -> Tile | None:
    d = definition_of(t)
    if d.reducer is None or instances(t) < LEAST_TERMS * max(1, elements(t)):
        return None
    tile = register_tile(t)
    # without rows the tile only pays where the vector axis holds at least a vector or so
    return tile if tile is not None and (tile.row is not None or d.axes[-1].extent >= 8) else None


def _epilogue(program: Program, name: str) -> str | None:
    """The pointwise stage that may follow a tiled reduction at once."""
    readers = program.consumers(name)
    if len(readers) != 1:
        return None
    reader = readers[0]
    d = definition_of(reader)
    if d.reducer is not None or d.order:
        return None
    sites = [r for r in d.reads if r.source.name == name]
    if len({r.index for r in sites}) != 1:
        return None
    dims = identity_dims(sites[0])
    if len(dims) != len(sites[0].index) or [dims.get(a.name) for a in d.axes if a.name in dims] != sorted(
        dims.values()
    ):
        return None
    own = {a.name: a.extent for a in d.axes}
    source = program[name]
    if any(own[a] != source.shape[k] for a, k in dims.items()) or len(own) != len(dims):
        return None
    # everything else the reader needs must be there before the reduction starts
    order = [t.name for t in program.tensors]
    if any(r.source.name in order and order.index(r.source.name) > order.index(name) for r in d.reads):
        return None
    return reader.name


def _jammed(
    program: Program, roots: tuple[str, ...], root_of: dict[str, str], shared: dict[str, dict[str, str]],
    apart: set[str], target: Target,
) -> tuple[tuple[str, str], ...]:  # fmt: skip
    """Roots that run in the outermost loop of the roots before them, whose rows they read from the cache."""
    if program.inplace:
        return ()
    found: list[tuple[str, str]] = []
    group: list[str] = []
    for name in roots:
        stages = [t for t in program.tensors if name in (t.name, root_of.get(t.name))]
        joins = group and name not in apart and _follows(program, group, name, stages, shared, target)
        if joins:
            found.append((group[-1], name))
        group = [*group, name] if joins else [name] if name not in apart else []
    return tuple(found)


def _follows(
    program: Program, group: list[str], name: str, stages: list[Tensor], shared: dict[str, dict[str, str]],
    target: Target,
) -> bool:  # fmt: skip
    """Do all stages of a root read the group's tensors at their own outermost index, and much of them?"""
    outer = definition_of(program[name]).axes
    if outer[:1] != definition_of(program[group[-1]]).axes[:1] or not outer or outer[0].extent < 2:
        return False
    large = False
    for t in stages:
        for r in definition_of(t).reads:
            if r.source.name not in group:
                continue
            source = program[r.source.name]
            own = [a for a, root in shared[t.name].items() if root == outer[0].name]
            if not own or r.index[0] != Affine.of(own[0]):
                return False
            large = large or elements(source) * source.dtype.bytes > target.caches[0]
    return large


def _placements(
    program: Program, tiles: dict[str, Tile], epilogues: dict[str, str], fixed: frozenset[str] = frozenset()
) -> tuple[list[Placement], dict[str, dict[str, str]]]:
    """The placements, and for every stage which axis of its root each of its shared axes runs with."""
    outputs = {t.name for t in program.outputs}
    follow = set(epilogues.values())
    root_of: dict[str, str] = {}
    shared: dict[str, dict[str, str]] = {}  # stage -> its axis -> the root's axis
    depth: dict[str, int] = {}
    result: list[Placement] = []
    for t in reversed(program.tensors):
        d = definition_of(t)
        readers = program.consumers(t.name)
        place = None
        alone = t.name in outputs or t.name in tiles or t.name in follow or t.name in fixed
        if not alone and not d.order and readers:
            place = _place(program, t, readers, root_of, shared, depth)
        if place is not None and place.consumer in fixed:
            place = None
        if place is not None and place.consumer in tiles:
            place = _around_tile(program, place, tiles[place.consumer])
        if place is None:
            root_of[t.name] = t.name
            axes = d.loop_axes
            shared[t.name] = {a.name: a.name for a in axes}
            depth[t.name] = len(axes)
            continue
        root = place.consumer
        root_of[t.name], depth[t.name] = root, place.depth
        outer = [a.name for a in definition_of(program[root]).axes][: place.depth]
        reader, site = next((c, r) for c in readers for r in definition_of(c).reads if r.source.name == t.name)
        dims = {k: shared[reader.name][a] for a, k in identity_dims(site).items() if a in shared[reader.name]}
        shared[t.name] = {a.name: dims[k] for k, a in enumerate(d.axes) if dims.get(k) in outer}
        result.append(place)
    return result, shared


def _around_tile(program: Program, place: Placement, tile: Tile) -> Placement | None:
    """The placement in a loop that stays outside a register tile and keeps its place there."""
    axes = [a.name for a in definition_of(program[place.consumer]).axes]
    depth = min(place.depth, leading(tile, axes))
    if all(definition_of(program[place.consumer]).axes[k].extent == 1 for k in range(depth)):
        return None  # nothing is gained
    return replace(place, axis=axes[depth - 1], depth=depth)


def _place(
    program: Program, t: Tensor, readers: list[Tensor], root_of: dict[str, str],
    shared: dict[str, dict[str, str]], depth: dict[str, int],
) -> Placement | None:  # fmt: skip
    """Inside the deepest loop around all readers whose iterations need disjoint parts of t."""
    roots = {root_of[c.name] for c in readers}
    if len(roots) != 1:
        return None
    root = program[roots.pop()]
    if definition_of(root).order:
        return None
    order = [a.name for a in definition_of(root).axes]
    common: dict[str, int] | None = None
    for c in readers:
        for r in definition_of(c).reads:
            if r.source.name != t.name:
                continue
            here = {shared[c.name][a]: k for a, k in identity_dims(r).items() if a in shared[c.name]}
            common = here if common is None else {a: k for a, k in common.items() if here.get(a) == k}
    limit = min(depth[c.name] for c in readers)
    level = 0
    while level < min(limit, len(order)) and common is not None and order[level] in common:
        level += 1
    # the innermost loop is the one to vectorise: keep it free
    level = min(level, len(order) - 1) if definition_of(root).reducer is None else level
    if level <= 0:
        return None
    return Placement(t.name, root.name, order[level - 1], level)
