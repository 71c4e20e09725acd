"""Fuzzing without an end: random programs under random schedules and random damage, until time is up.

    python -m tests.fuzz --seconds 600 --seed 1000 --out failures
    python -m tests.fuzz --replay failures/mutants-1234.json
    python -m tests.fuzz --programs 1000000          every night: goes on where it was stopped

Every case is a function of its kind and seed.  A failure is a JSON file with both, with the programs of the
seed, and with what a person needs to see: the steps, the nest and what is wrong with it.  The nightly command
takes programs of every node kind (random_language.py); its failures are files of tests/regressions, which
test_regressions.py runs from then on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import compile_sources
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import LoopNest
from tensordsl.schedules.lower import lower
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.trace import Trace

import tensordsl as td
from tensordsl import interpreter
from tensordsl.targets import target
from tests import kernel_runner, program_json
from tests.random_programs import STORED, WHOLE, random_program, small_integers
from tests.random_schedules import Steps, apply, too_large
from tests.test_fuzz_c import Case as Kernel
from tests.test_fuzz_c import default_cases, random_case, save_case
from tests.test_fuzz_schedules import Case, unequal
from tests.validation_mutations import mutate
from tests.validation_oracle import verdict

STEPS = 18
DAMAGE = 12  # damaged nests of one schedule
TARGETS = ("native", "portable")


class Wrong(Exception):
    """A case failed; the text shows it."""


def scheduled(program: td.Program, seed: int, gpu: bool = False) -> Schedule:
    """Random steps, each proven before the next."""
    s, draw = Schedule(program, checked=False), Steps(random.Random(seed), gpu)
    for k in range(STEPS):
        step = draw.draw(s, k / STEPS)
        try:
            new = apply(s, step)
        except td.ScheduleError:
            continue
        except Exception as error:
            raise Wrong(f"{step} raised {type(error).__name__}: {error}\nafter\n{s.trace.to_python()}\n{s}") from error
        if find_violation(new.nest) is None and not too_large(new.nest):
            s = new
    return s


def _traces(s: Schedule, program: td.Program) -> None:
    """A trace repeats its schedule, through JSON and as Python."""
    copy = Schedule.replay(program, Trace.from_json(json.loads(json.dumps(s.trace.to_json()))))
    scope = {"s": Schedule(program, checked=False)}
    exec(s.trace.to_python(), scope)
    if not str(copy.nest) == str(scope["s"].nest) == str(s.nest):
        raise Wrong(f"the trace gives another nest\n{s.trace.to_python()}\n{s}")


def program(seed: int) -> None:
    """The plain nest of a program is the program."""
    for smooth in (False, True):
        p = random_program(seed, smooth=smooth)
        inputs = small_integers(p, seed)
        nest, wanted = interpret(lower(p), inputs), interpreter.interpret(p, inputs)
        for name, array in wanted.items():
            same = np.allclose(nest[name], array, 1e-12, 1e-12) if smooth else np.array_equal(nest[name], array)
            if not same:
                raise Wrong(f"smooth={smooth}: {name} differs\n{p}")


def rewrites(seed: int) -> None:
    """Every step, legal or not: the verdict on the nest agrees with running it."""
    case = Case(seed)
    draw, s = Steps(random.Random(seed), gpu=seed % 3 == 0), Schedule(case.program, checked=False)
    for k in range(STEPS):
        step = draw.draw(s, k / STEPS)
        try:
            new = apply(s, step)
        except td.ScheduleError:
            continue
        except Exception as error:
            raise Wrong(f"{step} raised {type(error).__name__}: {error}\nafter\n{s.trace.to_python()}\n{s}") from error
        try:
            proven = case.check(new)
        except AssertionError as error:
            raise Wrong(str(error)) from None
        if proven and not too_large(new.nest):
            s = new
    _traces(s, case.program)


def mutants(seed: int) -> None:
    """A proven nest of few elements, damaged: the verdicts of proof and run agree, written order included."""
    p = random_program(seed, small=True)
    s = scheduled(p, seed, gpu=seed % 3 == 0)
    rng = random.Random(seed)
    inputs = [small_integers(p, 2 * seed + k) for k in range(2)]
    expected = [interpret(lower(p), i) for i in inputs]
    for n in range(DAMAGE):
        nest = s.nest
        for _ in range(min(n, rng.choice((1, 1, 2, 3)))):  # the first one is undamaged
            nest = mutate(nest, rng)
        exact = rng.random() < 0.3
        proven, run = find_violation(nest, exact=exact), verdict(nest, exact)
        if proven is not None and proven.kind == "undecided":
            continue
        if (proven is None) != (run is None):
            raise Wrong(f"proof: {proven}\nrun: {run}\nexact: {exact}\n{s.trace.to_python()}\n{nest}")
        problem = unequal(nest, inputs, expected, 4) if proven is None else None
        if problem is not None:
            raise Wrong(f"proven, but {problem}\n{s.trace.to_python()}\n{nest}")


def kernels(seed: int) -> list[tuple[str, Kernel]]:
    """A random schedule, and proven nests that damage made of it, to be compiled."""
    smooth, rng = seed % 4 == 0, random.Random(seed)
    found = [random_case(seed, smooth)]
    for _ in range(6):
        nest = found[0].nest
        for _ in range(rng.choice((1, 2))):
            nest = mutate(nest, rng)
        if nest is not found[0].nest and find_violation(nest) is None:
            found.append(Kernel(seed, smooth, nest, f"damaged\n{found[0].origin}"))
            break
    return [(TARGETS[rng.random() < 0.3], c) for c in found]


def defaults(seed: int) -> list[tuple[str, Kernel]]:
    """The default schedule and the sketches with random sizes, proven and to be compiled."""
    machine = TARGETS[seed % 2]
    return [(machine, c) for c in default_cases(seed, target(machine), seed % 4 == 0)]


CHECKS: dict[str, Callable[[int], None]] = {"program": program, "rewrites": rewrites, "mutants": mutants}
COMPILED: dict[str, Callable[[int], list[tuple[str, Kernel]]]] = {"kernels": kernels, "defaults": defaults}
KINDS = (*CHECKS, *COMPILED)


def compiled(cases: Sequence[tuple[str, Kernel]]) -> list[str | None]:
    """What is wrong with each kernel, or None."""
    problems: list[str | None] = [None] * len(cases)
    for machine in TARGETS:
        chosen = [n for n, (m, _) in enumerate(cases) if m == machine]
        printed, jobs = [], []
        for n in chosen:
            try:
                printed.append((n, to_c(cases[n][1].nest, target(machine), f"fuzz_{n}")))
            except Exception as error:
                problems[n] = f"{machine}: {type(error).__name__}: {error}"
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for (n, _), kernel in zip(printed, compile_sources([s for _, s in printed])):
                if isinstance(kernel, td.BuildError):
                    problems[n] = f"{machine}: {str(kernel)[:4000]}"
                    continue
                save_case(folder / f"{n}.npz", cases[n][1])
                jobs.append((n, kernel_runner.job(kernel, cases[n][1].nest, folder / f"{n}.npz", 2)))
            for (n, _), found in zip(jobs, kernel_runner.run([j for _, j in jobs], folder) if jobs else []):
                if found != "right":
                    problems[n] = f"{machine}: {found}"
    return problems


# ---------------------------------------------------------------- running


def failure(kind: str, seed: int) -> str | None:
    """What is wrong with one case."""
    return failures(kind, [seed]).get(seed)


def failures(kind: str, seeds: Sequence[int]) -> dict[int, str]:
    """What is wrong with each of some cases; kernels are compiled together."""
    found: dict[int, str] = {}
    cases: list[tuple[str, Kernel]] = []
    for seed in seeds:
        try:
            if kind in CHECKS:
                CHECKS[kind](seed)
            else:
                cases += COMPILED[kind](seed)
        except (Wrong, AssertionError) as wrong:
            found[seed] = str(wrong)
        except Exception:
            found[seed] = traceback.format_exc()
    for (_, case), problem in zip(cases, compiled(cases)):
        if problem is not None:
            found.setdefault(case.seed, f"{problem}\n{case.origin}\n{_nest(case.nest)}")
    return found


def _nest(nest: LoopNest) -> str:
    return f"{nest.program}\n{nest}"


def fuzz(
    seconds: float,
    seed: int,
    out: Path | None = None,
    kinds: Sequence[str] = KINDS,
    batch: int = 12,
    rounds: int | None = None,
) -> tuple[dict[tuple[str, int], str], Counter[str]]:
    """Cases of each kind in turn until the time (or the rounds) are up: the failures, and how many cases
    there were.

    out: the folder that failures are written to, one file each (see `replay`).
    """
    end, first = time.monotonic() + seconds, seed
    wrong: dict[tuple[str, int], str] = {}
    count: Counter[str] = Counter()
    while time.monotonic() < end and (rounds is None or seed < first + rounds * batch):
        for kind in kinds:
            seeds = range(seed, seed + batch)
            for bad, text in failures(kind, seeds).items():
                wrong[kind, bad] = text
                if out is not None:
                    keep(out, kind, bad, text)
            count[kind] += batch
            if time.monotonic() > end:
                break
        seed += batch
    return wrong, count


#: What the kinds ask of the generator of programs.
OPTIONS: tuple[dict[str, bool], ...] = ({}, {"smooth": False}, {"smooth": True}, {"small": True})


def keep(out: Path, kind: str, seed: int, problem: str) -> None:
    """Write a failure to a file of a folder."""
    out.mkdir(parents=True, exist_ok=True)
    programs = []
    with contextlib.suppress(Exception):  # the generator itself may be what fails: the seed is left
        programs = [[o, program_json.to_json(random_program(seed, **o))] for o in OPTIONS]
    data = {"kind": kind, "seed": seed, "problem": problem.splitlines(), "programs": programs}
    (out / f"{kind}-{seed}.json").write_text(json.dumps(data, indent=1))


def replay(path: Path) -> str | None:
    """What is wrong now with the case of a file."""
    data = json.loads(path.read_text())
    seed = data["seed"]
    stored = {(seed, *sorted(o.items())): program_json.from_json(p) for o, p in data.get("programs", ())}
    STORED.update(stored)
    try:
        return failure(data["kind"], seed)
    finally:
        for key in stored:
            del STORED[key]


def nightly(programs: int, seconds: float, progress: Path, out: Path) -> tuple[int, int]:
    """Cases of every kind for the programs that are left; (programs done in all, failures kept in all).

    progress: a file that remembers how far earlier calls came.
    """
    end = time.monotonic() + seconds
    done = json.loads(progress.read_text()) if progress.exists() else {"programs": 0, "cases": {}, "failures": 0}
    while done["programs"] < programs and time.monotonic() < end:
        batch = min(12, programs - done["programs"])
        wrong, count = fuzz(math.inf, WHOLE + done["programs"], out, batch=batch, rounds=1)
        done["programs"] += batch
        done["failures"] += len(wrong)
        done["cases"] = dict(Counter(done["cases"]) + count)
        progress.parent.mkdir(parents=True, exist_ok=True)
        temporary = progress.with_suffix(".new")  # a killed run leaves the old file or the new one
        temporary.write_text(json.dumps(done))
        temporary.replace(progress)
        print(f"{done['programs']} of {programs} programs, {sum(done['cases'].values())} cases, "
              f"{done['failures']} failures", flush=True)  # fmt: skip
    return done["programs"], done["failures"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, help="60; with --programs no limit")
    parser.add_argument("--programs", type=int, help="programs of every node kind in all, over all calls")
    parser.add_argument("--progress", type=Path, default=Path("out/fuzz.json"), help="where --programs left off")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--out", type=Path, help="folder for failures")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of " + ", ".join(KINDS))
    parser.add_argument("--replay", type=Path, nargs="+", help="files of failures to run again")
    given = parser.parse_args(arguments)
    if given.replay:
        texts = {str(path): replay(path) for path in given.replay}
        for path, text in texts.items():
            print(f"{path}: {'right now' if text is None else text}")
        return int(any(text is not None for text in texts.values()))
    if given.programs is not None:
        folder = given.out or Path(__file__).parent / "regressions"
        _, bad = nightly(given.programs, math.inf if given.seconds is None else given.seconds, given.progress, folder)
        return int(bad > 0)
    wrong, count = fuzz(60 if given.seconds is None else given.seconds, given.seed, given.out, given.kinds.split(","))
    for (kind, seed), text in wrong.items():
        print(f"=== {kind} {seed}\n{text[:3000]}\n")
    print(", ".join(f"{n} {kind}" for kind, n in count.items()) + f": {len(wrong)} failures")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
