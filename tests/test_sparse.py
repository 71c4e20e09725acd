"""Indices, bounds and conditions that are read from memory, through every stage, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tensordsl.autotune.driver import kernel_of
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule

import tensordsl as td
from examples import sparse
from tensordsl.interpreter import random_inputs
from tensordsl.targets import target

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
    return [range(a, b) for a, b in zip(start[:-1], start[1:])]


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
