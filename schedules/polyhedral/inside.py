"""Bounds: every access lies in its buffer, every computed instance in its definition."""

from __future__ import annotations

from collections.abc import Mapping

from tensordsl.schedules.polyhedral.events import Inside, Refuted, Violation, at
from tensordsl.schedules.polyhedral.isl_build import point, where

from tensordsl.affine import Affine, Interval, interval


def check_inside(obligations: list[Inside], ranges: Mapping[int, Mapping[str, Interval]]) -> None:
    """Interval arithmetic first, isl for what it leaves open.  Raises Refuted."""
    done: set[object] = set()
    for o in obligations:
        known = ranges[o.step.order]
        for d, (x, extent) in enumerate(zip(o.index, o.extents)):
            low, room = interval(x, known)[0], interval(extent - 1 - x, known)[0]
            below, above = low is not None and low >= 0, room is not None and room >= 0
            for fault, fine in ((-1 - x, below), (x - extent, above)):
                key = (o.step.order, fault, id(o.domain))
                if fine or key in done:
                    continue
                done.add(key)
                bad = o.domain.intersect(where((fault,), o.dims))
                if bad.is_empty():
                    continue
                env = point(bad, o.dims)
                last = Affine.of(extent).evaluate(env) - 1
                store = o.step.store
                raise Refuted(
                    Violation(
                        "bounds",
                        f"{o.step.label}: index {x} (dimension {d}) is outside {o.what}",
                        f"{at(o.step, env)}: {x} = {x.evaluate(env)} is outside 0..{last}",
                        (store,) if store else (),
                    )
                )
