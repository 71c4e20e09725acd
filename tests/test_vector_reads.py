"""What the default schedule makes of rows, strides and neighbours, at the edge of memory.

Reads at fixed distances are whole loads and shuffles, ragged rows are one long row: no load may
reach past either end of an array, whatever the stride, the phase and the tail.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import compile_sources
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.loopnest import For, walk

import tensordsl as td
from tensordsl import interpreter
from tensordsl.affine import Affine
from tensordsl.targets import target
from tests import kernel_runner

MACHINES = ("native", "x86_64-v3-avx2", "portable")


def strided(step: int, count: int, dtype: str = "float32", phase: int = 0) -> td.Program:
    size = abs(step) * (count - 1) + phase + 1
    x = td.placeholder((3, size), dtype, name="x")
    start = phase if step > 0 else size - 1
    y = td.compute((3, count), lambda i, j: x[i, j * step + start], name="y")
    return td.Program([x], [y], f"strided_{abs(step)}_{'up' if step > 0 else 'down'}_{count}_{dtype}_{phase}")


def repeated(times: int, count: int) -> td.Program:
    x = td.placeholder((2, -(-count // times)), name="x")
    return td.Program([x], [td.compute((2, count), lambda i, j: x[i, j // times], name="y")], f"rep_{times}_{count}")


def interleaved(parts: int, count: int) -> td.Program:
    x = td.placeholder((5, parts, count), name="x")
    y = td.compute((5, parts * count), lambda i, j: x[i, j % parts, j // parts], name="y")
    return td.Program([x], [y], f"interleaved_{parts}_{count}")


def ragged(columns: int, dtype: str) -> td.Program:
    x, b = td.placeholder((7, 9, columns), dtype, name="x"), td.placeholder((columns,), dtype, name="b")
    return td.Program([x, b], [x * 2 + b, x + 1], f"ragged_{columns}_{dtype}")


def pooled(size: int, step: int, width: int) -> td.Program:
    x = td.placeholder((2, 3, width, width), name="x")
    return td.Program([x], [td.ops.max_pool2d(x, size, step)], f"pooled_{size}_{step}_{width}")


def several(rows: int) -> td.Program:
    x, y = td.placeholder((rows, 130), name="x"), td.placeholder((rows, 130), name="y")
    total = x + y
    return td.Program([x, y], [total, total * x, td.sum(total, axis=1)], f"several_{rows}")


def argmax() -> td.Program:
    x = td.placeholder((9, 37), name="x")
    top = td.max(x, axis=1)
    k = td.reduce_axis(37, "k")
    first = td.compute((9,), lambda i: td.min(td.select(x[i, k] >= top[i], td.cast(k, "int32"), 37), axis=k))
    return td.Program([x], [first], "argmax")


def transposed(rows: int, columns: int, dtype: str = "float32") -> td.Program:
    x, b = td.placeholder((rows, columns), dtype, name="x"), td.placeholder((rows,), dtype, name="b")
    return td.Program([x, b], [x.T + b], f"transposed_{rows}_{columns}_{dtype}")


def narrow(columns: int) -> td.Program:
    """A function of whole registers on part of one, stored under a mask at the end of memory."""
    x, n = td.placeholder((3, columns), name="x"), td.placeholder((3, columns), "int64", name="n")

    def value(i: Any, j: Any) -> Any:  # 64 bits wide: 8 lanes
        return td.pow(td.abs(x[i, j] + td.cast(td.select(j >= 1, n[i, j - 1], 0), "float32")) + 0.5, 1.5)

    return td.Program([x, n], [td.compute((3, columns), value, name="y")], f"narrow_{columns}")


def halves() -> td.Program:
    """Two masked vectors of which a shuffle takes the first lanes only."""
    x, y = td.placeholder((8,), name="x"), td.placeholder((8,), name="y")
    z = td.compute((16,), lambda i: td.select(i >= 8, y[i % 8] * x[i // 2], 1.0), name="z")
    return td.Program([x, y], [z], "halves")


PROGRAMS = [
    *(narrow(columns) for columns in (3, 5, 7, 9)),
    *(transposed(rows, columns) for rows in (7, 16, 23) for columns in (8, 15, 33)),
    *(transposed(40, 21, t) for t in ("float64", "int16", "uint8")),
    *(strided(step, count) for step in (2, 3, 4, 5, -1, -2, -3) for count in (1, 5, 16, 33, 70)),
    *(strided(2, 40, t, phase) for t in ("uint8", "int16", "float64") for phase in (0, 1)),
    *(repeated(times, count) for times in (2, 3, 4) for count in (7, 16, 66)),
    *(interleaved(parts, count) for parts in (2, 3) for count in (4, 16, 21)),
    *(ragged(columns, t) for columns in (1, 3, 7, 17) for t in ("float32", "uint8", "float64")),
    *(pooled(size, step, width) for size, step in ((2, 2), (3, 2), (2, 1)) for width in (5, 19, 36)),
    several(3),
    several(70),
    argmax(),
    halves(),
]


@pytest.mark.compiler
@pytest.mark.parametrize("name", MACHINES)
def test_kernels_stay_inside_their_arrays(name: str, tmp_path: Path) -> None:
    machine = target(name)
    nests = [default_schedule(p, machine).nest for p in PROGRAMS]
    jobs = []
    kernels = compile_sources([to_c(n, machine, f"reads_{k}") for k, n in enumerate(nests)])
    for k, (program, nest, kernel) in enumerate(zip(PROGRAMS, nests, kernels)):
        assert not isinstance(kernel, td.BuildError), kernel
        inputs: Any = interpreter.small_integer_inputs(program, np.random.default_rng(k))
        wanted = interpreter.interpret(program, inputs)
        bounds = interpreter.error_bound(program, inputs)  # 0 wherever arithmetic is exact
        kernel_runner.save(tmp_path / f"{k}.npz", nest, [(inputs, wanted, bounds)])
        jobs.append(kernel_runner.job(kernel, nest, tmp_path / f"{k}.npz", 1))
    for program, nest, verdict in zip(PROGRAMS, nests, kernel_runner.run(jobs, tmp_path)):
        assert verdict == "right", f"{verdict}: {program.name} on {name}\n{nest}"


def loops(program: td.Program) -> list[str]:
    return [
        s.var for s, _ in walk(default_schedule(program, target("x86_64-v4-avx512")).nest.body) if isinstance(s, For)
    ]


def test_ragged_rows_are_one_long_row() -> None:
    x = td.placeholder((100, 30), name="x")
    assert set(loops(td.Program([x], [x + 1.0], "p"))) == {"i.j.v", "i.j.l"}
    padded = td.Program([x], [td.pad(x, 1)], "q")  # conditions on the index: rows stay rows
    assert loops(padded)[0] == "i"


def test_outputs_that_read_each_other_share_rows() -> None:
    assert loops(several(4096)).count("i") == 1
    assert loops(several(3)).count("i") == 3  # all of it stays in the cache


@pytest.mark.parametrize("formula", [lambda f: (f // 12) * 12 + f % 12, lambda f: 300 * (f // 300) + 3 * (f % 300 // 3) + f % 3])  # fmt: skip
def test_fused_indices_become_one(formula: Callable[[Affine], Affine]) -> None:
    f = Affine.of("f")
    for value in (f, f * 16 + Affine.of("l"), f * 5 + 7):
        assert formula(value).recombined() == value


def test_remainders_of_remainders() -> None:
    f = Affine.of("f")
    assert f % 12 % 3 == f % 3
    assert (f % 12 + f) % 3 == (f * 2) % 3
    assert f % 12 % 5 != f % 5
    for n in range(40):
        assert ((f % 12 * 2 + f + 1) % 4).evaluate({"f": n}) == (n % 12 * 2 + n + 1) % 4
        assert ((f % 12 + 5) % 5).evaluate({"f": n}) == (n % 12 + 5) % 5
