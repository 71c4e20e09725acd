"""The sketch of a whole program: its plan, with the sizes of every nest as holes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tensordsl.schedules.analysis import decided_by_data, definition_of
from tensordsl.schedules.plan import Plan, half_names, lanes_name, make_plan, partial_lanes, partial_name
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches import Parameters, Sketch
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
from tensordsl.schedules.sketches.recurrence import apply_recurrence
from tensordsl.schedules.sketches.rows import apply_partial, apply_pointwise, partial_width, try_step
from tensordsl.schedules.sketches.streaming import streaming_sizes

from tensordsl.combination import Monoid
from tensordsl.program import Program
from tensordsl.sizes import likely
from tensordsl.targets import Target


def derive(program: Program, target: Target) -> list[Sketch]:
    """One sketch: the program's plan with the sizes of its register tiles and reductions open."""
    if program.free:
        from tensordsl.schedules.sketches.any_size import derive_for_any_size

        return derive_for_any_size(program, target)
    if any(a.extent == 0 for t in program.tensors for a in (*definition_of(t).axes, *definition_of(t).reduce_axes)):

        def plain() -> Schedule:
            return Schedule(program, checked=False)

        return [Sketch("plain", {}, {}, lambda p: True, lambda p: plain(), ())]  # nothing to tile where nothing is
    plan, planned = make_plan(program, target)
    holes: dict[str, tuple[int, ...]] = {}
    default: dict[str, int] = {}
    for stage, tile in plan.tiles.items():
        t = planned[stage]
        sizes = streaming_sizes(t, tile, target) or default_sizes(t, tile, target)
        lanes, rows = target.lanes(t.dtype), row_extent(t, tile)
        main = next(a.extent for a in definition_of(t).reduce_axes if a.name == tile.main)
        vectors = -(-t.shape[-1] // lanes)
        ragged = tile.main in decided_by_data(definition_of(t))
        _hole(
            holes,
            default,
            f"{stage}.mr",
            [r for r in (1, 2, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 16, 28) if r <= rows],
            sizes.mr,
        )
        _hole(holes, default, f"{stage}.nv", [v for v in (1, 2, 3, 4, 5, 6, 8) if v <= vectors], sizes.nv)
        _hole(
            holes,
            default,
            f"{stage}.kc",
            [c for c in (128, 192, 256, 384, 512, 768, 1024) if c < main and not ragged] + [main],
            sizes.kc,
        )
        _hole(holes, default, f"{stage}.mc", [c for c in (48, 96, 192, 384) if c < rows] + [rows], sizes.mc)
        _hole(holes, default, f"{stage}.packed", [0, 1] if packable(t, tile) else [0], int(sizes.packed))
        _hole(holes, default, f"{stage}.ahead", [0, 1] if packable(t, tile) else [0], int(sizes.ahead))
        _hole(holes, default, f"{stage}.near", [0, 4, 16] if packable(t, tile) else [0], sizes.near)
    for stage in plan.partial:
        _hole(holes, default, f"{stage}.accumulators", [1, 2, 4, 8], 4)

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
        return True

    # an epilogue in place may overwrite what other tiles still read: then the tiles stay, without it
    plans = [replace(plan, epilogues={})] if plan.epilogues else []
    plans.append(replace(plan, tiles={}, epilogues={}))
    simpler = tuple(partial(build, program, x, default, target) for x in plans)
    return [Sketch("fused", holes, default, allowed, lambda p: build(program, plan, p, target), simpler)]


def _hole(
    holes: dict[str, tuple[int, ...]], default: dict[str, int], name: str, values: list[int], chosen: int
) -> None:
    holes[name] = tuple(sorted({*values, chosen}))
    default[name] = chosen


def build(program: Program, plan: Plan, p: Parameters, target: Target) -> Schedule:
    """The schedule of a plan with chosen sizes."""
    s = Schedule(program).unchecked()
    for name in plan.inline:
        s = s.compute_inline(name)
    for name in plan.reciprocals:
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
    for place in plan.placements:
        s = try_step(s, lambda x, place=place: x.compute_at(place.stage, place.consumer, place.axis))
    cyclic = [g for g in s.program.groups if g.order is not None]
    for group in cyclic:
        s = try_step(s, lambda x, group=group: apply_recurrence(x, group, target))
    arranged = {t.name for g in cyclic for t in g.tensors}
    followers = set(plan.epilogues.values())
    first = {partial_name(program, x) for x in plan.partial}
    second = {lanes_name(program, x) for x in plan.partial} | halves
    for t in s.program.tensors:
        stage = t.name
        if stage in arranged:
            continue
        if stage in plan.tiles:
            s = _tile(s, stage, plan, p, target)
        elif stage in first or stage in second:
            s = try_step(s, lambda x, stage=stage: apply_partial(x, stage, stage in second))
        elif stage in plan.partial:
            lane = definition_of(t).reduce_axes[0].name
            kind = "unroll" if isinstance(definition_of(t).reducer, Monoid) else "vectorize"
            s = try_step(s, lambda x, stage=stage, lane=lane, kind=kind: getattr(x, kind)(stage, lane))
        elif scatters(t):
            s = try_step(s, lambda x, stage=stage: apply_scatter(x, stage, target))
        elif stage not in followers:
            s = try_step(s, lambda x, stage=stage: apply_pointwise(x, stage, target))
    for stage, other in plan.jammed:
        axis = definition_of(s.program[stage]).axes[0].name
        s = try_step(s, lambda x, stage=stage, axis=axis, other=other: x.jam(stage, other, axis))
    return s


def _tile(s: Schedule, stage: str, plan: Plan, p: Parameters, target: Target) -> Schedule:
    sizes = TileSizes(
        p[f"{stage}.mr"], p[f"{stage}.nv"], p[f"{stage}.kc"], p[f"{stage}.mc"],
        bool(p[f"{stage}.packed"]), bool(p[f"{stage}.ahead"]), p[f"{stage}.near"],
    )  # fmt: skip
    tile, epilogue = plan.tiles[stage], plan.epilogues.get(stage)
    tiled = try_step(s, lambda x: apply_tile(x, stage, tile, sizes, target, epilogue))
    if tiled is not s:
        return tiled
    s = try_step(s, lambda x: apply_pointwise(x, stage, target))
    return s if epilogue is None else try_step(s, lambda x: apply_pointwise(x, epilogue, target))
