"""From an expression to its C text without measuring time: the calls that Python makes on the way."""

from __future__ import annotations

import cProfile
import sys
from pathlib import Path

import pytest
from tensordsl.codegen.c.printer import to_c
from tensordsl.schedules.default import default_schedule

from tensordsl.targets import target
from tests.polybench_references import SMALL

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from example_programs import example_programs

EXAMPLES = example_programs(SMALL)
#: 0.5 s on a machine that makes 5 million calls a second (benchmarks/expression_to_c.py measures the time).
MOST_CALLS = 2_500_000


@pytest.mark.parametrize("name", EXAMPLES)
def test_calls_to_the_text(name: str) -> None:
    machine = target("avx512")
    profile = cProfile.Profile(subcalls=False)
    profile.enable()
    to_c(default_schedule(EXAMPLES[name](), machine).nest, machine)
    profile.disable()
    calls = sum(entry.callcount for entry in profile.getstats())
    assert calls < MOST_CALLS, f"{calls:,} calls"
