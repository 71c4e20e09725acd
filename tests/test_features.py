"""The analytical model: its counts against what the loops do."""

from __future__ import annotations

import numpy as np
import pytest
from tensordsl.autotune.features import analyse
from tensordsl.autotune.instructions import count
from tensordsl.autotune.space import Space
from tensordsl.autotune.traffic import traffic
from tensordsl.schedules.loopnest import Alloc, Buffer, For, If, Instance, Store, items, loop
from tensordsl.schedules.lower import lower
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches import sketches

import tensordsl as td
from tensordsl import dtypes, targets
from tensordsl.affine import Affine, variables

TARGET = targets.target("avx512")


def product(m: int, k: int, n: int) -> td.Program:
    a, b = td.placeholder((m, k), name="a"), td.placeholder((k, n), name="b")
    r = td.reduce_axis(k, name="k")
    return td.Program([a, b], [td.compute((m, n), lambda i, j: td.sum(a[i, r] * b[r, j], axis=r), name="c")], name="mm")


def executions(body) -> int:
    """Stores executed, by running the loops."""

    def run(s, env) -> int:
        if isinstance(s, For):
            low = max(a.evaluate(env) for a in s.lo)
            high = min(a.evaluate(env) for a in s.hi)
            return sum(run(s.body, {**env, s.var: v}) for v in range(low, high, s.step))
        if isinstance(s, If):
            branch = s.then if all(c.evaluate(env) >= 0 for c in s.conditions) else s.otherwise
            return 0 if branch is None else run(branch, env)
        if isinstance(s, Store):
            return 1
        return sum(run(c, env) for c in (items(s) if not hasattr(s, "body") else (s.body,)))

    return run(body, {})


def test_plain_loops():
    found = count(lower(product(8, 16, 32)).body, 64)
    assert found.flops == 2 * 8 * 16 * 32
    assert found.arithmetic == 8 * 16 * 32  # each a fused multiply-add
    assert found.statements == 8 * 32 * (1 + 16)
    assert found.lane_use == 1 / 16
    assert found.chains == 1


def test_every_schedule_of_a_sketch_does_the_same_work():
    program = product(40, 24, 56)
    [sketch, *_] = sketches(program, TARGET)
    space = Space([sketch], seed=2)
    for _ in range(6):
        c = space.draw({})
        cost = analyse(sketch.build(dict(c.params)).nest, TARGET)
        assert cost.instructions.arithmetic == pytest.approx(40 * 24 * 56, rel=0.15), c
        assert cost.instructions.vector_ops >= 40 * 24 * 56 / 16
        assert 0 < cost.instructions.lane_use <= 1
        assert cost.cycles >= cost.core
        assert np.isfinite(cost.vector()).all()


def test_register_tiles():
    s = Schedule(product(64, 64, 64)).unchecked().split("c", "i", 4).split("c", "j", 32)
    s = s.reorder("c", "i.o", "j.o", "k", "i.i", "j.i").cache_write("c", "j.o", name="tile")
    tile = s.unroll("c", "i.i").vectorize("c", "j.i")
    found = count(tile.nest.body, 64)
    plain = count(lower(product(64, 64, 64)).body, 64)
    assert found.registers == 8  # 4 rows of 2 vectors
    assert found.chains == 8
    assert found.latency < plain.latency / 16
    # per step of k: 4 numbers of a, 2 vectors of b
    assert found.broadcasts == 16 * 2 * 64 * 4
    assert found.loads == 16 * 2 * 64 * 2
    assert found.stores == 64 * 4


X = Buffer("x", (64, 64), dtypes.float32)
Y = Buffer("y", (64, 64), dtypes.float32)


def store(*index, value=None) -> Store:
    i = tuple(Affine.of(a) for a in index)
    return Store(Y, i, value if value is not None else X.at(*index), Instance("compute", "y", i))


