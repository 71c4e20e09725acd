"""Random programs under random schedules: every proven nest computes its program, every wrong one is refused.

A failure prints Python that repeats it, with the steps that do not matter left out.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import LoopNest
from tensordsl.schedules.lower import lower
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.trace import Step, Trace

import tensordsl as td
from tests.random_programs import random_program, reproducer, small_integers
from tests.random_schedules import ARGUMENTS, Steps, apply, too_large
from tests.validation_oracle import verdict

Arrays = dict[str, np.ndarray[Any, Any]]
#: Seeds of one test; a group is about a second.
GROUP = 12
GROUPS = 10
STEPS = 14


def seeds(group: int) -> range:
    return range(group * GROUP, (group + 1) * GROUP)


def unequal(nest: LoopNest, inputs: Sequence[Arrays], expected: Sequence[Arrays], lanes: int) -> str | None:
    """How the outputs of a nest differ, run in order and in lockstep; None where they are equal."""
    for given, wanted in zip(inputs, expected):
        for lockstep in (False, True):
            try:
                found = interpret(nest, given, lockstep=lockstep, lanes=lanes)
            except td.ScheduleError as error:
                return error.message
            for name, array in wanted.items():
                if not np.array_equal(found[name], array):
                    at = np.argwhere(found[name] != array)[0].tolist()
                    return (
                        f"{name}{at} is {found[name][tuple(at)]}, should be {array[tuple(at)]} (lockstep: {lockstep})"
                    )
    return None


def shrunk(program: td.Program, steps: Sequence[Step], fails: Callable[[Schedule], bool]) -> Trace:
    """The trace without the steps that a failure does not need."""
    kept = list(steps)
    for step in list(kept):
        fewer = [s for s in kept if s is not step]
        try:
            s = Schedule.replay(program, Trace(tuple(fewer)))
        except td.ScheduleError:
            continue
        if fails(s):
            kept = fewer
    return Trace(tuple(kept))


class Case:
    """One program with its inputs and what it should compute."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.program = random_program(seed)
        self.inputs = [small_integers(self.program, 2 * seed + k) for k in range(2)]
        self.expected = [interpret(lower(self.program), i) for i in self.inputs]
        self.lanes = random.Random(seed).choice((4, 8, 16))

    def problem(self, nest: LoopNest) -> str | None:
        return unequal(nest, self.inputs, self.expected, self.lanes)

    def report(self, text: str, s: Schedule, fails: Callable[[Schedule], bool]) -> str:
        trace = shrunk(self.program, list(s.trace), fails)
        return f"{text}\n{reproducer(self.seed, trace)}\n{Schedule.replay(self.program, trace).nest}"

    def check(self, new: Schedule) -> bool:
        """Do the verdicts on a nest agree?  True where it is proven."""
        nest, violation, problem = new.nest, find_violation(new.nest), self.problem(new.nest)
        if violation is None:
            assert problem is None, self.report(
                f"proven, but {problem}",
                new,
                lambda s: find_violation(s.nest) is None and self.problem(s.nest) is not None,
            )
        elif problem is None:  # the data did not show it: run with symbolic contents
            assert verdict(nest) is not None, self.report(
                f"refused, but right: {violation.kind}: {violation.message}",
                new,
                lambda s: find_violation(s.nest) is not None and verdict(s.nest) is None,
            )
        return violation is None


# ---------------------------------------------------------------- programs


@pytest.mark.parametrize("group", range(4))
def test_the_plain_nest_is_the_program(group: int) -> None:
    program_interpreter = pytest.importorskip("tensordsl.interpreter")
    for seed in range(group * 40, (group + 1) * 40):
        for smooth in (False, True):
            program = random_program(seed, smooth=smooth)
            inputs = small_integers(program, seed)
            nest = interpret(lower(program), inputs)
            for name, array in program_interpreter.interpret(program, inputs).items():
                if smooth:
                    np.testing.assert_allclose(nest[name], array, rtol=1e-12, atol=1e-12, err_msg=f"seed {seed}")
                else:
                    assert np.array_equal(nest[name], array), f"seed {seed}: {name}\n{program}"


