"""The public functions given what they do not take: one clear error each, before anything is measured or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tensordsl as td
from tensordsl.errors import BuildError, ProgramError, RecordError, TensorDSLError, TuneError

pytestmark = pytest.mark.compiler


@td.operator("x: float32[N]")
def twice(x: td.Tensor) -> td.Tensor:
    return td.compute("N", lambda i: x[i] * 2, name="y")


PROGRAM = twice.bind(N=8)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda d: td.compile(twice, sizes=[{"M": 8}]), ProgramError, "twice has no dimension 'M'"),
        (lambda d: td.compile(twice, sizes=[8]), ProgramError, "sizes are dictionaries, got 8"),
        (lambda d: td.compile(PROGRAM, sizes=[{"N": 8}]), ProgramError, "twice has no open dimensions"),
        (lambda d: td.compile(twice, exact=True), ProgramError, "is for all sizes, a fixed rounding is for some"),
        (lambda d: td.exact(twice.symbolic()), ProgramError, "is for all sizes, a fixed rounding is for some"),
        (lambda d: td.reproducible(twice.symbolic()), ProgramError, "is for all sizes, a fixed rounding is for some"),
        (lambda d: td.compile(twice, debug=True), ProgramError, "is for all sizes, a debug build is for some"),
        (lambda d: td.compile(None), ProgramError, "compile takes a Program, got None"),
        (lambda d: td.compile(PROGRAM, cache="hot"), TuneError, "there is no cache condition 'hot'"),
        (lambda d: td.compile(PROGRAM, target="cuda"), BuildError, "unknown target 'cuda'"),
        (lambda d: td.compile(PROGRAM, log_dir=3), RecordError, "the folder of tuning logs is a path, got a int"),
        (lambda d: td.tune(twice, log_dir=d), ProgramError, "tune takes a Program, got a value of type Operator"),
        (lambda d: td.tune(PROGRAM, trials=0, log_dir=d), TuneError, "trials must be an integer of at least 1"),
        (lambda d: td.tune(PROGRAM, trials=2.5, log_dir=d), TuneError, "trials must be an integer of at least 1"),
        (lambda d: td.tune(PROGRAM, trials="4", log_dir=d), TuneError, "trials must be an integer of at least 1"),
        (lambda d: td.tune(PROGRAM, seconds=float("nan"), log_dir=d), TuneError, "seconds must be positive"),
        (lambda d: td.tune(PROGRAM, trials=1, cache="hot", log_dir=d), TuneError, "there is no cache condition 'hot'"),
        (lambda d: td.verify(PROGRAM), TuneError, "verify takes schedules, got a value of type Program"),
        (lambda d: td.verify(td.Schedule(PROGRAM), cases=["odd"]), TuneError, "verify: there are no inputs 'odd'"),
        (lambda d: td.bench([]), TuneError, "at least one schedule and one round, got 0 and 21"),
        (lambda d: td.bench([td.Schedule(PROGRAM)], rounds=0), TuneError, "got 1 and 0"),
        (lambda d: td.tune(twice.symbolic(), log_dir=d), TuneError, "is for all sizes of N, which nobody can measure"),
        (lambda d: td.build_library([twice, twice], d, name="x"), BuildError, "have the same sizes: any N"),
        (lambda d: td.build_library([3], d, name="x"), BuildError, "got int"),
        (lambda d: td.build_library([], d, name="x"), BuildError, "has no operators"),
        (lambda d: td.build_library([PROGRAM], d, name=5), BuildError, "the library name 5 is not a name in C"),
        (lambda d: td.build_library([PROGRAM], d, name="x", version="1.0\n"), BuildError, "is not numbers with dots"),
        (lambda d: td.build_library([PROGRAM], d, name="x", version=1), BuildError, "is not numbers with dots"),
    ],
)
def test_what_they_do_not_take(call: Any, kind: type[TensorDSLError], message: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as caught:
        call(tmp_path)
    assert message in str(caught.value)
    assert caught.value.location is not None and caught.value.location.file == __file__
    assert not list(tmp_path.iterdir())


def test_a_schedule_of_ones_own_is_compiled_verified_and_timed() -> None:
    kernel = td.compile(td.Schedule(PROGRAM).vectorize("y", "i", 4))
    assert [v.error for v in td.verify(kernel)] == ["", "", ""]
    assert td.bench([kernel, td.Schedule(PROGRAM)], rounds=2)[0].status == "ok"


def test_a_wrong_rewriting_is_found() -> None:
    """A kernel is held against the definition given, not against what its schedule made of it."""
    x = td.placeholder((8,), name="x")
    other = td.Program([x], [td.compute((8,), lambda i: x[i] * 3, name="y")], name="twice")
    [verdict] = td.verify(td.Schedule(PROGRAM), cases=["integers"], program=other)
    assert verdict.error.startswith("wrong_result")


def test_a_cache_that_cannot_be_written_says_which_variable_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TD_CACHE_DIR", str(tmp_path / "file" / "cache"))
    for call in (lambda: td.compile(PROGRAM), lambda: td.build_library([PROGRAM], tmp_path / "out", name="x")):
        with pytest.raises(BuildError, match="cannot be written: Not a directory") as caught:
            call()
        assert "TD_CACHE_DIR" in str(caught.value)
        assert not (tmp_path / "out").exists()