@pytest.mark.parametrize("size", [3, 5, 20, 33])
def test_triangles_and_short_tiles(size):
    i, t = variables("i", "t")
    triangle = loop("i", 0, size, loop("j", i, size, store("i", "j")))
    assert count(triangle, 64).statements == pytest.approx(executions(triangle), rel=0.12)
    tiled = loop("t", 0, -(-size // 8), loop("j", t * 8, (t * 8 + 8, Affine.of(size)), store(0, "j")))
    assert count(tiled, 64).statements == pytest.approx(executions(tiled), rel=0.12)
    guarded = loop("i", 0, size, If((i - size // 2,), store("i", 0)))
    assert count(guarded, 64).statements == pytest.approx(executions(guarded), rel=0.4)


def test_short_vectors_waste_lanes():
    body = loop("i", 0, 10, loop("j", 0, 20, store("i", "j"), kind="vector"))
    found = count(body, 64)
    assert found.lane_use == pytest.approx(20 / 32)
    assert found.loads == found.stores == 20


def test_what_does_not_change_is_counted_outside():
    scale = Buffer("s", (64,), dtypes.float32)
    value = X.at("i", "j") * td.exp(scale.at("i"))
    inside = count(loop("i", 0, 8, loop("j", 0, 64, store("i", "j", value=value))), 64)
    assert inside.flops == 8 * 64 + 8
    assert inside.broadcasts == 8 * 64 + 8
    local = Buffer("t", (1,), dtypes.float32, "stack")
    body = loop(
        "i", 0, 8, loop("j", 0, 64, Alloc(local, loop("k", 0, 4, store("i", "j", value=td.exp(local.at(0))))))
    )  # fmt: skip
    assert count(body, 64).flops == 8 * 64  # new for each i and j, the same for each k


def test_columns_are_gathered():
    across = count(loop("i", 0, 8, loop("j", 0, 64, store("i", "j", value=X.at("j", "i")), kind="vector")), 64)
    assert across.gathers == across.broadcasts == 8 * 64
    assert across.loads == 0


def nest_of(body):
    return type("Nest", (), {"body": body, "parameters": (X, Y)})()


def test_traffic_of_a_copy():
    rows = nest_of(loop("i", 0, 64, loop("j", 0, 64, store("i", "j"))))
    size = 2 * 64 * 64 * 4
    assert traffic(rows, (1 << 30, 1 << 30), cold=False).into == (0.0, 0.0)
    assert traffic(rows, (1 << 30,), cold=True).into == (size,)
    assert traffic(rows, (1024, 1 << 30), cold=False).into == (size, 0.0)
    assert traffic(rows, (1024,), cold=False).compulsory == size


def test_traffic_of_columns():
    """Column by column, each number costs its whole cache line unless the lines of 64 rows fit."""
    columns = nest_of(loop("j", 0, 64, loop("i", 0, 64, store("i", "j"))))
    lines = 2 * 64 * 64  # one line a row, of x and of y
    assert traffic(columns, (lines,), cold=False).into == (2 * 64 * 64 * 4,)
    assert traffic(columns, (lines - 1,), cold=False).into == (64 * lines,)


def test_reuse_between_iterations():
    """What every iteration reads again stays where one iteration fits."""
    value = X.at("j", 0) + X.at("j", 1)
    again = nest_of(loop("i", 0, 64, loop("j", 0, 64, store("i", "j", value=value))))
    column, row = 64 * 64, 64 * 4
    assert traffic(again, (column + row,), cold=False).into == (column + 64 * row,)
    assert traffic(again, (column,), cold=False).into == (64 * (column + row),)


def test_costs_rank_tiles_by_what_limits_them():
    """A tile with one accumulator waits for its latency, a tile past the registers spills."""
    program = product(256, 256, 256)
    [sketch, *_] = sketches(program, TARGET)
    prefix = next(k for k in sketch.holes if k.endswith(".mr"))[:-3]

    def cycles(mr: int, nv: int) -> float:
        params = {**sketch.default, f"{prefix}.mr": mr, f"{prefix}.nv": nv}
        return analyse(sketch.build(params).nest, TARGET).cycles

    good = cycles(8, 3)
    assert cycles(1, 1) > 2 * good
    assert cycles(28, 2) > 1.2 * good
