"""The time loops of examples/stencils.py: tiled in time by the default schedule, proven, and right."""

from __future__ import annotations

import random
import sys
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.autotune.driver import kernel_of
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import Alloc, For, Stmt, rewrite, stores, walk
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches import sketches

import tensordsl as td
from tensordsl import expr
from tensordsl.expr import Op
from tensordsl.targets import target
from tests.polybench_references import inputs_of, references
from tests.random_schedules import Steps, apply, too_large

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import stencils

Array = np.ndarray[Any, Any]
#: Steps and extents.
SIZES: dict[str, tuple[int, ...]] = {
    "jacobi_1d": (9, 61), "jacobi_2d": (5, 33), "heat_3d": (4, 32), "seidel_2d": (9, 33), "fdtd_2d": (9, 24, 35),
    "adi": (3, 14), "life": (9, 64), "wave_2d": (9, 34), "reaction_2d": (9, 35),
}  # fmt: skip
#: Those whose grid is tiled in time when it is larger than the caches.
TILED = ("jacobi_2d", "heat_3d", "seidel_2d", "fdtd_2d", "life", "wave_2d", "reaction_2d")
#: A machine on which the grids above are large.
SMALL = replace(target("avx2"), caches=(1024, 16384, 1 << 20))


def given(name: str, program: td.Program) -> dict[str, Array]:
    if name not in ("life", "wave_2d", "reaction_2d"):
        return inputs_of(name, program)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    draw = (lambda s: rng.integers(0, 2, s)) if name == "life" else rng.random
    return {t.name: draw(t.shape).astype(t.dtype.name) for t in program.inputs}


def expected(name: str, inputs: dict[str, Array], sizes: tuple[int, ...]) -> tuple[Array, ...]:
    own = {"life": _life, "wave_2d": _wave_2d, "reaction_2d": _reaction_2d}
    return own[name](inputs, sizes[0]) if name in own else references(name, inputs, sizes)


def _life(g: dict[str, Array], steps: int) -> tuple[Array, ...]:
    x = g["start"]
    for _ in range(steps):
        p = np.pad(x, 1)
        n = len(x)
        count = sum(p[a : a + n, b : b + n] for a in range(3) for b in range(3)) - x
        x = ((count == 3) | ((count == 2) & (x == 1))).astype("int32")
    return (x,)


def _around(x: Array) -> Array:
    return x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]


def _wave_2d(g: dict[str, Array], steps: int) -> tuple[Array, ...]:
    old, now = g["start"], g["start"]
    for _ in range(steps):
        new = now.copy()
        here = now[1:-1, 1:-1]
        new[1:-1, 1:-1] = 2 * here - old[1:-1, 1:-1] + 0.3 * (_around(now) - 4 * here)
        old, now = now, new
    return (now,)


def _reaction_2d(g: dict[str, Array], steps: int) -> tuple[Array, ...]:
    u, v = g["u0"].astype("float64"), g["v0"].astype("float64")
    for _ in range(steps):
        a, b = u[1:-1, 1:-1], v[1:-1, 1:-1]
        new = (
            a + 0.16 * (_around(u) - 4 * a) + 0.04 * (1 - a) - a * b * b,
            b + 0.08 * (_around(v) - 4 * b) + a * b * b - 0.1 * b,
        )
        u, v = u.copy(), v.copy()
        u[1:-1, 1:-1], v[1:-1, 1:-1] = new
    return u, v


def assert_near(found: Array, wanted: Array) -> None:
    exact = 1e-11 if found.dtype == np.float64 else 1e-4
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0 if found.dtype.kind == "i" else exact)


def steps_of(s: Schedule) -> set[str]:
    return {step.name for step in s.trace}


@pytest.mark.compiler
@pytest.mark.parametrize("name", stencils.STENCILS)
def test_default(name: str) -> None:
    """On a machine with small caches: tiled where its form allows it, proven, right in C and interpreted."""
    program = stencils.STENCILS[name](*SIZES[name])
    inputs = given(name, program)
    wanted = expected(name, inputs, SIZES[name])
    s = default_schedule(program, SMALL)
    assert ("skew" in steps_of(s)) == (name in TILED), s.trace
    assert find_violation(s.nest) is None
    found = kernel_of(s)(*[np.array(inputs[t.name]) for t in program.inputs])
    for value, reference in zip(found if isinstance(found, tuple) else (found,), wanted):
        assert_near(value, reference)


@pytest.mark.parametrize("name", TILED)
def test_any_sizes_of_the_tiles(name: str) -> None:
    """Steps and rows of a tile are holes: every choice is proven, and right when interpreted."""
    program = stencils.STENCILS[name](*SIZES[name])
    [sketch] = sketches(program, SMALL)
    inputs, rng = given(name, program), random.Random(3)
    wanted = dict(zip([t.name for t in program.outputs], expected(name, inputs, SIZES[name])))
    holes = {h: v for h, v in sketch.holes.items() if h.endswith((".steps", ".rows"))}
    assert len(holes) == 2
    for k in range(3):
        chosen = {h: rng.choice([x for x in v if x]) for h, v in holes.items()}
        s = sketch.build(sketch.default | chosen)
        assert find_violation(s.nest) is None, chosen
        if k == 0:
            found = interpret(s.nest, inputs, lockstep=True, lanes=4)
            for key, value in wanted.items():
                assert_near(found[key], value)


