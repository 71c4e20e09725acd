"""The debug build: every access of any nest is checked, and a wrong one names the line of its definition."""

from __future__ import annotations

import inspect
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensordsl.autotune.cli import cli
from tensordsl.codegen.checked import checked_kernel, checked_source
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.loopnest import For, LoopNest, Store, rewrite
from tensordsl.schedules.lower import lower
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule

import tensordsl as td
from tensordsl import interpreter
from tensordsl.targets import target
from tests.random_programs import WHOLE, random_program, small_integers
from tests.validation_mutations import mutate
from tests.validation_oracle import verdict

pytestmark = pytest.mark.compiler
NATIVE = target("native")


def blur() -> td.Program:
    x = td.placeholder((10, 12), name="x")
    rows = td.compute((10, 10), lambda i, j: x[i, j] + x[i, j + 1] + x[i, j + 2], name="rows")
    y = td.compute((8, 10), lambda i, j: rows[i, j] + rows[i + 1, j] + rows[i + 2, j], name="y")
    return td.Program([x], [y], name="blur")


def line_of(text: str) -> int:
    lines, first = inspect.getsourcelines(blur)
    return first + next(n for n, line in enumerate(lines) if text in line)


def longer(nest: LoopNest, var: str) -> LoopNest:
    """A loop that runs once too often: the nest is wrong, and nobody has looked at it."""

    def go(s: object) -> For | None:
        if isinstance(s, For) and s.var == var:
            return replace(s, hi=tuple(h + 1 for h in s.hi))
        return None

    return replace(nest, body=rewrite(nest.body, go))


def test_a_right_kernel_computes_the_same() -> None:
    program = blur()
    x = np.arange(120, dtype=np.float32).reshape(10, 12)
    np.testing.assert_array_equal(td.compile(program, debug=True)(x), td.compile(program)(x))
    s = td.Schedule(program).compute_at("rows", "y", "i").parallel("y", "i").vectorize("y", "j", 4)
    np.testing.assert_array_equal(td.compile(s, debug=True)(x), td.compile(program)(x))


def test_the_text_says_where_statements_come_from() -> None:
    text = td.compile(td.Schedule(blur()), debug=True).source.body
    for name, line in (("rows", line_of("rows =")), ("y", line_of("y ="))):
        assert f"/* compute {name}[i, j]: tests/test_debug_build.py:{line} */" in text
    assert "TD_AT(" not in td.compile(blur()).source.body


def test_the_first_violation_is_reported() -> None:
    nest = longer(lower(blur()), "j")
    assert find_violation(nest) is not None, "the validator would have refused it"
    kernel = checked_kernel(nest, NATIVE)
    with pytest.raises(td.BuildError) as caught:
        kernel(np.zeros((10, 12), np.float32))
    error = caught.value
    assert error.message == "blur: compute rows reads x[i, j + 2]: index 12 of x (dimension 1) is outside 0..11"
    assert error.counterexample == "when i = 0, j = 10"
    assert error.location is not None
    assert (Path(error.location.file).name, error.location.line) == ("test_debug_build.py", line_of("rows ="))


def test_a_store_outside_is_reported() -> None:
    def moved(s: object) -> Store | None:
        if isinstance(s, Store) and s.buffer.name == "y":
            return replace(s, index=(s.index[0] - 1, s.index[1]))
        return None

    nest = lower(blur())
    kernel = checked_kernel(replace(nest, body=rewrite(nest.body, moved)), NATIVE)
    with pytest.raises(td.BuildError, match=r"compute y writes y\[i - 1, j\]: index -1 of y \(dimension 0\)") as caught:
        kernel(np.zeros((10, 12), np.float32))
    assert caught.value.location is not None and caught.value.location.line == line_of("y =")
    assert caught.value.counterexample == "when i = 0, j = 0"


def test_what_is_not_chosen_is_not_checked() -> None:
    x = td.placeholder((9,), name="x")
    y = td.compute((11,), lambda i: td.select((i > 0) & (i < 10), x[i - 1], 0.0), name="y")
    kernel = td.compile(td.Program([x], [y]), debug=True)
    np.testing.assert_array_equal(kernel(np.ones(9, np.float32)), np.pad(np.ones(9), 1))


@pytest.mark.parametrize("seed", [*range(8), *range(WHOLE, WHOLE + 12)])
def test_random_programs(seed: int) -> None:
    """The default schedule of any program, folds and copies included, in plain checked loops."""
    program = random_program(seed)
    inputs = small_integers(program, seed)
    wanted = interpreter.interpret(program, inputs)
    kernel = checked_kernel(default_schedule(program, NATIVE).nest, NATIVE)
    arguments = [inputs[p.name] if p.role != "scalar" else inputs[p.name].item() for p in kernel.parameters if p.role != "output"]  # fmt: skip
    found = kernel(*arguments)
    results = found if isinstance(found, tuple) else (found,)
    for t, array in zip(program.outputs, results):
        np.testing.assert_array_equal(array, wanted[t.name])


def test_damaged_nests_never_leave_their_memory() -> None:
    """Accesses that the interpreter of nests refuses are reported, and nothing crashes."""
    reported = 0
    for seed in range(40):
        program = random_program(seed, small=True, odd=False)
        nest, rng = Schedule(program, checked=False).nest, random.Random(seed)
        for _ in range(2):
            nest = mutate(nest, rng)
        run = verdict(nest, False)
        if run is None or find_violation(nest).kind not in ("bounds", "value"):
            continue
        inputs = small_integers(program, seed)
        try:
            kernel = checked_kernel(nest, NATIVE)
        except td.TensorDSLError:
            continue
        arguments = [inputs[p.name] if p.role != "scalar" else inputs[p.name].item() for p in kernel.parameters if p.role != "output"]  # fmt: skip
        try:
            kernel(*arguments)
        except td.BuildError as error:
            reported += "is outside" in error.message
    assert reported >= 3


def test_the_command_line_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from click.testing import CliRunner

    file = tmp_path / "operators.py"
    file.write_text(
        "import tensordsl as td\nx = td.placeholder((8,), name='x')\n"
        "p = td.Program([x], [td.compute((8,), lambda i: 2 * x[i], name='y')])\n"
    )
    result = CliRunner().invoke(cli, ["show", str(file), "--debug", "--target", "portable"])
    assert result.exit_code == 0, result.output
    assert "TD_AT(0, 0, i, 8, i)" in result.output
    assert "operators.py:3" in result.output


def test_a_checked_source_needs_no_vectors() -> None:
    source, checks = checked_source(default_schedule(blur(), target("avx512")).nest, target("avx512"))
    assert "f32x16" not in source.text
    assert {s.buffer.name for s in checks.sites} >= {"x", "y"}
