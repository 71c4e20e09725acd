"""Indices, bounds and conditions that are read from memory, through every stage, against numpy."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.autotune.driver import kernel_of
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import compile_sources
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import Alloc, For, LoopNest, Seq, Stmt, rewrite
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule

import tensordsl as td
from examples import sparse
from tensordsl.interpreter import random_inputs
from tensordsl.targets import target
from tests import kernel_runner
from tests.random_programs import small_integers
from tests.random_schedules import Steps, apply
from tests.validation_mutations import mutate

Arrays = dict[str, np.ndarray[Any, Any]]
SIZES = {"V": 11, "D": 19, "N": 23, "T": 17, "B": 6, "M": 7, "K": 21, "H": 5, "W": 18, "Z": 29, "S": 4}
OPERATORS = {n: v for n, v in vars(sparse).items() if isinstance(v, td.Operator)}


def program_of(name: str) -> td.Program:
    operator = OPERATORS[name]
    return operator.bind(**{d: SIZES[d] for d in operator.dims})


def inputs_of(program: td.Program, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    inputs = random_inputs(program, rng)
    for name in ("start", "offset"):  # rows of growing size, some empty
        if name in inputs and seed % 2:
            inputs[name].sort()
    for name in ("row", "column"):
        if name in inputs and inputs[name].dtype == np.float32:
            inputs[name] = rng.uniform(-3, 22, inputs[name].shape).astype(np.float32)
    return inputs


def rows(start: np.ndarray[Any, Any]) -> list[range]:
    return [range(a, b) for a, b in itertools.pairwise(start)]


def bilinear(image: Any, row: Any, column: Any) -> Any:
    image = image.astype(np.float64)
    i, j = np.floor(row).astype(int), np.floor(column).astype(int)
    u, v = row.astype(np.float64) - i, column.astype(np.float64) - j
    at = lambda a, b: image[np.clip(a, 0, image.shape[0] - 1), np.clip(b, 0, image.shape[1] - 1)]  # noqa: E731
    upper, lower = (1 - v) * at(i, j) + v * at(i, j + 1), (1 - v) * at(i + 1, j) + v * at(i + 1, j + 1)
    return (1 - u) * upper + u * lower


def at_least(x: Any, segment: Any) -> Any:
    out = np.full((SIZES["S"], x.shape[1]), -np.inf)
    np.maximum.at(out, segment, x)
    return out


def added(x: Any, index: Any) -> Any:
    out = np.zeros((SIZES["M"], x.shape[1]))
    np.add.at(out, index, x)
    return out


REFERENCES = {
    "embedding": lambda table, token: table[token],
    "padded_embedding": lambda table, token: np.where(token[:, None] >= 0, table[token], 0),
    "embedding_bag": lambda table, token, offset: np.stack([table[token[list(r)]].sum(axis=0) for r in rows(offset)]),
    "take_along_axis": lambda x, index: np.take_along_axis(x, index, -1),
    "tone_curve": lambda image, curve: curve[image],
    "bilinear": bilinear,
    "spmv": lambda value, column, start, x: np.array([value[list(r)] @ x[column[list(r)]] for r in rows(start)]),
    "spmm": lambda value, column, start, x: np.stack([value[list(r)] @ x[column[list(r)]] for r in rows(start)]),
    "histogram": lambda x: np.bincount(x, minlength=SIZES["B"]),
    "scatter_add": added,
    "segment_max": at_least,
}


def wide(inputs: Arrays) -> Arrays:
    return {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in inputs.items()}


def close(found: Any, expected: Any, bound: Any) -> bool:
    both = (found == expected) | (np.abs(np.asarray(found, np.float64) - expected) <= bound)
    return bool(both.all())


def test_every_operator_has_a_reference() -> None:
    assert sorted(OPERATORS) == sorted(REFERENCES)


@pytest.mark.parametrize("name", OPERATORS)
def test_meaning(name: str) -> None:
    """The interpreter, and the one of plain loops, say what numpy says."""
    program = program_of(name)
    assert find_violation(Schedule(program).nest) is None
    for seed in (0, 1):
        inputs = inputs_of(program, seed)
        [output] = program.outputs
        expected = REFERENCES[name](**wide(inputs))
        assert np.allclose(td.interpret(program, inputs)[output.name], expected, rtol=1e-12, atol=1e-12)
        assert np.allclose(interpret(Schedule(program).nest, inputs)[output.name], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.compiler
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("name", OPERATORS)
def test_default_schedule(name: str, isa: str) -> None:
    """The default schedule is proven, and its C within the bound of rounding errors."""
    machine = target(isa)
    program = program_of(name)
    s = default_schedule(program, machine)
    assert find_violation(s.nest) is None
    kernel = kernel_of(s, machine)
    for seed in (0, 1, 2):
        inputs = inputs_of(program, seed)
        [output] = program.outputs
        expected = td.interpret(program, inputs)[output.name]
        assert np.array_equal(interpret(s.nest, inputs, lockstep=True)[output.name].shape, expected.shape)
        assert close(kernel(*inputs.values()), expected, td.error_bound(program, inputs)[output.name])


def draws(program: td.Program, count: int) -> list[Arrays]:
    """Small integers, so that every order of adding gives the same."""
    return [small_integers(program, seed) for seed in range(count)]


def runs_right(nest: LoopNest, program: td.Program, inputs: list[Arrays], **how: Any) -> bool:
    try:
        return all(
            np.array_equal(interpret(nest, x, **how)[n], wanted, equal_nan=True)
            for x in inputs
            for n, wanted in td.interpret(program, x).items()
        )
    except td.ScheduleError:
        return False


#: Sizes for which the nest interpreter takes milliseconds.
TINY = {"V": 4, "D": 5, "N": 6, "T": 7, "B": 3, "M": 3, "K": 4, "H": 3, "W": 4, "Z": 7, "S": 3}


def tiny(name: str) -> td.Program:
    operator = OPERATORS[name]
    return operator.bind(**{d: TINY[d] for d in operator.dims})


@pytest.mark.parametrize("name", OPERATORS)
def test_random_schedules(name: str) -> None:
    """Random steps, each proven: what is left computes the program, also in lockstep."""
    program = tiny(name)
    for seed in range(6):
        s, draw = Schedule(program), Steps(random.Random(f"{name} {seed}"))
        for k in range(10):
            try:
                s = apply(s, draw.draw(s, k / 10))
            except td.ScheduleError:
                continue
        inputs = draws(program, 2)
        assert runs_right(s.nest, program, inputs), f"{s.trace.to_python()}\n{s}"
        assert runs_right(s.nest, program, inputs, lockstep=True, lanes=4), f"{s.trace.to_python()}\n{s}"


@pytest.mark.parametrize("name", OPERATORS)
def test_a_damaged_nest_is_refused(name: str) -> None:
    """Whatever is proven after random damage is right on random data; most of it is refused."""
    program = tiny(name)
    rng = random.Random(name)
    starts = [Schedule(program).nest, default_schedule(program, target("avx2")).nest]
    refused = 0
    inputs = draws(program, 8)
    for _ in range(40):
        damaged = mutate(rng.choice(starts), rng)
        if find_violation(damaged) is not None:
            refused += 1
        else:
            assert runs_right(damaged, program, inputs), damaged
    assert refused > 10


def test_a_promise_that_is_broken() -> None:
    """A call whose index is outside its stated range is refused by both, and computes nothing."""
    program = program_of("padded_embedding")
    inputs = inputs_of(program, 0)
    inputs["token"][3] = SIZES["V"]
    text = r"input token: int32\[23\] in -1..10 holds a value outside its range\n.*\n.*token\[3\] = 11"
    with pytest.raises(td.ProgramError, match=text):
        td.interpret(program, inputs)
    out = np.full((SIZES["N"], SIZES["D"]), 7, np.float32)
    with pytest.raises(td.ProgramError, match=text):
        td.compile(program)(*inputs.values(), out=out)
    assert (out == 7).all()


def test_equal_indices_are_read_once() -> None:
    """The eight clamped coordinates of a bilinear sample are four numbers."""
    assert sum("index" in t.name for t in program_of("bilinear").tensors) == 4


@pytest.mark.compiler
@pytest.mark.parametrize("name", OPERATORS)
def test_random_schedules_in_c(name: str, tmp_path: Path) -> None:
    """The C of random proven schedules gives the same, to the last bit on small integers, at the edge of memory."""
    program, machine = tiny(name), target("native")
    cases = []
    for seed in range(12):
        s, draw = Schedule(program), Steps(random.Random(f"C {name} {seed}"))
        for k in range(10):
            try:
                s = apply(s, draw.draw(s, k / 10))
            except td.ScheduleError:
                continue
        cases.append(s)
    sources = [to_c(s.nest, machine, f"sparse_{n}") for n, s in enumerate(cases)]
    jobs = []
    for n, (s, compiled) in enumerate(zip(cases, compile_sources(sources))):
        assert not isinstance(compiled, td.BuildError), f"{compiled}\n{s.trace.to_python()}\n{s}"
        trials = [(x, td.interpret(program, x), None) for x in draws(program, 3)]
        kernel_runner.save(tmp_path / f"{n}.npz", s.nest, trials)
        jobs.append(kernel_runner.job(compiled, s.nest, tmp_path / f"{n}.npz", len(trials)))
    for s, verdict in zip(cases, kernel_runner.run(jobs, tmp_path)):
        assert verdict == "right", f"{verdict}\n{s.trace.to_python()}\n{s}"


ARRAY_NOTATION: dict[str, Any] = {
    "first": lambda x, i, j, k: x[i],
    "two": lambda x, i, j, k: x[i, j],
    "inner": lambda x, i, j, k: x[:, j],
    "last": lambda x, i, j, k: x[..., k],
    "beside slices": lambda x, i, j, k: x[1:3, :, k],
    "new dimension": lambda x, i, j, k: x[None, :, j],
    "beside steps": lambda x, i, j, k: x[i, j, ::2],
}


@pytest.mark.parametrize("name", ARRAY_NOTATION)
def test_tensors_as_indices(name: str) -> None:
    """As numpy's, where they stand beside each other."""
    rng = np.random.default_rng(0)
    x = td.placeholder((4, 5, 6), name="x")
    i = td.placeholder((3, 2), "int32", name="i", values=range(4))
    j, k = td.placeholder((2,), "int64", name="j", values=range(5)), td.placeholder((7,), "uint8", name="k")
    y = ARRAY_NOTATION[name](x, i, j, td.clip(k, 0, 5))
    program = td.Program([x, i, j, k], [y])
    inputs = random_inputs(program, rng)
    picked = ARRAY_NOTATION[name](inputs["x"], inputs["i"], inputs["j"], np.clip(inputs["k"], 0, 5))
    [found] = td.interpret(program, inputs).values()
    assert np.array_equal(found, picked)
    assert find_violation(default_schedule(program, target("avx2")).nest) is None