def test_random_programs_are_exact_in_float32() -> None:
    """Otherwise comparing bits after a reassociation would mean nothing."""
    for seed in range(80):
        program = random_program(seed)
        inputs = small_integers(program, seed)
        nest = lower(program)
        double, single = interpret(nest, inputs), interpret(nest, inputs, dtype="float32")
        for name in double:
            assert np.array_equal(double[name], single[name].astype(double[name].dtype)), f"seed {seed}: {name}"


def test_random_programs_cover_the_language() -> None:
    found: Counter[str] = Counter()
    for seed in range(150):
        for t in random_program(seed, smooth=seed % 2 == 1).tensors:
            d = t.definition
            assert d is not None
            found[t.dtype.name] += 1
            found["reduction" if d.reducer else "recurrence" if d.order else "pointwise"] += 1
            found["several reduction axes"] += len(d.reduce_axes) > 1
            found["extent 1"] += 1 in t.shape
            found.update(e.name for e in td.expr.walk(d.body) if isinstance(e, td.expr.Op))
    wanted = {
        "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "reduction", "recurrence", "pointwise",
        "several reduction axes", "extent 1", "add", "sub", "mul", "div", "max", "min", "abs", "neg", "select", "cast",
        "floordiv", "mod", "exp", "tanh", "erf", "sqrt", "sin", "ge", "lt", "gt", "and",
    }  # fmt: skip
    assert not {w for w in wanted if not found[w]}


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize("group", range(GROUPS))
def test_verdicts_on_random_rewrites(group: int) -> None:
    """Each step is applied unchecked; what the validator says is compared with running the nest."""
    outcome: Counter[bool] = Counter()
    for seed in seeds(group):
        case = Case(seed)
        draw, s = Steps(random.Random(seed)), Schedule(case.program, checked=False)
        for k in range(STEPS):
            step = draw.draw(s, k / STEPS)
            try:
                new = apply(s, step)
            except td.ScheduleError:
                continue
            except Exception as error:
                text = f"{step} raised {type(error).__name__}: {error}"
                raise AssertionError(f"{text}\n{reproducer(seed, s.trace)}") from error
            proven = case.check(new)
            outcome[proven] += 1
            if proven and not too_large(new.nest):
                s = new
        copy = Schedule.replay(case.program, Trace.from_json(json.loads(json.dumps(s.trace.to_json()))))
        assert str(copy.nest) == str(s.nest), reproducer(seed, s.trace)
    assert outcome[True] > 3 * GROUP and outcome[False] > 0, "the fuzz must see legal and illegal rewrites"


def test_traces_are_python() -> None:
    for seed in range(5):
        program = random_program(seed)
        s: Any = Schedule(program, checked=False)
        draw = Steps(random.Random(seed))
        for k in range(STEPS):
            try:
                s = apply(s, draw.draw(s, k / STEPS))
            except td.ScheduleError:
                continue
        scope = {"s": Schedule(program, checked=False)}
        exec(s.trace.to_python(), scope)
        assert str(scope["s"].nest) == str(s.nest)


def test_every_primitive_is_drawn_and_taken() -> None:
    """A step that no random program can take would never be tested."""
    taken: Counter[str] = Counter()
    for seed in range(500):
        s = Schedule(random_program(seed, mixed=False, smooth=seed % 2 == 1), checked=False)
        draw = Steps(random.Random(seed))
        for k in range(2 * STEPS):
            step = draw.draw(s, k / (2 * STEPS))
            try:
                new = apply(s, step)
            except td.ScheduleError:
                continue
            taken[step.name] += str(new.nest) != str(s.nest)
            if not too_large(new.nest):
                s = new
    from tensordsl.schedules.schedule import PRIMITIVES, load_primitives

    load_primitives()
    # GPU mapping and instructions make no CPU nests; few random programs can be streamed, scanned or have constants,
    # and no convolutions: these have their own tests
    special = {"bind", "online", "pipeline", "scan", "tensorize", "fold_constants", "winograd"}
    assert {p for p in PRIMITIVES if p not in ARGUMENTS} <= special
    # a note does not print; programs that scatter are in test_sparse.py
    assert {p for p in ARGUMENTS if not taken[p]} <= {"annotate", "scatter"}
