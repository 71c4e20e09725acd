"""Which net catches which fault: the validator, the tests that run the nest, or none?

Faults are injected into correct nests (nest_faults.py) and into printed C (text_faults.py).  A fault
that changes nothing (a larger halo, a repeated copy) is no fault: running the nest with symbolic
contents of every cell tells.  No real fault may slip through both nets; the tables are printed
(``pytest -s``).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pytest
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import LoopNest
from tensordsl.schedules.lower import lower
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule

import tensordsl as td
from tests.nest_faults import FAULTS, faulty
from tests.validation_oracle import verdict

#: Places tried for each kind of fault in each nest.
PLACES = 6
LANES = 4


# ---------------------------------------------------------------- correct nests


def product() -> Any:
    """Two tile levels, ragged; the reduction split, partial sums kept in registers; packed; an epilogue."""
    a, b, bias = td.placeholder((7, 9), name="A"), td.placeholder((9, 10), name="B"), td.placeholder((10,), name="bias")
    k = td.reduce_axis(9, "k")
    c = td.compute((7, 10), lambda i, j: td.sum(a[i, k] * b[k, j], axis=k), name="C")
    d = td.compute((7, 10), lambda i, j: c[i, j] * 2.0 + bias[j], name="D")
    s = Schedule(td.Program([a, b, bias], [d], "product"))
    s = s.split("C", "i", 3).split("C", "j", LANES).split("C", "k", 4)
    s = s.reorder("C", "j.o", "k.o", "i.o", "k.i", "i.i", "j.i").vectorize("C", "j.i")
    s = s.reverse_compute_at("D", "C", "i.o").cache_write("C", "i.o")
    return s.cache_read("C", "B", "k.i", scope="register").pack("B_r", "B", at="k.o").parallel("C", "j.o")


def blur() -> Any:
    """Two stencils fused over rows, the first in a buffer folded to the rows still needed."""
    x = td.placeholder((8, 9), name="x")
    h = td.compute((8, 7), lambda i, j: x[i, j] + x[i, j + 1] * 2.0 + x[i, j + 2], name="h")
    v = td.compute((6, 7), lambda i, j: h[i, j] - h[i + 1, j] + h[i + 2, j], name="v")
    s = Schedule(td.Program([x], [v], "blur"))
    return s.compute_at("h", "v", "i").slide("h", "i").vectorize("v", "j", lanes=LANES)


def rows() -> Any:
    """Statistics of a row, then the row again: partial maxima in lanes, everything in one parallel loop."""
    x = td.placeholder((5, 11), name="x")
    k, r = td.reduce_axis(11, "k"), td.reduce_axis(11, "r")
    top = td.compute((5,), lambda i: td.max(x[i, k], axis=k), name="top")
    total = td.compute((5,), lambda i: td.sum(x[i, r] - top[i], axis=r), name="total")
    y = td.compute((5, 11), lambda i, j: (x[i, j] - top[i]) * total[i], name="y")
    s = Schedule(td.Program([x], [y], "rows")).rfactor("top", "k", LANES)
    s = s.compute_at("total", "y", "i").compute_at("top", "y", "i").compute_at("top_rf", "y", "i")
    return s.vectorize("top_rf", "k.l").vectorize("y", "j", lanes=LANES).parallel("y", "i")


def scan() -> Any:
    """A recurrence with a guard at its start, tiled across, and a stage that reads it backwards."""
    x = td.placeholder((6, 5), name="x")
    s = td.recurrence((6, 5), lambda s, t, i: td.select(t >= 1, s[t - 1, i], 0.0) + x[t, i], name="s", order="t")
    y = td.compute((6, 5), lambda t, i: td.select(t < 4, s[5 - t, i] - x[t, i], x[t, i]), name="y")
    return (
        Schedule(td.Program([x], [y], "scan"))
        .split("s", "i", 2)
        .reorder("s", "i.o", "t", "i.i")
        .tile("y", ["t", "i"], [4, 3])
    )


NESTS: dict[str, Callable[[], Any]] = {f.__name__: f for f in (product, blur, rows, scan)}


# ---------------------------------------------------------------- the two nets


@dataclass(slots=True)
class Runs:
    """The inputs a nest is run on, and what it should give."""

    nest: LoopNest

    def __post_init__(self) -> None:
        rng = np.random.default_rng(5)
        program = self.nest.program
        self.inputs = [{t.name: rng.integers(-9, 10, t.shape) for t in program.inputs} for _ in range(2)]
        self.expected = [interpret(lower(program), i) for i in self.inputs]

    inputs: Any = None
    expected: Any = None

    def catch(self, nest: LoopNest) -> bool:
        """Does running the nest, in order and in lockstep, show that something is wrong?"""
        for given, wanted in zip(self.inputs, self.expected):
            for lockstep in (False, True):
                try:
                    found = interpret(nest, given, lockstep=lockstep, lanes=LANES)
                except td.ScheduleError:
                    return True
                if any(not np.array_equal(found[n], a) for n, a in wanted.items()):
                    return True
        return False


def mutants(nest: LoopNest, kind: str) -> Iterator[LoopNest]:
    """Some nests with a fault of a kind, the same ones in every run."""
    found = list(islice(faulty(nest, kind), 200))
    yield from random.Random(kind).sample(found, min(PLACES, len(found)))


def table(title: str, score: dict[str, Counter[str]], columns: tuple[str, ...]) -> str:
    total: Counter[str] = Counter()
    lines = [f"{title:32}" + "".join(f"{c:>12}" for c in columns)]
    for name, row in score.items():
        total.update(row)
        lines.append(f"{name:32}" + "".join(f"{row[c] or '':>12}" for c in columns))
    lines.append(f"{'all':32}" + "".join(f"{total[c]:>12}" for c in columns))
    return "\n".join(lines)


@pytest.mark.parametrize("name", NESTS)
def test_the_nests_are_correct(name: str) -> None:
    nest = NESTS[name]().nest
    assert find_violation(nest) is None and verdict(nest) is None
    assert not Runs(nest).catch(nest)


@pytest.mark.parametrize("name", NESTS)
def test_no_fault_in_a_nest_slips_through(name: str) -> None:
    nest = NESTS[name]().nest
    runs = Runs(nest)
    score: dict[str, Counter[str]] = defaultdict(Counter)
    slipped, unsound = [], []
    for kind in FAULTS:
        for mutant in mutants(nest, kind):
            refused, caught = find_violation(mutant) is not None, runs.catch(mutant)
            outcome = {(True, True): "both", (True, False): "validator", (False, True): "tests"}.get((refused, caught))
            if outcome is None:
                outcome = "harmless" if verdict(mutant) is None else "NEITHER"
            if outcome == "validator" and verdict(mutant) is None:
                outcome = "REFUSED"  # right, but not proven
            score[kind][outcome] += 1
            slipped += [f"{kind}\n{mutant}"] if outcome == "NEITHER" else []
            unsound += [f"{kind}\n{mutant}"] if outcome == "tests" else []
    print("\n" + table(f"faults in {name}", score, ("both", "validator", "tests", "NEITHER", "harmless", "REFUSED")))
    assert not slipped, "caught by neither: " + slipped[0]
    assert not unsound, "proven, but running it shows the fault: " + unsound[0]
    assert sum(c["both"] for c in score.values()) > 50, "the faults must be real"


def test_every_kind_of_fault_fits_somewhere() -> None:
    nests = [f().nest for f in NESTS.values()]
    assert not [kind for kind in FAULTS if not any(True for n in nests for _ in islice(faulty(n, kind), 1))]
