"""Random programs in C: under random proven schedules, the default schedule and sketches.

Kernels run at the edge of memory (kernel_runner.py).  Exact programs are compared to the last bit,
smooth ones within the derived bound of their rounding errors.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import compile_sources
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.loopnest import LoopNest
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches import sketches

import tensordsl as td
from tensordsl import interpreter
from tensordsl.targets import Target, target
from tests import kernel_runner
from tests.random_programs import random_program, reproducer, small_integers, smooth_values
from tests.random_schedules import Steps, apply, too_large

pytestmark = pytest.mark.compiler
STEPS = 14
TRIALS = 2


@dataclass(frozen=True, slots=True)
class Case:
    """A nest of a random program, and how to make it again."""

    seed: int
    smooth: bool
    nest: LoopNest
    origin: str


def check(cases: list[Case], machine: Target, folder: Path) -> None:
    """Every case compiles and computes its program."""
    sources = [to_c(c.nest, machine, f"fuzz_{k}") for k, c in enumerate(cases)]
    jobs = []
    for k, (case, kernel) in enumerate(zip(cases, compile_sources(sources))):
        assert not isinstance(kernel, td.BuildError), f"{kernel}\n{case.origin}"
        save_case(folder / f"{k}.npz", case)
        jobs.append(kernel_runner.job(kernel, case.nest, folder / f"{k}.npz", TRIALS))
    for case, verdict in zip(cases, kernel_runner.run(jobs, folder)):
        assert verdict == "right", f"{verdict} on {machine.id}\n{case.origin}\n{case.nest}"


def save_case(path: Path, case: Case) -> None:
    """Inputs, and what they should give."""
    program = case.nest.program
    # the values are the original program's; the rounding is that of the program after definition steps
    original = random_program(case.seed, smooth=case.smooth)
    trials = []
    for k in range(TRIALS):
        inputs = (smooth_values if case.smooth else small_integers)(program, 10 * case.seed + k)
        bounds = interpreter.error_bound(program, inputs) if case.smooth else None
        trials.append((inputs, interpreter.interpret(original, inputs), bounds))
    kernel_runner.save(path, case.nest, trials)


def random_case(seed: int, smooth: bool) -> Case:
    """Random steps, each proven before the next."""
    program = random_program(seed, smooth=smooth)
    s, draw = Schedule(program, checked=False), Steps(random.Random(seed))
    for k in range(STEPS):
        try:
            new = apply(s, draw.draw(s, k / STEPS))
        except td.ScheduleError:
            continue
        if find_violation(new.nest) is None and not too_large(new.nest):
            s = new
    return Case(seed, smooth, s.nest, reproducer(seed, s.trace, **({"smooth": True} if smooth else {})))


def default_cases(seed: int, machine: Target, smooth: bool) -> list[Case]:
    """The default schedule, and sketches with random sizes."""
    program, rng = random_program(seed, smooth=smooth), random.Random(seed)
    schedules = {"default_schedule": default_schedule(program, machine)}
    for sketch in sketches(program, machine):
        sizes = {hole: rng.choice(values) for hole, values in sketch.holes.items()}
        if sizes and sketch.allowed(sizes):
            schedules[f"{sketch.name} {sizes}"] = sketch.build(sizes)
    cases = []
    for name, s in schedules.items():
        origin = f"{name}\n{reproducer(seed, s.trace, **({'smooth': True} if smooth else {}))}"
        violation = find_violation(s.nest)
        assert violation is None, f"{violation.message}\n{origin}\n{s.nest}"
        cases.append(Case(seed, smooth, s.nest, origin))
    return cases


RANDOM: dict[str, tuple[str, range, bool]] = {
    "native": ("native", range(40), False),
    "portable": ("portable", range(2000, 2025), False),
    "smooth": ("native", range(3000, 3020), True),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_schedules(name: str, tmp_path: Path) -> None:
    machine, seeds, smooth = RANDOM[name]
    check([random_case(seed, smooth) for seed in seeds], target(machine), tmp_path)


DEFAULT: dict[str, tuple[str, range, bool]] = {
    "native": ("native", range(4000, 4030), False),
    "portable": ("portable", range(5000, 5015), False),
    "smooth": ("native", range(6000, 6030), True),
}


@pytest.mark.parametrize("name", DEFAULT)
def test_default_schedules(name: str, tmp_path: Path) -> None:
    machine, seeds, smooth = DEFAULT[name]
    found: Callable[[int], list[Case]] = lambda seed: default_cases(seed, target(machine), smooth)  # noqa: E731
    check([c for seed in seeds for c in found(seed)], target(machine), tmp_path)
