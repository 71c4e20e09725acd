"""The sketch of a program whose sizes are known only at the call: planned for likely sizes, built and
proven for all of them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tensordsl.schedules.plan import make_plan
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches import Sketch
from tensordsl.schedules.sketches.derive import build, derive
from tensordsl.schedules.sketches.known import with_constants

from tensordsl import any_size, instances
from tensordsl.affine import LIKELY
from tensordsl.program import Program
from tensordsl.targets import Target

#: Between the sizes of two dimensions: whole vectors.
APART = 16


def derive_for_any_size(program: Program, target: Target) -> list[Sketch]:
    """One sketch without holes."""

    def plain() -> Schedule:
        return Schedule(program, checked=False)

    sizes = likely_sizes(program)
    if sizes is None:
        return [Sketch("plain", {}, {}, lambda p: True, lambda p: plain(), ())]
    fixed = program.at(**sizes)
    fused = next((s for s in derive(fixed, target) if s.name == "fused"), None)
    if fused is None:
        return [Sketch("plain", {}, {}, lambda p: True, lambda p: plain(), ())]
    default = {name: 0 if name.endswith(".steps") else value for name, value in fused.default.items()}
    plan, planned = make_plan(with_constants(Schedule(fixed).unchecked()).program, target)
    for stage, tile in plan.tiles.items():
        # a reduction, block of rows or of steps in time is cut where its length is known
        main = next(a.extent for a in planned[stage].definition.reduce_axes if a.name == tile.main)  # type: ignore[union-attr]
        default |= {f"{stage}.kc": main, f"{stage}.mc": 1 << 40, f"{stage}.packed": 0, f"{stage}.ahead": 0}
        default |= {f"{stage}.near": 0}
    plans = [replace(plan, epilogues={})] if plan.epilogues else []
    plans.append(replace(plan, tiles={}, epilogues={}))
    simpler = tuple(partial(build, program, x, default, target) for x in plans)
    return [Sketch("any size", {}, {}, lambda p: True, lambda p: build(program, plan, default, target), simpler)]


def likely_sizes(program: Program) -> dict[str, int] | None:
    """Legal sizes to plan for, None where none are found: all different, since equal ones would be a coincidence."""
    for step in (APART, 0):
        sizes = {d.name: d.near(LIKELY + n * step) * d.by + d.rest for n, d in enumerate(program.free)}
        if instances.violated(program, sizes) is None:
            return sizes
    found = any_size.satisfiable(program.relations, {}).point
    if found is None:
        return None
    return {d.name: found.get(d, d.least) * d.by + d.rest for d in program.free}
