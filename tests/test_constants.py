"""Constants: their values are in the kernel, and what follows from them is computed when it is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.autotune.driver import kernel_of
from tensordsl.autotune.workload import canonical_names, with_names, workload
from tensordsl.codegen.c.constants import MOST_BYTES
from tensordsl.codegen.c.printer import to_c
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import buffers

import tensordsl as td
from tensordsl.targets import target

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 24)).astype(np.float32)
W = RNG.standard_normal((40, 24)).astype(np.float32)


def linear(w: Any = W) -> td.Program:
    x = td.placeholder((7, 24), name="x")
    return td.Program([x], [td.ops.linear(x, td.constant(w, name="w"))], name="linear")


@pytest.mark.compiler
def test_not_an_argument() -> None:
    p = linear()
    assert [t.name for t in p.arguments] == ["x"] and [t.name for t in p.constants] == ["w"]
    assert "constant w: float32[40, 24]" in str(p)
    kernel = td.compile(p)
    np.testing.assert_allclose(kernel(X), X @ W.T, rtol=1e-5, atol=1e-5)
    with pytest.raises(td.BuildError, match="takes 1"):
        kernel(X, W)
    key = p.outputs[0].name
    np.testing.assert_allclose(td.interpret(p, {"x": X})[key], X.astype("float64") @ W.T.astype("float64"))
    with pytest.raises(td.ProgramError, match="no input 'w'"):
        td.interpret(p, {"x": X, "w": W})


def test_weights_are_turned_at_build_time() -> None:
    """Rows of weights lie in the order in which vectors are loaded; nothing is packed when the kernel runs."""
    s = default_schedule(linear(), target("avx512"))
    assert [step.name for step in s.trace][:2] == ["relayout", "fold_constants"] or s.trace[0].name == "fold_constants"
    [constant] = s.program.constants
    assert constant.shape == (24, 40)
    np.testing.assert_array_equal(constant.value, W.T)
    assert all(b.scope in ("external", "register") for b in buffers(s.nest).values())
    found = interpret(s.nest, {"x": X})
    np.testing.assert_allclose(found[s.program.outputs[0].name], X @ W.T, rtol=1e-4, atol=1e-4)


def test_what_follows_from_constants_is_folded() -> None:
    x, w = td.placeholder((3, 5), name="x"), td.constant([0.0, 1.0, 2.0, 3.0, 4.0], name="w")
    total = w.sum(axis=0)
    y = td.compute((3, 5), lambda i, j: x[i, j] * w[j] - total, name="y")
    s = default_schedule(td.Program([x], [y]), target("avx2"))
    assert len(s.program.tensors) == 1
    values = {t.name: t.value.tolist() for t in s.program.constants}
    assert values == {"w": [0, 1, 2, 3, 4], "w_sum": 10}
    data = {"x": np.ones((3, 5), np.float32)}
    np.testing.assert_allclose(interpret(s.nest, data)["y"], np.tile(np.arange(5.0) - 10, (3, 1)))


@pytest.mark.compiler
@pytest.mark.parametrize("name", ["float64", "int8", "uint16", "int64", "bool", "float32"])
def test_types(name: str) -> None:
    """Every type, rank 0 too, the values exactly; infinities, nan and the smallest numbers as well."""
    values = np.array([0, 1, 3, 100, 7, 5]).astype(name)
    if values.dtype.kind == "f":
        values = np.array([np.inf, -np.inf, np.nan, np.finfo(name).smallest_subnormal, 0.1, -0.0], name)
    if name == "int64":
        values[1:3] = [np.iinfo(name).min, np.iinfo(name).max]
    x = td.placeholder((6,), name, name="x")
    c, one = td.constant(values, name="c"), td.constant(values[4], name="one")
    y = td.compute((6,), lambda i: td.select(td.equal(x[i], x[i]), c[i], x[i]), name="y")
    z = td.compute((6,), lambda i: td.select(td.equal(x[i], x[i]), one[()], x[i]), name="z")
    found = td.compile(td.Program([x], [y, z]))(np.zeros(6, name))
    np.testing.assert_array_equal(found[0], values)
    np.testing.assert_array_equal(found[1], np.full(6, values[4]))
    assert np.array_equal(np.signbit(found[0].astype(float)), np.signbit(values.astype(float)))


def test_values_are_copied() -> None:
    w = W.copy()
    p = linear(w)
    w[:] = 0
    np.testing.assert_array_equal(p.constants[0].value, W)


def test_a_record_knows_that_it_is_constant_not_its_values() -> None:
    x, w = td.placeholder((7, 24), name="x"), td.placeholder((40, 24), name="w")
    a, b = workload(linear(), "t"), workload(linear(W + 1), "t")
    c = workload(td.Program([x, w], [td.ops.linear(x, w)]), "t")
    assert a == b and a.program != c.program and a.structure != c.structure
    assert a.shapes[1] == "constant float32[40, 24]"
    again = with_names(linear(), canonical_names(linear()))
    assert str(again) == str(linear())


@pytest.mark.compiler
def test_in_a_parallel_loop_and_a_function() -> None:
    """What reads the constant may be printed as a function of its own."""
    p = linear()
    key = p.outputs[0].name
    s = td.Schedule(p).parallel(key, "i").outline(key, "i") if key != "y" else td.Schedule(p)
    np.testing.assert_allclose(kernel_of(s)(X), X @ W.T, rtol=1e-5, atol=1e-5)


@pytest.mark.compiler
def test_tuned(tmp_path: Path) -> None:
    result = td.tune(linear(), trials=3, log_dir=tmp_path)
    np.testing.assert_allclose(result.kernel(X), X @ W.T, rtol=1e-5, atol=1e-5)


@pytest.mark.compiler
def test_in_a_library(tmp_path: Path) -> None:
    library = td.build_library([linear()], tmp_path, name="demo", log_dir=tmp_path / "logs")
    header = (tmp_path / "include" / "demo.h").read_text()
    assert "const float *x" in header and "const float *w" not in header
    assert library.static.exists()


def test_refused() -> None:
    def refused(f: Callable[[], object]) -> str:
        with pytest.raises(td.TensorDSLError) as raised:
            f()
        return str(raised.value)

    assert "an array of" in refused(lambda: td.constant(["a"]))
    c = td.constant(np.zeros((2, 3)), name="c")
    y = td.compute((2, 3), lambda i, j: c[i, j] + 1.0, name="y")
    assert "no input is named 'c'" in refused(lambda: td.Program([], [y], inplace={"y": "c"}))
    big = td.constant(np.zeros(MOST_BYTES // 8 + 1), name="big")
    x = td.placeholder((), "int64", name="x")
    z = td.compute((4,), lambda i: big[i], name="z")
    s = td.Schedule(td.Program([x], [z]))
    assert "make it an input" in refused(lambda: to_c(s.nest, target("portable")))