def test_take_along_axis() -> None:
    x = td.placeholder((4, 5), name="x")
    index = td.placeholder((4, 3), "int32", name="index", values=range(5))
    along = td.placeholder((2, 5), "int32", name="along", values=range(4))
    outputs = [td.take_along_axis(x, index, -1), td.take_along_axis(x, along, 0)]
    program = td.Program([x, index, along], outputs)
    inputs = random_inputs(program, np.random.default_rng(0))
    first, second = td.interpret(program, inputs).values()
    assert np.array_equal(first, np.take_along_axis(inputs["x"], inputs["index"], -1))
    assert np.array_equal(second, np.take_along_axis(inputs["x"], inputs["along"], 0))


def test_a_prefetch_reads_its_index_in_bounds() -> None:
    """The element that is asked for may lie outside; the numbers that say which one are read."""
    s = Schedule(tiny("spmv"))
    with pytest.raises(td.ScheduleError, match=r"start\[m \+ 2\].*|index m \+ 2"):
        s.prefetch("out", "x", "m", ahead=2)


@pytest.mark.compiler
def test_a_condition_on_data_is_asked_in_active_lanes_alone(tmp_path: Path) -> None:
    """A partial vector of guarded rows does not read the indices of rows that do not exist."""
    program = tiny("padded_embedding")
    s = Schedule(program).split("out", "n", 4).reorder("out", "n.o", "d", "n.i").vectorize("out", "n.i", lanes=4)
    machine = target("native")
    [compiled] = compile_sources([to_c(s.nest, machine, "partial_rows")])
    assert not isinstance(compiled, td.BuildError)
    trials = [(x, td.interpret(program, x), None) for x in draws(program, 2)]
    kernel_runner.save(tmp_path / "0.npz", s.nest, trials)
    assert kernel_runner.run([kernel_runner.job(compiled, s.nest, tmp_path / "0.npz", 2)], tmp_path) == ["right"]


