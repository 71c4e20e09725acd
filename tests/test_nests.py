"""The schedules of examples/nests.py: proven, interpreted and compiled at small ragged sizes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.autotune.driver import kernel_of
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import Prefetch, walk
from tensordsl.schedules.schedule import Schedule

import tensordsl as td
from tensordsl.targets import target

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import nests

CASES: dict[str, Any] = {
    "gemm with split sum": lambda: nests.gemm(21, 50, 19, mr=4, nr=32, kc=8, mc=8),
    "gemm unpacked": lambda: nests.gemm(9, 33, 12, mr=3, nr=16, kc=12, mc=9, packed=False),
    "gemm prefetched": lambda: nests.gemm(21, 50, 19, mr=4, nr=32, kc=32, mc=8, near=4),
    "blur": lambda: nests.blur(14, 70),
    "jacobi": lambda: nests.jacobi(48, 4, rows=3),
    "attention": lambda: nests.attention(64, 32, keys=32),
}


@pytest.mark.parametrize("name", CASES)
def test_interpreted_and_compiled(name: str) -> None:
    s = CASES[name]()
    inputs = td.random_inputs(s.program, np.random.default_rng(1))
    expected, bound = td.interpret(s.program, inputs), td.error_bound(s.program, inputs)
    for lockstep in (False, True):
        for key, value in interpret(s.nest, inputs, lockstep=lockstep).items():
            if key in expected:
                assert (np.abs(value - expected[key]) <= bound[key] + 1e-12).all()
    out = kernel_of(s)(*[inputs[t.name] for t in s.program.inputs])
    key = s.program.outputs[0].name
    assert (np.abs(out - expected[key]) <= bound[key]).all()


@pytest.mark.parametrize("name", CASES)
def test_trace_replays(name: str) -> None:
    s = CASES[name]()
    plain = nests.attention_program(64, 32) if name == "attention" else s.program  # before its definition steps
    again = Schedule.replay(plain, type(s.trace).from_json(s.trace.to_json()))
    assert str(again) == str(s)


def test_a_fold_too_small_is_refused() -> None:
    """A sweep reads the slice before: one slice is not enough."""
    s = nests.jacobi(48, 4, rows=3)
    with pytest.raises(td.ScheduleError, match="does not hold"):
        s.unchecked().fold("x", 0, 1).validate()


def test_default_schedule_of_the_library_operators() -> None:
    x, w = td.placeholder((5, 37), name="x"), td.placeholder((37, 21), name="w")
    g, b = td.placeholder((37,), name="g"), td.placeholder((37,), name="b")
    i, f = td.placeholder((2, 3, 9, 11), name="i"), td.placeholder((4, 3, 3, 3), name="f")
    programs = [
        td.Program([x, w], [td.ops.gelu(x @ w)], name="gelu_matmul"),
        td.Program([x], [td.ops.softmax(x, axis=-1)], name="softmax"),
        td.Program([x, g, b], [td.ops.layer_norm(x, g, b)], name="layer_norm"),
        td.Program([i, f], [td.ops.conv2d(i, f, padding=1)], name="conv2d"),
    ]
    for program in programs:
        s = default_schedule(program, target("native"))
        inputs = td.random_inputs(program, np.random.default_rng(2))
        expected, bound = td.interpret(program, inputs), td.error_bound(program, inputs)
        out = kernel_of(s)(*[inputs[t.name] for t in program.inputs])
        key = program.outputs[0].name
        assert (np.abs(out - expected[key]) <= bound[key]).all(), program.name


def test_a_stage_is_not_placed_where_nothing_reads_it() -> None:
    """compute_at into a loop without a reader would drop the stage's stores."""
    x = td.placeholder((8,), name="x")
    p = td.compute((8,), lambda i: x[i] + 1.0, name="p")
    q = td.compute((8,), lambda i: p[i] * 2.0, name="q")
    with pytest.raises(td.ScheduleError, match="reads q"):
        td.Schedule(td.Program([x], [q, p], name="two")).unchecked().compute_at("q", "p", "i")


def test_each_line_of_the_next_steps_is_asked_for() -> None:
    """Two vectors a step, four steps ahead, only where the packed panel is read."""
    hints = [
        (x.buffer.name, [str(i) for i in x.index])
        for x, _ in walk(CASES["gemm prefetched"]().nest.body)
        if isinstance(x, Prefetch)
    ]
    assert hints and {b for b, _ in hints} == {"panel"}
    assert {i[1] for _, i in hints} == {"k.i + 4"} and {i[2] for _, i in hints} == {"0", "16"}
