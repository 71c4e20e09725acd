"""The C printer against the meaning of the nest: every operation, access and kind, for every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import printer_cases_storage  # noqa: F401  (fills CASES)
import pytest
from printed import Printed
from printer_cases import (
    CASES,
    MACHINES,
    check,
)

from tensordsl.targets import target


@pytest.fixture(scope="module", params=MACHINES)
def printed(request: pytest.FixtureRequest) -> Iterator[Printed]:
    isa, compiler = request.param
    yield Printed({name: build()[0] for name, build in CASES.items()}, target(isa), compiler)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("name", sorted(CASES))
def test_printed_nest_means_what_the_interpreter_says(printed: Printed, name: str, shift: int) -> None:
    check(printed, name, CASES[name](), shift)


@pytest.mark.parametrize("name", [n for n in sorted(CASES) if "parallel" in n])
def test_parallel_trips_run_in_any_order(printed: Printed, name: str) -> None:
    check(printed, name, CASES[name](), 0, threads=True)
