"""Running sums and other recurrences whose steps can be combined: their meaning, their blocks, what is refused."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.autotune.driver import kernel_of
from tensordsl.schedules.associative import steps_of
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.trace import Trace

import tensordsl as td
from tensordsl.targets import target

ROOT = Path(__file__).parent.parent
ISAS = {"avx512": ("avx512", "avx2", "portable"), "avx2": ("avx2", "portable")}.get(target("native").isa, ("portable",))
RUNNING: dict[str, tuple[Callable[..., td.Tensor], Any, float]] = {
    "cumsum": (td.cumsum, np.add, 0.0),
    "cumprod": (td.cumprod, np.multiply, 1.0),
    "cummax": (td.cummax, np.maximum, -np.inf),
    "cummin": (td.cummin, np.minimum, np.inf),
}
Step = Callable[[Any, Any, Any], Any]
STEPS: dict[str, Step] = {
    "sum": lambda h, x, g: h + x,
    "difference": lambda h, x, g: h - x,
    "alternating": lambda h, x, g: x - h,
    "product": lambda h, x, g: h * x,
    "largest": lambda h, x, g: td.maximum(x, h),
    "affine": lambda h, x, g: g * h + x,
    "delta": lambda h, x, g: h - g * (g * h - x),
    "halved": lambda h, x, g: (h + x) / 2,
    "chosen": lambda h, x, g: td.select(g > 0, h * x, -h + g),
    "decaying": lambda h, x, g: td.maximum(h - g, x),
    "clamped": lambda h, x, g: td.minimum(td.minimum(h + x, g), h - g),
}
REFUSED: dict[str, tuple[Step, str]] = {
    "tanh": (lambda h, x, g: td.tanh(g * h + x), "tanh is applied to the previous value"),
    "square": (lambda h, x, g: h * h + x, "the previous value is multiplied by itself"),
    "ratio": (lambda h, x, g: 1 / (x + h), "it divides by the previous value"),
    "scaled": (lambda h, x, g: td.maximum(2 * h, x), "has a factor inside of max"),
    "condition": (lambda h, x, g: td.select(h > 0, x, g), "select is applied to the previous value"),
}


def recurrence(step: Step, n: int, order: str = "j") -> td.Program:
    x, g = td.placeholder((3, n), name="x"), td.placeholder((3, n), name="g")

    def body(h: td.Tensor, i: Any, j: Any) -> Any:
        before, inside = (h[i, j - 1], j > 0) if order == "j" else (h[i, j + 1], j < n - 1)
        return td.select(inside, step(before, x[i, j], g[i, j]), x[i, j])

    return td.Program([x, g], [td.recurrence((3, n), body, name="h", order=order)])


def data(program: td.Program) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1)
    return {t.name: rng.uniform(-1, 1, t.shape).astype(t.dtype.name) for t in program.inputs}


def agrees(program: td.Program, schedule: Schedule, isa: str = "native") -> bool:
    inputs = data(program)
    found = kernel_of(schedule, target(isa))(*inputs.values())
    [(name, exact)] = td.interpret(program, inputs).items()
    bound = td.error_bound(program, inputs)[name]
    return bool(((found == exact) | (np.abs(found - exact) <= bound) | ~np.isfinite(bound)).all())


def expected(v: Any, op: Any, one: float, axis: int, reverse: bool, exclusive: bool) -> Any:
    v = np.flip(v, axis) if reverse else v
    w = op.accumulate(v, axis)
    if exclusive:
        w = np.concatenate([np.full_like(w.take([0], axis), one), w.take(range(w.shape[axis] - 1), axis)], axis)
    return np.flip(w, axis) if reverse else w


# ---------------------------------------------------------------- meaning


@pytest.mark.parametrize("name", RUNNING)
def test_running_results_are_those_of_numpy(name: str) -> None:
    fn, op, one = RUNNING[name]
    v = np.random.default_rng(0).uniform(-1, 1, (4, 9))
    for axis, reverse, exclusive in itertools.product((0, 1, -1), (False, True), (False, True)):
        x = td.placeholder((4, 9), "float64", name="x")
        program = td.Program([x], [fn(x, axis, reverse=reverse, exclusive=exclusive)])
        [found] = td.interpret(program, {"x": v}).values()
        np.testing.assert_allclose(found, expected(v, op, one, axis, reverse, exclusive), rtol=1e-14)
        [blocks] = td.interpret(Schedule(program).scan(f"x_{name}", 4).program, {"x": v}).values()
        np.testing.assert_allclose(blocks, found, rtol=1e-14)


def test_types() -> None:
    assert td.cumsum(td.placeholder((3,), "int8", name="n")).dtype.name == "int8"
    assert td.cumsum(td.placeholder((3,), "bool", name="b")).dtype.name == "int64"


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize("order", ["j", "-j"])
@pytest.mark.parametrize("name", STEPS)
def test_blocks_give_the_recurrence(name: str, order: str) -> None:
    for n, block in ((1, 2), (8, 4), (37, 8)):
        program = recurrence(STEPS[name], n, order)
        schedule = Schedule(program).scan("h", block)
        inputs = data(program)
        want, found = td.interpret(program, inputs)["h"], interpret(schedule.nest, inputs)["h"]
        np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-12)
    assert agrees(program, schedule)
    again = Schedule.replay(program, Trace.from_json(schedule.trace.to_json()))
    assert str(again) == str(schedule)


@pytest.mark.parametrize("isa", ISAS)
def test_the_default_schedule_scans_along_memory(isa: str) -> None:
    for name, exclusive, n in itertools.product(("cumsum", "cummax"), (False, True), (1000, 512, 130)):
        x = td.placeholder((3, n), name="x")
        program = td.Program([x], [RUNNING[name][0](td.square(x), 1, exclusive=exclusive)])
        schedule = default_schedule(program, target(isa))
        assert "scan" in str(schedule.trace), (name, n)
        assert agrees(program, schedule, isa)
    x = td.placeholder((3, 1000), "int32", name="x")
    program = td.Program([x], [td.cumsum(x, 1)])
    for fixed in (program, td.exact(program)):
        schedule = default_schedule(fixed, target(isa))
        assert "scan" in str(schedule.trace)  # whole numbers are the same in any order
        values = np.arange(3000, dtype=np.int32).reshape(3, 1000)
        np.testing.assert_array_equal(kernel_of(schedule, target(isa))(values), values.cumsum(1, dtype=np.int32))


def test_where_the_default_schedule_goes_step_by_step() -> None:
    x = td.placeholder((300, 300), name="x")
    for tensor in (td.cumsum(x, 0), td.cumprod(x, 1)):
        program = td.Program([x], [tensor])
        assert "scan" not in str(default_schedule(program, target("avx2")).trace)
    program = td.exact(td.Program([x], [td.cumsum(x, 1)]))
    assert "scan" not in str(default_schedule(program, target("avx2")).trace)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", REFUSED)
def test_steps_that_cannot_be_combined_say_why(name: str) -> None:
    step, why = REFUSED[name]
    program = recurrence(step, 200)
    with pytest.raises(td.ScheduleError, match=why):
        Schedule(program).scan("h", 8)
    assert agrees(program, default_schedule(program, target("native")))


def test_what_is_not_scanned() -> None:
    program = recurrence(STEPS["sum"], 20)
    s = Schedule(program)
    for block in (0, 1, 3, True, "8"):
        with pytest.raises(td.ScheduleError, match="block"):
            s.scan("h", block)
    with pytest.raises(td.ScheduleError, match="already ordered"):
        s.split("h", "j", 4).scan("h", 4)
    with pytest.raises(td.ScheduleError, match="may change the rounding"):
        Schedule(td.exact(program)).scan("h", 4)
    x = td.placeholder((20,), name="x")
    fibonacci = td.recurrence((20,), lambda f, i: td.select(i > 1, f[i - 1] + f[i - 2], x[i]), name="f", order="i")
    with pytest.raises(td.ScheduleError, match="other elements of itself"):
        Schedule(td.Program([x], [fibonacci])).scan("f", 4)
    with pytest.raises(td.ScheduleError, match="not a recurrence"):
        Schedule(td.Program([x], [td.exp(x)])).scan("exp", 4)
    whole = td.placeholder((20,), "int32", name="n")
    decaying = td.recurrence(
        (20,), lambda h, i: td.select(i > 0, td.maximum(h[i - 1] - 1, whole[i]), 0), name="h", order="i", dtype="int32"
    )
    with pytest.raises(td.ScheduleError, match="wrap around"):
        Schedule(td.Program([whole], [decaying])).scan("h", 4)


def test_arguments() -> None:
    x = td.placeholder((3, 4), name="x")
    with pytest.raises(td.ProgramError, match=r"cumsum: .* has 2 dimensions"):
        td.cumsum(x)
    with pytest.raises(td.ProgramError, match="no axis 2"):
        td.cummax(x, 2)
    with pytest.raises(td.ProgramError, match="cumprod takes a tensor"):
        td.cumprod([1, 2])  # type: ignore[arg-type]


def test_steps_do_not_depend_on_names() -> None:
    first = steps_of(recurrence(STEPS["affine"], 20)["h"])
    assert first.plus == "add" and str(first.scale) == "g[i, j]" and str(first.term) == "x[i, j]"


def test_the_example_runs() -> None:
    done = subprocess.run([sys.executable, "examples/scans.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert float(line.split()[-1]) < 1e-3, line
