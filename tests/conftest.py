"""Fixtures of all tests: golden texts, tools that may be missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
#: A golden text longer than this is a property in disguise (lines).
LONGEST = 60
#: marker -> the programs one of which must be installed
TOOLS = {"nvcc": ("nvcc",), "compiler": ("gcc", "clang", "cc")}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden texts anew")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "compiler: needs a C compiler")
    config.addinivalue_line("markers", "isa(name): needs a processor with this instruction set")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, tools in TOOLS.items():
        if item.get_closest_marker(marker) and not any(shutil.which(t) for t in tools):
            pytest.skip(f"none of {', '.join(tools)} is installed")
    isa = item.get_closest_marker("isa")
    if isa is not None and not _runs(isa.args[0]):
        pytest.skip(f"this processor has no {isa.args[0]}")


def _runs(isa: str) -> bool:
    """Does this machine execute code of an instruction set?"""
    from tensordsl.targets import target

    native = target("native").isa
    return isa == native or isa == "portable" or (isa, native) == ("avx2", "avx512")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``golden(text)`` or ``golden(text, "part")`` compares with tests/golden/<test>[.part].txt.

    ``pytest --update-golden`` writes the files; a missing one fails.
    """

    def check(text: object, part: str = "") -> None:
        name = request.node.name.replace("[", "-").replace("]", "")
        path = GOLDEN / f"{name}{'.' + part if part else ''}.txt"
        actual = str(text).rstrip("\n") + "\n"
        lines = actual.count("\n")
        assert lines < LONGEST, f"{path.name} has {lines} lines: test a property instead"
        if request.config.getoption("--update-golden"):
            GOLDEN.mkdir(exist_ok=True)
            path.write_text(actual)
        assert path.exists(), f"no golden text {path.name}: look at the output, then run pytest --update-golden"
        assert actual == path.read_text(), f"{path.name} differs; pytest --update-golden accepts the new text"

    return check