def ragged_by_computed_ends() -> td.Program:
    x, v = td.placeholder((5,), "int32", name="x"), td.placeholder((6,), name="v")
    ends = td.compute((5,), lambda i: td.clip(x[i], 0, 6), name="ends")
    z = td.reduce_axis(6, name="z")
    total = td.compute((4,), lambda m: td.sum(v[z], axis=z, where=(ends[m] <= z) & (z < ends[m + 1])), name="total")
    return td.Program([x, v], [total])


def test_bounds_that_are_computed_first() -> None:
    """Numbers that bound a loop are there before it starts, and it does not change them."""
    program = ragged_by_computed_ends()
    nest = Schedule(program).nest
    assert find_violation(nest) is None
    assert runs_right(nest, program, draws(program, 4))
    assert isinstance(nest.body, Alloc) and isinstance(nest.body.body, Seq)
    ends, total = nest.body.body.items
    late = find_violation(replace(nest, body=replace(nest.body, body=Seq((total, ends)))))
    assert late is not None and late.kind == "value"

    def inside(x: Stmt) -> Stmt | None:
        return replace(x, body=Seq((ends, x.body))) if isinstance(x, For) and x.var == "z" else None

    again = rewrite(total, inside)
    found = find_violation(replace(nest, body=replace(nest.body, body=again)))
    assert found is not None and "is written there" in found.message
    found = find_violation(replace(nest, body=replace(nest.body, body=Seq((ends, again)))))
    assert found is not None and "is written there" in found.message


def test_a_guard_on_a_computed_index() -> None:
    """A condition on the expression that is the index guards it."""
    x, n = td.placeholder((5,), name="x"), td.placeholder((7,), "int32", name="n")

    def element(i: td.Expr) -> td.Expr:
        at = td.clip(n[i], -1, 4)
        return td.select(at >= 0, x[at], -1.0)

    program = td.Program([x, n], [td.compute((7,), element, name="y")])
    inputs = {"x": np.arange(5, dtype=np.float32), "n": np.array([-9, -1, 0, 2, 4, 7, 1], np.int32)}
    assert td.interpret(program, inputs)["y"].tolist() == [-1, -1, 0, 2, 4, 4, 1]
    for machine in (target("avx2"), target("portable")):
        assert find_violation(default_schedule(program, machine).nest) is None
