"""The sketch of a whole program: its plan, with the sizes of every nest as holes."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from functools import partial

from tensordsl.schedules.analysis import Tile, decided_by_data, definition_of
from tensordsl.schedules.online.rewrite import streamed
from tensordsl.schedules.plan import Plan, half_names, lanes_name, make_plan, partial_lanes, partial_name
from tensordsl.schedules.primitives.definitions import divides
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches import Parameters, Sketch
from tensordsl.schedules.sketches.blocked import BlockSizes, block_sizes, blocks
from tensordsl.schedules.sketches.contraction import (
    TileSizes,
    apply_tile,
    default_sizes,
    packable,
    registers_needed,
    row_extent,
    tile_score,
)  # fmt: skip
from tensordsl.schedules.sketches.data import apply_scatter, scatters
from tensordsl.schedules.sketches.known import with_constants
from tensordsl.schedules.sketches.one_pass import (
    DEFAULT_ROWS,
    DEFAULT_TERMS,
    ROWS,
    TERMS,
    Pass,
    arrange,
    find_pass,
    local_sizes,
    roles,
    within,
)  # fmt: skip
from tensordsl.schedules.sketches.panels import WIDTHS, Panel, apply_panel, panels
from tensordsl.schedules.sketches.recurrence import apply_recurrence
from tensordsl.schedules.sketches.rows import apply_last, apply_partial, apply_pointwise, partial_width, try_step
from tensordsl.schedules.sketches.scans import apply_scan, rows_apart, scan_block
from tensordsl.schedules.sketches.shared_rows import share_rows
from tensordsl.schedules.sketches.streaming import streaming_sizes
from tensordsl.schedules.sketches.time_tiling import (
    TimeTile,
    apply_time_tiling,
    row_choices,
    stencil_of,
    step_choices,
    time_tiles,
)  # fmt: skip
from tensordsl.schedules.sketches.triangular import apply_triangle, triangle

from tensordsl.causality import Group
from tensordsl.combination import Monoid
from tensordsl.program import Program
from tensordsl.sizes import likely
from tensordsl.targets import Target
from tensordsl.tensor import Tensor


def derive(program: Program, target: Target, start: Schedule | None = None) -> list[Sketch]:
    """One sketch: the program's plan with the sizes of its register tiles and reductions open.

    start: a schedule of the program whose steps are kept; the stages they touch are left alone.
    """
    if program.free:
        from tensordsl.schedules.sketches.any_size import derive_for_any_size

        return derive_for_any_size(program, target)
    fixed = frozenset[str]() if start is None else touched(start)
    if any(a.extent == 0 for t in program.tensors for a in (*definition_of(t).axes, *definition_of(t).reduce_axes)):

        def plain() -> Schedule:
            return start or Schedule(program, checked=False)

        return [Sketch("plain", {}, {}, lambda p: True, lambda p: plain(), ())]  # nothing to tile where nothing is
    written = program
    if start is None:
        program = with_constants(Schedule(program).unchecked()).program
    plan, planned = make_plan(program, target, fixed)
    holes: dict[str, tuple[int, ...]] = {}
    default: dict[str, int] = {}
    for stage, tile in plan.tiles.items():
        _tile_holes(holes, default, planned[stage], tile, target)
    for stage in plan.partial:
        _hole(holes, default, f"{stage}.accumulators", [1, 2, 4, 8], 4)
    tiled = time_tiles(planned, target)
    for stage, (stencil, time_tile) in tiled.items():
        _hole(holes, default, f"{stage}.steps", step_choices(stencil), time_tile.steps)
        _hole(holes, default, f"{stage}.rows", row_choices(stencil), time_tile.rows)
    for panel in _free_panels(planned, target, fixed):
        _hole(holes, default, f"{panel.reader}.panel", [0, *WIDTHS], WIDTHS[0])
    blocked = _blocked(planned, target, fixed)
    for stage, known in blocked.items():
        _hole(holes, default, f"{stage}.nb", [0, *(x.nb for x in known)], known[0].nb)
        _hole(holes, default, f"{stage}.mr", [x.mr for x in known], known[0].mr)

    def allowed(p: Parameters) -> bool:
        for stage, tile in plan.tiles.items():
            mr, nv = p[f"{stage}.mr"], p[f"{stage}.nv"]
            if registers_needed(planned[stage], tile, mr, nv) > target.registers + 1:
                return False
            if p[f"{stage}.mc"] < mr or (p[f"{stage}.near"] and not p[f"{stage}.packed"]):
                return False
            best = tile_score(planned[stage], tile, target, default[f"{stage}.mr"], default[f"{stage}.nv"])
            if tile_score(planned[stage], tile, target, mr, nv) < 0.6 * best:
                return False
        for stage, known in blocked.items():
            if p[f"{stage}.nb"] and BlockSizes(p[f"{stage}.nb"], p[f"{stage}.mr"]) not in known:
                return False
        return True

    # an epilogue in place may overwrite what other tiles still read: then the tiles stay, without it
    plans = [plan] if tiled else []
    plans += [replace(plan, epilogues={})] if plan.epilogues else []
    plans.append(replace(plan, tiles={}, epilogues={}))
    untiled = default | {f"{stage}.steps": 0 for stage in tiled}
    simpler = tuple(partial(build, written, x, untiled, target, start) for x in plans)
    if tiled:  # rows one at a time are fewer statements to prove
        single = default | {f"{stage}.rows": 1 for stage in tiled}
        simpler = (partial(build, written, plan, single, target, start), *simpler)
    if large := [h for h in holes if h.endswith((".nb", ".panel"))]:
        whole = default | dict.fromkeys(large, 0)
        simpler = (partial(build, written, plan, whole, target, start), *simpler)
    fused = Sketch("fused", holes, default, allowed, lambda p: build(written, plan, p, target, start), simpler)
    one_pass = find_pass(program) if start is None and program.rounding == "free" else None
    if one_pass is None:
        return [fused]
    other = _one_pass(written, program, one_pass, target)
    if one_pass.spared <= target.caches[min(1, len(target.caches) - 1)]:
        return [fused, other]
    return [replace(other, simpler=(lambda: fused.build(fused.default), *simpler)), fused]


def _one_pass(written: Program, program: Program, chain: Pass, target: Target) -> Sketch:
    """A chain of reductions in one pass, with blocks, tiles and register tiles open.

    written: the program before the steps that constants allow.
    """
    terms, rows = [n for n in TERMS if n < chain.extent], sorted({min(n, chain.rows) for n in ROWS})
    default = {"terms": min(DEFAULT_TERMS, terms[-1]), "rows": min(DEFAULT_ROWS, chain.rows)}
    holes = {"terms": tuple(terms), "rows": tuple(rows)}
    plan, planned = make_plan(streamed(program, chain.stage, chain.axis, default["terms"]), target)
    r = roles(program, planned, chain)
    tiles = {n: x for n, x in plan.tiles.items() if r is not None and n in r.local}
    for stage, tile in tiles.items():
        t = planned[stage]
        small = within(t, r, default["rows"], default["terms"]) if r is not None else t
        sizes = local_sizes(t, small, tile, target)
        _register_holes(holes, default, stage, small, tile, sizes, target)
        for name, value in (
            ("kc", sizes.kc),
            ("mc", sizes.mc),
            ("packed", int(sizes.packed)),
            ("ahead", 0),
            ("near", 0),
        ):
            _hole(holes, default, f"{stage}.{name}", [], value)
    for stage, tile in plan.tiles.items():
        if stage not in tiles:
            _tile_holes(holes, default, planned[stage], tile, target)
    for stage in plan.partial:
        _hole(holes, default, f"{stage}.accumulators", [1, 2, 4, 8], 4)

    def allowed(p: Parameters) -> bool:
        return all(
            registers_needed(planned[n], x, p[f"{n}.mr"], p[f"{n}.nv"]) <= target.registers + 1
            for n, x in plan.tiles.items()
        )

    return Sketch("one_pass", holes, default, allowed, lambda p: build(written, plan, p, target, None, chain), ())


def _free_panels(program: Program, target: Target, fixed: Container[str]) -> list[Panel]:
    """The panels of stages that are not fixed, of recurrences that are not better computed block by block."""
    if program.rounding != "free":
        return []
    scanned = {g.tensors[0].name for g in program.groups if g.order is not None and scan_block(program, g, target)}
    found = panels(program, target)
    return [x for x in found if not any(n in fixed or n in scanned for n in (x.reader, *x.recurrences))]


def _blocked(program: Program, target: Target, fixed: Container[str]) -> dict[str, tuple[BlockSizes, ...]]:
    """The sizes of blocks to try for each recurrence that has any, by the stage of its sums."""
    found = {}
    for group in program.groups if program.rounding == "free" else ():
        if group.order is None or any(t.name in fixed for t in group.tensors):
            continue
        b = blocks(program, group)
        if b is not None and (sizes := block_sizes(program, b, target)):
            found[b.sum] = sizes
    return found


def _block_sizes(p: Parameters, group: Group) -> BlockSizes | None:
    """The chosen size of blocks of a recurrence, or None for none."""
    for t in group.tensors:
        if p.get(f"{t.name}.nb"):
            return BlockSizes(p[f"{t.name}.nb"], p[f"{t.name}.mr"])
    return None


def _hole(
    holes: dict[str, tuple[int, ...]], default: dict[str, int], name: str, values: list[int], chosen: int
) -> None:
    holes[name] = tuple(sorted({*values, chosen}))
    default[name] = chosen


def touched(s: Schedule) -> frozenset[str]:
    """The stages that the steps of a schedule name."""
    named = {a for step in s.trace for a in (*step.args, *dict(step.kwargs).values()) if isinstance(a, str)}
    return frozenset(t.name for t in s.program.tensors if t.name in named)


def _tile_holes(
    holes: dict[str, tuple[int, ...]], default: dict[str, int], t: Tensor, tile: Tile, target: Target
) -> None:
    """The sizes of one register tile."""
    sizes = streaming_sizes(t, tile, target) or default_sizes(t, tile, target)
    rows, stage = row_extent(t, tile), t.name
    main = next(a.extent for a in definition_of(t).reduce_axes if a.name == tile.main)
    _register_holes(holes, default, stage, t, tile, sizes, target)
    ragged = tile.main in decided_by_data(definition_of(t))
    depths = [c for c in (128, 192, 256, 384, 512, 768, 1024) if c < main and not ragged]
    _hole(holes, default, f"{stage}.kc", [*depths, main], sizes.kc)
    _hole(holes, default, f"{stage}.mc", [c for c in (48, 96, 192, 384) if c < rows] + [rows], sizes.mc)
    _hole(holes, default, f"{stage}.packed", [0, 1] if packable(t, tile) else [0], int(sizes.packed))
    _hole(holes, default, f"{stage}.ahead", [0, 1] if packable(t, tile) else [0], int(sizes.ahead))
    _hole(holes, default, f"{stage}.near", [0, 4, 16] if packable(t, tile) else [0], sizes.near)


def _register_holes(
    holes: dict[str, tuple[int, ...]], default: dict[str, int], stage: str, t: Tensor, tile: Tile, sizes: TileSizes,
    target: Target,
) -> None:  # fmt: skip
    rows, vectors = row_extent(t, tile), -(-t.shape[-1] // target.lanes(t.dtype))
    heights = [r for r in (1, 2, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 16, 28) if r <= rows]
    _hole(holes, default, f"{stage}.mr", heights, sizes.mr)
    _hole(holes, default, f"{stage}.nv", [v for v in (1, 2, 3, 4, 5, 6, 8) if v <= vectors], sizes.nv)


def build(
    program: Program,
    plan: Plan,
    p: Parameters,
    target: Target,
    start: Schedule | None = None,
    chain: Pass | None = None,
) -> Schedule:
    """The schedule of a plan with chosen sizes.

    start: a schedule whose steps are kept.  chain: what is streamed before; the plan is of the result.
    """
    s = start.unchecked() if start is not None else with_constants(Schedule(program).unchecked())
    fixed = frozenset[str]() if start is None else touched(start)
    for stage, axis in plan.project:
        s = s.project(stage, axis)
    program = written = s.program
    if chain is not None:
        s = s.online(chain.stage, p["terms"], chain.axis)
        program = s.program
    for name in plan.inline:
        s = s.compute_inline(name)
    for name in plan.reciprocals:
        if divides(s.program[name]):  # a plan for likely sizes may divide by one as by a constant
            s = s.reciprocal(name)
    halves: set[str] = set()
    for stage, axis in plan.partial.items():
        t = s.program[stage]
        lanes = partial_lanes(t, target)
        extent = next(likely(a.extent) for a in definition_of(t).reduce_axes if a.name == axis)
        width = partial_width(extent, p[f"{stage}.accumulators"], lanes)
        s = s.rfactor(stage, axis, width, partial_name(program, stage))
        if width > lanes:
            s = s.rfactor(stage, f"{axis}.l", lanes, lanes_name(program, stage))
        for name, size in half_names(program, stage, lanes):
            s = s.rfactor(stage, definition_of(s.program[stage]).reduce_axes[0].name, size, name)
            halves.add(name)
    first = {partial_name(program, x) for x in plan.partial}
    second = {lanes_name(program, x) for x in plan.partial} | halves
    r = roles(written, s.program, chain) if chain is not None else None
    apart = set[str]()  # placed in the loops of the pass
    if r is not None:
        parts = {x.stage: x.consumer for x in plan.placements if x.stage in first | second and x.stage in r.body}
        s, apart = arrange(s, r, parts, p["rows"]), {*r.body, r.root}
    for place in plan.placements:
        if place.stage in apart or place.consumer in apart:
            continue
        s = try_step(s, lambda x, place=place: x.compute_at(place.stage, place.consumer, place.axis))
    cyclic = [g for g in s.program.groups if g.order is not None and not any(t.name in fixed for t in g.tensors)]
    known = {t.name for t in s.program.tensors} - {t.name for g in cyclic for t in g.tensors}
    s, panelled = _in_panels(s, p, target, {*fixed, *apart})
    for group in cyclic:
        if group.tensors[0].name not in apart and group.tensors[0].name not in panelled:
            s = _recurrence(s, group, p, target)
    arranged = {*(t.name for t in s.program.tensors if t.name not in known), *fixed, *panelled} - apart
    followers = set(plan.epilogues.values())
    for t in s.program.tensors:
        stage = t.name
        if stage in arranged:
            continue
        if stage in plan.tiles:
            epilogue = plan.epilogues.get(stage)
            s = _tile(s, stage, plan.tiles[stage], p, target, None if epilogue in apart else epilogue)
        elif stage in first or stage in second:
            s = try_step(s, lambda x, stage=stage: apply_partial(x, stage, stage in second))
        elif plan.trees.get(stage) == "end":
            s = try_step(s, lambda x, stage=stage: apply_last(x, stage))
        elif stage in plan.trees:
            s = try_step(s, lambda x, stage=stage: apply_partial(x, stage, plan.trees[stage] == "few"))
        elif stage in plan.partial:
            lane = definition_of(t).reduce_axes[0].name
            kind = "unroll" if isinstance(definition_of(t).reducer, Monoid) else "vectorize"
            s = try_step(s, lambda x, stage=stage, lane=lane, kind=kind: getattr(x, kind)(stage, lane))
        elif scatters(t):
            s = try_step(s, lambda x, stage=stage: apply_scatter(x, stage, target))
        elif stage not in followers or stage in apart:
            s = try_step(s, lambda x, stage=stage: apply_pointwise(x, stage, target))
    for stage, other in plan.jammed:
        if stage in apart or other in apart:
            continue
        axis = definition_of(s.program[stage]).axes[0].name
        s = try_step(s, lambda x, stage=stage, axis=axis, other=other: x.jam(stage, other, axis))
    for stage, tile in plan.tiles.items() if s.program.rounding == "free" and start is None else ():
        if tile.row is None and len(target.caches) > 1 and stage not in apart:
            s = share_rows(s, stage, tile.main, target.caches[1])
    return s


def _in_panels(s: Schedule, p: Parameters, target: Target, fixed: Container[str]) -> tuple[Schedule, set[str]]:
    """The schedule with recurrences in panels of the chosen sizes, and the stages done."""
    done: set[str] = set()
    for panel in _free_panels(s.program, target, fixed) if any(h.endswith(".panel") for h in p) else ():
        if not (vectors := p.get(f"{panel.reader}.panel")):
            continue
        new = try_step(s, lambda x, f=panel, v=vectors: apply_panel(x, f, v, target))
        done |= {panel.reader, *panel.recurrences} if new is not s else set()
        s = new
    return s, done


def _recurrence(s: Schedule, group: Group, p: Parameters, target: Target) -> Schedule:
    """The schedule with one cyclic group arranged: as a scan, tiled in time, in blocks, or step by step."""
    before = s
    if block := scan_block(s.program, group, target):
        s = try_step(s, lambda x: apply_scan(x, group.tensors[0], block))
    if s is before:
        s = _tiled_in_time(s, group, p, target)
    if s is before and (sizes := _block_sizes(p, group)) is not None:
        s = try_step(s, lambda x: apply_recurrence(x, group, target, sizes))
    if s is before:
        s = try_step(s, lambda x: rows_apart(x, group))
        s = try_step(s, lambda x: apply_recurrence(x, group, target))
    return s


def _tiled_in_time(s: Schedule, group: Group, p: Parameters, target: Target) -> Schedule:
    first = group.tensors[0].name
    stencil = stencil_of(s.program, group, target) if p.get(f"{first}.steps") else None
    if stencil is None:
        return s
    tile = TimeTile(p[f"{first}.steps"], p[f"{first}.rows"])
    return try_step(s, lambda x: apply_time_tiling(x, stencil, tile))


def _tile(s: Schedule, stage: str, tile: Tile, p: Parameters, target: Target, epilogue: str | None) -> Schedule:
    sizes = TileSizes(
        p[f"{stage}.mr"], p[f"{stage}.nv"], p[f"{stage}.kc"], p[f"{stage}.mc"],
        bool(p[f"{stage}.packed"]), bool(p[f"{stage}.ahead"]), p[f"{stage}.near"],
    )  # fmt: skip
    half = triangle(s.program, stage, tile, epilogue) if epilogue is not None else None
    if half is not None and epilogue is not None:
        halved = try_step(s, lambda x: apply_triangle(x, stage, tile, sizes, target, epilogue, half))
        if halved is not s:
            return halved
    tiled = try_step(s, lambda x: apply_tile(x, stage, tile, sizes, target, epilogue))
    if tiled is not s:
        return tiled
    s = try_step(s, lambda x: apply_pointwise(x, stage, target))
    return s if epilogue is None else try_step(s, lambda x: apply_pointwise(x, epilogue, target))
