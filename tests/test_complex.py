"""complex64 and complex128: the language, interpreters, error bounds, kernels under default and random schedules."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import compile_sources
from tensordsl.codegen.representation import represented
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret as interpret_nest
from tensordsl.schedules.loopnest import buffers
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule

import tensordsl as td
from tensordsl import dtypes
from tensordsl.targets import target
from tests import kernel_runner
from tests.random_schedules import Steps, apply, too_large

TYPES = ("complex64", "complex128")
N = 37


def program(name: str) -> td.Program:
    """Every operation of complex numbers, and sums and products of them."""
    real = dtypes.dtype(name).real
    x, y = td.placeholder((3, N), name, name="x"), td.placeholder((3, N), name, name="y")
    s, r = td.placeholder((), name, name="s"), td.placeholder((N,), real, name="r")
    k = td.reduce_axis(N, name="k")
    formulas: dict[str, Callable[[Any, Any], Any]] = {
        "product": lambda i, j: x[i, j] * y[i, j] + s,
        "quotient": lambda i, j: x[i, j] / y[i, j] - 1.5,
        "exponential": lambda i, j: td.exp(x[i, j]) * r[j],
        "size": lambda i, j: abs(x[i, j]),
        "choice": lambda i, j: td.select(td.real(x[i, j]) > 0, td.conj(x[i, j]), 2j * y[i, N - 1 - j]),
        "parts": lambda i, j: td.imag(x[i, j]) + r[j],
        "equal": lambda i, j: td.equal(x[i, j], x[i, 0]),
        "negative": lambda i, j: -x[i, j] + j,
    }
    outputs = [td.compute((3, N), f, name=n) for n, f in formulas.items()]
    outputs.append(td.compute((3,), lambda i: td.sum(x[i, k] * td.conj(y[i, k]), axis=k), name="dot"))
    outputs.append(td.compute((3,), lambda i: td.prod(x[i, k], axis=k), name="factors"))
    outputs.append(td.matmul(x, y.T))
    return td.Program([x, y, s, r], outputs, name="all")


def references(x: Any, y: Any, s: Any, r: Any) -> list[Any]:
    return [
        x * y + s, x / y - 1.5, np.exp(x) * r, np.abs(x), np.where(x.real > 0, x.conj(), 2j * y[:, ::-1]), x.imag + r,
        x == x[:, :1], -x + np.arange(N), (x * y.conj()).sum(axis=1), x.prod(axis=1), x @ y.T,
    ]  # fmt: skip


def within(found: Any, exact: Any, bound: Any) -> bool:
    return bool((np.abs(found.astype(exact.dtype) - exact) <= bound).all()) if found.dtype != bool else found == exact


@pytest.mark.parametrize("name", TYPES)
def test_the_meaning_is_that_of_numpy(name: str) -> None:
    td.check(program(name), lambda *arrays: [np.asarray(a) for a in references(*arrays)])


@pytest.mark.compiler
@pytest.mark.parametrize("machine", ["native", "avx2", "portable"])
@pytest.mark.parametrize("name", TYPES)
def test_kernels_and_interpreters_agree(name: str, machine: str) -> None:
    p = program(name)
    inputs = td.random_inputs(p, np.random.default_rng(0))
    exact, bound = td.interpret(p, inputs), td.error_bound(p, inputs)
    rounded = td.interpret(p, inputs, dtype="float32")
    plain, single = (interpret_nest(Schedule(p).nest, inputs, dtype=d) for d in ("float64", "float32"))
    found = dict(zip(exact, td.compile(p, target=machine)(*inputs.values())))
    for t in p.outputs:
        np.testing.assert_allclose(plain[t.name], exact[t.name], rtol=1e-12)
        for one in (found, rounded, single):
            assert one[t.name].dtype == t.dtype.numpy
            difference = (
                np.abs(one[t.name].astype(exact[t.name].dtype) - exact[t.name].astype(exact[t.name].dtype))
                if t.dtype.is_inexact
                else one[t.name] != exact[t.name]
            )
            assert (difference <= bound[t.name]).all(), t.name


@pytest.mark.compiler
def test_small_integers_are_exact() -> None:
    a, b = td.placeholder((7, 33), "complex64", name="a"), td.placeholder((33, 20), "complex64", name="b")
    p = td.Program([a, b], [td.matmul(a, b)])
    inputs = td.small_integer_inputs(p, np.random.default_rng(0))
    assert not td.error_bound(p, inputs)["matmul"].any()
    np.testing.assert_array_equal(td.compile(p)(*inputs.values()), inputs["a"] @ inputs["b"])


@pytest.mark.compiler
def test_extreme_numbers_divide_and_have_a_size() -> None:
    """Where the squares of the parts would overflow or vanish."""
    x, y = td.placeholder((6,), "complex64", name="x"), td.placeholder((6,), "complex64", name="y")
    kernel = td.compile(td.Program([x, y], [x / y, abs(x)]))
    a = np.array([1e30 + 1e30j, 1e-30, 3e-30 + 4e-30j, 1e38j, np.inf, 0], np.complex64)
    b = np.array([1e30 - 1e30j, 1e-30j, 1e-30 + 1e-31j, 1e38, 1, 1], np.complex64)
    quotient, size = kernel(a, b)
    np.testing.assert_allclose(quotient[:4], a[:4].astype("c16") / b[:4], rtol=1e-6)
    np.testing.assert_allclose(size, np.abs(a.astype("c16")), rtol=1e-6)


@pytest.mark.compiler
def test_in_place_and_by_number() -> None:
    """Both parts are computed before either is overwritten."""
    x, s = td.placeholder((21,), "complex64", name="x"), td.placeholder((), "complex64", name="s")
    kernel = td.compile(
        td.Program([x, s], [td.compute((21,), lambda i: x[i] * x[i] * s, name="y")], inplace={"y": "x"})
    )
    data = (np.arange(21) - 1j * np.arange(21)[::-1]).astype(np.complex64)
    wanted = data * data * 2j
    assert kernel(data, 2j) is data
    np.testing.assert_array_equal(data, wanted)


@pytest.mark.compiler
def test_recurrence() -> None:
    x = td.placeholder((40,), "complex128", name="x")
    y = td.recurrence(
        (40,), lambda y, i: x[i] + td.select(i > 0, y[i - 1] * 0.5j, 0.0), name="y", order="i", dtype="complex128"
    )
    p = td.Program([x], [y])
    inputs = td.random_inputs(p, np.random.default_rng(0))
    found = td.compile(p)(inputs["x"])
    assert (np.abs(found - td.interpret(p, inputs)["y"]) <= td.error_bound(p, inputs)["y"]).all()


def test_parts_of_the_kernels_own_are_apart() -> None:
    """Vectors of the accumulators are vectors of one part; the caller's memory alternates."""
    a, b = td.placeholder((32, 32), "complex64", name="a"), td.placeholder((32, 32), "complex64", name="b")
    found = buffers(represented(default_schedule(td.Program([a, b], [td.matmul(a, b)]), target("avx2")).nest))
    assert found["a"].shape == (32, 32, 2)
    assert {"matmul_acc_re", "matmul_acc_im"} <= set(found)


