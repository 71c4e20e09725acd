"""No name matters: an example under other names of its operator, tensors and axes gives the same C text."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tensordsl.autotune.workload import canonical_names, with_names
from tensordsl.codegen.c.printer import to_c
from tensordsl.schedules.default import default_schedule

import tensordsl as td
from tensordsl.targets import target
from tests.polybench_references import SMALL

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from example_programs import example_programs

EXAMPLES = example_programs(SMALL)
Names = Sequence[Sequence[str]]


def reversed_order(program: td.Program) -> Names:
    """New names, sorted the other way round; axes are shared only within a recurrence of several tensors."""
    names = canonical_names(program)
    group = {t.name: n for n, g in enumerate(program.groups) for t in g.tensors}
    fresh: dict[tuple[object, ...], str] = {}

    def new(*key: object) -> str:
        return fresh.setdefault(key, f"n{9999 - len(fresh):04}")

    return [[new(t), *(new(group[t], a) for a in axes)] for t, *axes in names]


def exchanged(program: td.Program) -> Names:
    """The same names, given to others."""
    names = canonical_names(program)
    tensors = [line[0] for line in names]
    axes = list(dict.fromkeys(a for line in names for a in line[1:]))
    other = dict(zip(axes, axes[1:] + axes[:1]))
    return [[t, *(other[a] for a in line[1:])] for t, line in zip(tensors[1:] + tensors[:1], names)]


def canonical(text: str) -> str:
    """C without comments, identifiers numbered as they appear; a loop's variable is a new one in each loop."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.S)
    numbers: dict[str, str] = {}
    count = itertools.count()

    def number(found: re.Match[str]) -> str:
        declared, name = found[1] or "", found[2]
        if declared or name not in numbers:
            numbers[name] = f"id{next(count)}"
        return declared + numbers[name]

    return re.sub(r"(\bint64_t )?\b([A-Za-z_]\w*)", number, text)


def renamed(program: td.Program, rule: Callable[[td.Program], Names], name: str) -> td.Program:
    other = with_names(program, rule(program))
    return td.Program(other.inputs, other.outputs, name, other.inplace, other.dims)


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_name_of_an_example_matters(name: str) -> None:
    program = EXAMPLES[name]()
    machine = target("avx2")
    wanted = canonical(to_c(default_schedule(program, machine).nest, machine).body)
    for rule, called in ((reversed_order, "gemm"), (exchanged, "a")):
        other = renamed(program, rule, called)
        found = canonical(to_c(default_schedule(other, machine).nest, machine).body)
        assert found == wanted, f"{rule.__name__}\n{other}"


def test_the_comparison_sees_a_difference() -> None:
    x = td.placeholder((8,), name="x")
    machine = target("avx2")
    texts = {
        canonical(to_c(default_schedule(td.Program([x], [f(x)]), machine).nest, machine).body)
        for f in (lambda x: x + 1, lambda x: x + 2, lambda x: x * 2, td.exp)
    }
    assert len(texts) == 4