@pytest.mark.parametrize("name", stencils.STENCILS)
def test_random_schedules(name: str) -> None:
    """Random steps, each proven before the next, on the loops as they are written."""
    sizes = tuple(min(s, 7) for s in SIZES[name])
    program = stencils.STENCILS[name](*sizes)
    s, draw = Schedule(program, checked=False), Steps(random.Random(zlib.crc32(name.encode())))
    for k in range(12):
        try:
            new = apply(s, draw.draw(s, k / 12))
        except td.ScheduleError:
            continue
        if find_violation(new.nest) is None and not too_large(new.nest):
            s = new
    inputs = given(name, program)
    found = interpret(s.nest, inputs)
    for t, reference in zip(program.outputs, expected(name, inputs, sizes)):
        assert_near(found[t.name], reference)


def test_small_grids_are_not_tiled() -> None:
    program = stencils.STENCILS["jacobi_2d"](20, 40)
    assert "skew" not in steps_of(default_schedule(program, target("avx2")))


def test_sweeps_across_rows_are_vectors_without_conditions() -> None:
    """Coefficients once, buffers along the lanes, and every stage's ranges cut, at equal points too."""
    s = default_schedule(stencils.STENCILS["adi"](3, 30), target("avx2"))
    assert {"project", "permute"} <= steps_of(s)
    found = list(stores(s.nest.body))
    assert not any(isinstance(e, Op) and e.name == "select" for st, _ in found for e in expr.walk(st.value))
    in_vectors = {
        st.instance.tensor for st, path in found if any(isinstance(x, For) and x.kind == "vector" for x in path)
    }
    assert {"q", "s"} <= in_vectors  # the two with divisions


def test_buffers_turn_only_for_vectors() -> None:
    """A sweep along the rows of the caller's array reads with strides, whatever its own buffer."""
    x = td.placeholder((40, 30), name="x")

    def smooth(y, i, j):  # type: ignore[no-untyped-def]
        return 0.5 * x[i, j] + 0.5 * td.select(j > 0, y[i, j - 1], 0.0)

    y = td.recurrence((40, 30), smooth, name="y", order="j")
    z = td.compute((40, 30), lambda i, j: y[i, j] * 2.0, name="z")
    assert "permute" not in steps_of(default_schedule(td.Program([x], [z]), target("avx2")))


def test_names_do_not_matter() -> None:
    """The same loops, however the field and its axes are called."""

    def diffusion(field: str, time: str, down: str, along: str) -> td.Program:
        a = td.placeholder((64, 64), name="a")

        def step(x, t, i, j):  # type: ignore[no-untyped-def]
            new = 0.5 * x[t - 1, i, j] + 0.25 * (x[t - 1, i - 1, j] + x[t - 1, i + 1, j])
            return td.select(t > 0, td.select((i > 0) & (i < 63), new, x[t - 1, i, j]), a[i, j])

        scope: dict[str, Any] = {"step": step}
        exec(f"def named(x, {time}, {down}, {along}): return step(x, {time}, {down}, {along})", scope)
        x = td.recurrence((10, 64, 64), scope["named"], name=field, order=time)
        return td.Program([a], [td.compute((64, 64), lambda p, q: x[9, p, q], name="out")])

    one, other = diffusion("x", "t", "i", "j"), diffusion("heat", "hour", "south", "east")
    traces = [[step.name for step in default_schedule(p, SMALL).trace] for p in (one, other)]
    assert traces[0] == traces[1] and "skew" in traces[0]


def sweeps(steps: int, n: int) -> td.Program:
    """Steps of a stencil as stages of their own, each on a grid smaller by its border."""
    x = a = td.placeholder((n, n), name="x0", dtype="float64")
    for k in range(1, steps + 1):
        size = n - 2 * k

        def mean(x, i, j):  # type: ignore[no-untyped-def]
            around = x[i, j + 1] + x[i + 2, j + 1] + x[i + 1, j] + x[i + 1, j + 2]
            return 0.5 * x[i + 1, j + 1] + 0.125 * around

        x = td.compute((size, size), partial(mean, x), name=f"x{k}")
    return td.Program([a], [x], "sweeps")


@pytest.mark.parametrize("tile", [(4, 8), (5, 3)])
def test_overlapped_tiles(tile: tuple[int, int]) -> None:
    """Tiles of the last step compute the halo that they need of the steps before for themselves: proven."""
    program = sweeps(3, 24)
    s = td.Schedule(program).unchecked().tile("x3", ("i", "j"), tile)
    s = s.compute_at("x2", "x3", "j.o").compute_at("x1", "x3", "j.o").validate()
    shapes = {x.buffer.name: x.buffer.shape for x, _ in walk(s.nest.body) if isinstance(x, Alloc)}
    assert shapes == {"x2": (tile[0] + 2, tile[1] + 2), "x1": (tile[0] + 4, tile[1] + 4)}
    s = s.parallel("x3", "i.o").validate()  # tiles share nothing
    inputs = {"x0": np.random.default_rng(5).random((24, 24))}
    assert_near(interpret(s.nest, inputs)["x3"], td.interpret(program, inputs)["x3"])


def test_a_halo_of_one_row_less_is_refused() -> None:
    s = td.Schedule(sweeps(2, 20)).unchecked().tile("x2", ("i", "j"), (4, 8)).compute_at("x1", "x2", "j.o")

    def shorter(x: Stmt) -> Stmt | None:
        if isinstance(x, For) and x.var == "i":
            return replace(x, hi=tuple(h - 1 for h in x.hi))
        return None

    assert find_violation(s.nest) is None
    assert find_violation(replace(s.nest, body=rewrite(s.nest.body, shorter))) is not None
