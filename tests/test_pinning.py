"""Pinning: a user fixes part of a schedule, the tuner fills the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensordsl.autotune.builder import Builder
from tensordsl.autotune.pinning import pinned
from tensordsl.autotune.records import Log
from tensordsl.autotune.space import DEFAULT, Space
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.trace import Trace

import tensordsl as td
from tensordsl.targets import target

AVX2 = target("avx2")


def layers() -> td.Program:
    """Two products, the second with an epilogue, and a row sum."""
    a, b, c = (td.placeholder(s, name=n) for s, n in (((24, 32), "a"), ((32, 40), "b"), ((40, 48), "c")))
    k, m = td.reduce_axis(32, "k"), td.reduce_axis(40, "m")
    y = td.compute((24, 40), lambda i, j: td.sum(a[i, k] * b[k, j], axis=k), name="y")
    z = td.compute((24, 48), lambda i, j: td.sum(y[i, m] * c[m, j], axis=m), name="z")
    out = td.compute((24, 48), lambda i, j: td.maximum(z[i, j], 0.0), name="out")
    return td.Program([a, b, c], [out, out.sum(axis=1)], name="layers")


def candidates(builder: Builder, count: int = 12) -> list[Schedule]:
    space = Space(builder.sketches)
    found = [space.draw({}) for _ in range(count)]
    return [builder.schedule(c) for c in [DEFAULT, *found] if c is not None]


def test_a_hole_keeps_its_value_in_every_candidate() -> None:
    program = layers()
    pin = pinned(program, AVX2, {"y.mr": 6, "z.nv": 1})
    [sketch] = pin.sketches
    assert sketch.holes["y.mr"] == (6,) and sketch.default["y.mr"] == 6 and sketch.default["z.nv"] == 1
    assert len(sketch.holes["z.mr"]) > 1
    for schedule in candidates(Builder(program, AVX2, pin=pin)):
        schedule.validate()
        steps = [str(s) for s in schedule.trace]
        assert any(s.startswith('split("y", "i"') and "6" in s for s in steps)
        assert 'split("z", "j", 8)' in steps


def test_the_default_moves_to_what_is_allowed() -> None:
    program = layers()
    free = Builder(program, AVX2).sketches[0].default
    [sketch] = pinned(program, AVX2, {"y.nv": 5}).sketches  # five vectors leave registers for two rows
    assert sketch.allowed(sketch.default) and sketch.default["y.mr"] < free["y.mr"]


def test_a_schedule_is_completed() -> None:
    program = layers()
    mine = Schedule(program).split("y", "i", 4).reorder("y", "i.o", "j", "i.i").unroll("y", "i.i")
    pin = pinned(program, AVX2, mine)
    assert all(not hole.startswith("y.") for s in pin.sketches for hole in s.holes)
    assert any(hole.startswith("z.") for s in pin.sketches for hole in s.holes)
    for schedule in candidates(Builder(program, AVX2, pin=pin)):
        schedule.validate()
        assert schedule.trace.steps[: len(mine.trace.steps)] == mine.trace.steps
        assert not any(s.args[0] == "y" for s in schedule.trace.steps[len(mine.trace.steps) :])
    nest = str(Builder(program, AVX2, pin=pin).schedule(DEFAULT))
    assert "unroll i.i in 0..4:" in nest and "z_acc" in nest  # the user's loops, and the rules' tile


def test_what_a_schedule_touches_is_not_inlined_or_moved() -> None:
    x = td.placeholder((8, 64), name="x")
    p = td.compute((8, 64), lambda i, j: x[i, j] + 1, name="p")
    q = td.compute((8, 64), lambda i, j: p[i, j] * 2, name="q")
    program = td.Program([x], [q])
    for mine, kept in ((Schedule(program).unroll("p", "i"), "p"), (Schedule(program).compute_at("p", "q", "i"), "p")):
        schedule = Builder(program, AVX2, pin=pinned(program, AVX2, mine)).schedule(DEFAULT)
        assert any(t.name == kept for t in schedule.program.tensors)
        schedule.validate()


def test_definition_steps_are_kept() -> None:
    program = layers()
    mine = Schedule(program).rfactor("out_sum", "j", 16, "partial")
    schedule = Builder(program, AVX2, pin=pinned(program, AVX2, mine)).schedule(DEFAULT)
    assert "partial" in [t.name for t in schedule.program.tensors]
    assert str(Schedule.replay(program, Trace.from_json(schedule.trace.to_json()))) == str(schedule)


def test_tuning_with_pins(tmp_path: Path) -> None:
    program = layers()
    rng = np.random.default_rng(0)
    arrays = {t.name: rng.standard_normal(t.shape).astype(np.float32) for t in program.inputs}
    exact, bounds = td.interpret(program, arrays), td.error_bound(program, arrays)
    mine = Schedule(program).split("y", "i", 4)
    for pin in ({"z.mr": 2}, mine):
        found = td.tune(program, "portable", trials=4, log_dir=tmp_path, pin=pin)
        for name, got in zip(exact, found.kernel(*arrays.values())):
            assert (np.abs(got - exact[name]) <= bounds[name]).all()
        again = td.tune(program, "portable", trials=4, log_dir=tmp_path, pin=pin)
        assert all(t.resumed for t in again.history) and len(again.history) == len(found.history)
    assert found.schedule.trace.steps[0] == mine.trace.steps[0]
    keys = {r.workload.pin for r in Log(found.log).read()}
    assert "z.mr=2" in keys and len(keys) == 2
    # they are no records of the program itself
    from tensordsl.autotune.driver import best_schedule

    assert best_schedule(program, target("portable"), tmp_path).rung == "default"


def test_pins_that_cannot_be() -> None:
    program = layers()
    for pin, message in (
        ({"y.rows": 4}, "pin: layers has no hole 'y.rows'"),
        ({"y.mr": 3}, "pin: nothing in the space of layers has y.mr=3"),
        ({"y.mr": 16, "y.nv": 5}, "pin: nothing in the space of layers has y.mr=16, y.nv=5"),
        ({"y.mr": "6"}, "pin: y.mr = '6' is not an integer"),
        ({}, r"pin=\{\} is neither"),
        (7, "pin=7 is neither"),
    ):
        with pytest.raises(td.TuneError, match=message):
            td.tune(program, pin=pin)  # type: ignore[arg-type]
    with pytest.raises(td.TuneError) as caught:
        pinned(program, AVX2, {"y.mrr": 6})
    assert "did you mean 'y.mr'?" in str(caught.value)
    x = td.placeholder((8,), name="x")
    other = Schedule(td.Program([x], [td.compute((8,), lambda i: 2 * x[i], name="w")])).split("w", "i", 4)
    with pytest.raises(td.TuneError, match=r"pin: the schedule's steps do not apply to layers: split\(\"w\""):
        pinned(program, AVX2, other)
