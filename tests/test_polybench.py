"""The kernels of examples/polybench.py: their meaning, their default schedule in C, random schedules."""

from __future__ import annotations

import random
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from tensordsl.autotune.driver import kernel_of
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import compile_sources
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule

import tensordsl as td
from tensordsl.targets import target
from tests import kernel_runner
from tests.polybench_references import MINI, SMALL, TINY, Array, inputs_of, references
from tests.random_schedules import Steps, apply, too_large

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import polybench

KERNELS = polybench.KERNELS
STEPS = 16
SCHEDULES = 3


def assert_near(found: Array, expected: Array) -> None:
    """Equal up to rounding, relative to the largest element; integers exactly."""
    assert found.shape == expected.shape
    if expected.dtype.kind == "i":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * (1.0 + abs(expected).max()))


def called(kernel: td.Kernel, program: td.Program, given: dict[str, Array]) -> tuple[Array, ...]:
    """The outputs for copies of the inputs."""
    result = kernel(*[np.array(given[t.name]) for t in program.inputs])
    return result if isinstance(result, tuple) else (result,)


def test_all_thirty_are_there() -> None:
    assert len(KERNELS) == 30 and set(KERNELS) == set(MINI) == set(SMALL) == set(TINY)


@pytest.mark.compiler
@pytest.mark.parametrize("name", KERNELS)
def test_mini(name: str) -> None:
    """The interpreter and the default schedule in C against numpy."""
    program = KERNELS[name](*MINI[name])
    given = inputs_of(name, program)
    expected = references(name, given, MINI[name])
    meaning = td.interpret(program, given)
    found = called(kernel_of(default_schedule(program, target("native"))), program, given)
    for t, value, reference in zip(program.outputs, found, expected):
        assert_near(meaning[t.name], reference)
        assert_near(value, reference)


@pytest.mark.compiler
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "seidel_2d")) for n in KERNELS])
def test_small(name: str) -> None:
    """Larger than any tile: the default schedule in C against numpy."""
    program = KERNELS[name](*SMALL[name])
    given = inputs_of(name, program)
    found = called(kernel_of(default_schedule(program, target("native"))), program, given)
    for value, reference in zip(found, references(name, given, SMALL[name])):
        assert_near(value, reference)


def random_schedule(program: td.Program, seed: int) -> Schedule:
    """Random steps, each proven before the next."""
    s, draw = Schedule(program, checked=False), Steps(random.Random(seed))
    for k in range(STEPS):
        try:
            new = apply(s, draw.draw(s, k / STEPS))
        except td.ScheduleError:
            continue
        if find_violation(new.nest) is None and not too_large(new.nest):
            s = new
    return s


@pytest.mark.compiler
@pytest.mark.parametrize("name", KERNELS)
def test_random_schedules(name: str, tmp_path: Path) -> None:
    """Random legal schedules, interpreted and in C at the edge of memory."""
    program = KERNELS[name](*TINY[name])
    given = inputs_of(name, program)
    expected = dict(zip([t.name for t in program.outputs], references(name, given, TINY[name])))
    near = {key: np.full(np.shape(v), 1e-11 * (1.0 + abs(v).max())) for key, v in expected.items()}
    schedules = [random_schedule(program, zlib.crc32(name.encode()) + k) for k in range(SCHEDULES)]
    jobs = []
    for k, s in enumerate(schedules):
        for lockstep in (False, True):
            found = interpret(s.nest, given, lockstep=lockstep)
            for key, value in expected.items():
                assert_near(found[key], value)
        [kernel] = compile_sources([to_c(s.nest, target("native"), f"random_{k}")])
        assert not isinstance(kernel, td.BuildError), f"{kernel}\n{s.trace}"
        kernel_runner.save(tmp_path / f"{k}.npz", s.nest, [(given, expected, near)])
        jobs.append(kernel_runner.job(kernel, s.nest, tmp_path / f"{k}.npz", 1))
    for s, verdict in zip(schedules, kernel_runner.run(jobs, tmp_path)):
        assert verdict == "right", f"{verdict}\n{s.trace}\n{s.nest}"


@pytest.mark.parametrize("name", ["gemm", "two_mm", "symm", "trmm", "doitgen", "syrk", "syr2k", "mvt", "gemver"])
def test_an_output_in_place_is_scheduled_like_any_other(name: str) -> None:
    """The epilogue of a register tile and partial sums may write to, and read, the memory of an input."""
    program = KERNELS[name](*SMALL[name])
    apart = td.Program(program.inputs, program.outputs, program.name)
    found, wanted = (
        {(step.name, step.args[0]) for step in default_schedule(p, target("native")).trace} for p in (program, apart)
    )
    kinds = {"reverse_compute_at", "cache_write", "rfactor"}
    if name == "doitgen":  # a tile that writes its part of a row would spoil it for the next one
        kinds.remove("reverse_compute_at")
    assert not {step for step in wanted - found if step[0] in kinds}