@pytest.mark.compiler
@pytest.mark.parametrize("machine", ["native", "portable"])
def test_random_schedules(machine: str, tmp_path: Path) -> None:
    jobs, about, sources = [], [], []
    for seed in range(16):
        p, draw = program(TYPES[seed % 2]), Steps(random.Random(seed))
        s = Schedule(p, checked=False)
        for n in range(8):
            try:
                new = apply(s, draw.draw(s, n / 8))
            except td.ScheduleError:
                continue
            if find_violation(new.nest) is None and not too_large(new.nest):
                s = new
        about.append((seed, s))
        sources.append(to_c(s.nest, target(machine), f"complex_{seed}"))
    for (seed, s), kernel in zip(about, compile_sources(sources)):
        assert not isinstance(kernel, td.BuildError), kernel
        inputs = td.random_inputs(s.nest.program, np.random.default_rng(seed))
        exact, bound = td.interpret(program(TYPES[seed % 2]), inputs), td.error_bound(s.nest.program, inputs)
        kernel_runner.save(tmp_path / f"{seed}.npz", s.nest, [(inputs, exact, bound)])
        jobs.append(kernel_runner.job(kernel, s.nest, tmp_path / f"{seed}.npz", 1))
    for (seed, s), verdict in zip(about, kernel_runner.run(jobs, tmp_path)):
        assert verdict == "right", f"{verdict} for seed {seed} on {machine}\n{s.trace.to_python()}\n{s}"


@pytest.mark.compiler
def test_tuning_and_library(tmp_path: Path) -> None:
    x = td.placeholder((64,), "complex64", name="x")
    p = td.Program([x], [td.compute((64,), lambda i: x[i] * x[i], name="y")], name="square")
    assert '"ok"' in td.tune(p, trials=2, log_dir=tmp_path).log.read_text()
    td.build_library([p], tmp_path / "out", name="waves", log_dir=tmp_path)
    header = (tmp_path / "out" / "include" / "waves.h").read_text()
    assert "waves_square_complex64(const waves_call *call, const float *x, float *y)" in header
    assert "x: complex64 (real and imaginary parts in turn), rank 1, input" in header


Z = td.placeholder((5,), "complex64", name="z")
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "order": (lambda: td.compute((5,), lambda i: Z[i] < 1, name="y"), "lt is not defined for complex numbers"),
    "maximum": (lambda: td.max(Z, axis=0), "max: complex numbers have no order"),
    "function": (lambda: td.tanh(Z), "tanh is not defined for complex numbers"),
    "cast": (lambda: Z.astype("float32"), "a complex64 has no value of type float32"),
    "condition": (
        lambda: td.compute((5,), lambda i: td.select(Z[i], 1, 2), name="y"),
        "the condition of select is complex",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_complex_numbers_have_not_is_refused(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(td.ProgramError, match=message):
        make()
