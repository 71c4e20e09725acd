"""Cases for the C printer: every operation, access and kind, for every instruction set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from printed import Printed
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    Instance,
    LoopNest,
    Outline,
    Stmt,
    Store,
    loop,
    rewrite,
    seq,
)  # fmt: skip
from tensordsl.schedules.lower import lower

import tensordsl as td
from tensordsl import dtypes, expr
from tensordsl.affine import Affine
from tensordsl.dtypes import DType
from tensordsl.expr import Expr

V = Affine.of
Case = tuple[LoopNest, dict[str, Any]]
CASES: dict[str, Callable[[], Case]] = {}
CLANG = pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")
MACHINES = [
    *(pytest.param((i, "gcc"), marks=pytest.mark.isa(i), id=f"{i}-gcc") for i in ("avx512", "avx2")),
    pytest.param(("portable", "gcc"), id="portable-gcc"),
    pytest.param(("avx512", "clang"), marks=[pytest.mark.isa("avx512"), CLANG], id="avx512-clang"),
    pytest.param(("avx2", "clang"), marks=[pytest.mark.isa("avx2"), CLANG], id="avx2-clang"),
]


def case(f: Callable[[], Case]) -> Callable[[], Case]:
    CASES[f.__name__] = f
    return f


# ---------------------------------------------------------------- building


def nest(inputs: list[Buffer], outputs: list[Buffer], body: Stmt) -> LoopNest:
    """A nest with a program of the right interface (its meaning is that of the body alone)."""
    ins = [td.placeholder(b.shape, b.dtype, name=b.name) for b in inputs]

    def zero(t: DType) -> Callable[..., Expr]:
        return lambda *i: td.cast(0, t)

    outs = [td.compute(b.shape, zero(b.dtype), name=b.name) for b in outputs]
    return LoopNest(td.Program(ins, outs, name="test"), (*inputs, *outputs), body)


def put(b: Buffer, index: tuple[Any, ...], value: Any, op: str = "", nt: bool = False) -> Store:
    at = tuple([V(i) for i in index])
    return Store(b, at, expr.expression(value, b.dtype), Instance("compute", b.name, at), op, nt)


def array(name: str, *shape: int, t: str = "float32", scope: Any = "external", **more: Any) -> Buffer:
    return Buffer(name, shape, dtypes.dtype(t), scope, **more)


def kinds(n: LoopNest, **kind: Any) -> LoopNest:
    def change(s: Stmt) -> Stmt | None:
        if isinstance(s, For) and s.var in kind:
            return For(s.var, s.lo, s.hi, s.body, kind[s.var], s.step)
        return None

    return LoopNest(n.program, n.parameters, rewrite(n.body, change))


def values(t: str | DType, *shape: int, seed: int = 0) -> Any:
    """Numbers whose sums and products of a few are exact in every type."""
    r = np.random.default_rng(seed)
    kind = np.dtype(str(t))
    if kind.kind == "b":
        return r.random(shape) < 0.5
    low = 0 if kind.kind == "u" else -4
    return r.integers(low, 5, shape).astype(kind)


# ---------------------------------------------------------------- running


def check(printed: Printed, name: str, case: Case, shift: int, rtol: float = 0.0, threads: bool = False) -> None:
    n, arrays = case
    expected = interpret(n, arrays)
    actual = printed.run(name, arrays, shift=shift, threads=threads)
    for output, value in expected.items():
        got = actual[n.program.inplace.get(output, output)]
        if got.dtype.kind == "f":
            np.testing.assert_allclose(got, value, rtol=rtol, atol=rtol, err_msg=output)
        else:
            np.testing.assert_array_equal(got, value, err_msg=output)


# ---------------------------------------------------------------- programs, plain and vectorised


def matmul(m: int, n: int, k: int, t: str = "float32") -> tuple[LoopNest, dict[str, Any]]:
    a, b = td.placeholder((m, k), t, name="A"), td.placeholder((k, n), t, name="B")
    r = td.reduce_axis(k, name="k")
    c = td.compute((m, n), lambda i, j: td.sum(a[i, r] * b[r, j], axis=r), name="C")
    return lower(td.Program([a, b], [c], name="matmul")), {"A": values(t, m, k), "B": values(t, k, n, seed=1)}


@case
def plain_matmul() -> Case:
    return matmul(7, 9, 5)


@case
def vector_columns() -> Case:
    n, arrays = matmul(5, 37, 6)
    return kinds(n, j="vector"), arrays


@case
def vector_columns_double() -> Case:
    n, arrays = matmul(5, 13, 6, "float64")
    return kinds(n, j="vector"), arrays


@case
def vector_reduction() -> Case:
    n, arrays = matmul(3, 4, 43)
    return kinds(n, k="vector"), arrays


@case
def vector_rows_are_strided() -> Case:
    n, arrays = matmul(21, 3, 4)
    return kinds(n, i="vector", k="unroll"), arrays


@case
def integer_matmul() -> Case:
    n, arrays = matmul(4, 35, 6, "int32")
    return kinds(n, j="vector"), arrays


@case
def byte_matmul_wraps() -> Case:
    n, arrays = matmul(3, 70, 4, "int8")
    arrays = {k: (v * 37).astype(np.int8) for k, v in arrays.items()}
    return kinds(n, j="vector"), arrays


@case
def many_vectors_are_a_loop() -> Case:
    x = td.placeholder((1003,), name="x")
    y = td.compute((1003,), lambda i: x[i] * 2 + 1, name="y")
    return kinds(lower(td.Program([x], [y])), i="vector"), {"x": values("float32", 1003)}


@case
def rank_zero() -> Case:
    x, s, q = td.placeholder((19,), name="x"), td.placeholder((), name="s"), td.placeholder((), "bool", name="q")
    y = td.compute((19,), lambda i: td.select(q[()], x[i] * s[()], x[i] - s[()]), name="y")
    r = td.reduce_axis(19, name="r")
    z = td.compute((), lambda: td.sum(x[r], axis=r), name="z")
    n = kinds(lower(td.Program([x, s, q], [y, z])), i="vector", r="vector")
    return n, {"x": values("float32", 19), "s": np.float32(3), "q": True}


@case
def padded_convolution() -> Case:
    x, w = td.placeholder((9, 21), name="x"), td.placeholder((3, 3), name="w")
    r, s = td.reduce_axis(3, name="r"), td.reduce_axis(3, name="s")

    def at(i: Any, j: Any) -> Any:
        return td.select((i >= 0) & (i < 9) & (j >= 0) & (j < 21), x[i, j], 0.0)

    y = td.compute((9, 21), lambda i, j: td.sum(at(i + r - 1, j + s - 1) * w[r, s], axis=[r, s]), name="y")
    arrays = {"x": values("float32", 9, 21), "w": values("float32", 3, 3, seed=2)}
    return kinds(lower(td.Program([x, w], [y])), j="vector", s="unroll"), arrays


@case
def padded_convolution_strided() -> Case:
    n, arrays = padded_convolution()
    return kinds(n, j="serial", i="vector", s="serial"), arrays


@case
def padding_with_a_run_time_guard() -> Case:
    x = td.placeholder((40,), name="x")
    y = td.compute((8, 21), lambda i, j: td.select(i * 7 + j < 40, x[i * 7 + j], -1.0) + 1, name="y")
    return kinds(lower(td.Program([x], [y])), j="vector"), {"x": values("float32", 40)}


@case
def either_side_guarded() -> Case:
    x = td.placeholder((16,), name="x")
    y = td.compute((5, 30), lambda i, j: td.select(j >= 3 * i, x[j // 2], x[15 - j // 3 - i]), name="y")
    return kinds(lower(td.Program([x], [y])), j="vector"), {"x": values("float32", 16)}


@case
def shared_subexpression() -> Case:
    x = td.placeholder((33,), name="x")

    def f(i: Any) -> Any:
        a = x[i] * x[i] + 1
        b = td.select(x[i] > 0, a * a, a + 1)
        return b * a - b

    y = td.compute((33,), f, name="y")
    return kinds(lower(td.Program([x], [y])), i="vector"), {"x": values("float32", 33)}


@case
def indices_as_values() -> Case:
    x = td.placeholder((6, 29), name="x")
    y = td.compute((6, 29), lambda i, j: x[i, j] + td.cast(3 * j - i, "float32"), name="y")
    z = td.compute((6, 29), lambda i, j: td.cast(j * 2 + i, "int32") * 3, name="z")
    u = td.compute((6, 29), lambda i, j: td.cast((j + i) % 5, "float64") + td.cast(j // 3, "float64"), name="u")
    v = td.compute((6, 29), lambda i, j: td.cast(i - j, "int64"), name="v")
    b = td.compute((6, 29), lambda i, j: (i + j < 20) & (x[i, j] > 0), name="b")
    n = lower(td.Program([x], [y, z, u, v, b]))
    return kinds(n, j="vector"), {"x": values("float32", 6, 29)}


@case
def recurrence_in_order() -> Case:
    x = td.placeholder((11, 20), name="x")
    t = td.recurrence((11, 20), lambda t, i, j: td.select(i > 0, t[i - 1, j] * 0.5, 0.0) + x[i, j], name="t", order="i")
    return kinds(lower(td.Program([x], [t])), j="vector"), {"x": values("float32", 11, 20)}


# ---------------------------------------------------------------- register tiles


def tile(m: int, n: int, k: int, rows: int, columns: int, outlined: bool = True) -> Case:
    """GEMM with a register tile and separate code for the edges."""
    a, b, c = array("A", m, k), array("B", k, n), array("C", m, n)
    acc, col = array("acc", rows, columns, scope="register"), array("b", columns, scope="register")
    r, l, kk = V("r"), V("l"), V("k")

    def block(i: Any, j: Any, mr: int, nr: int) -> Stmt:
        i, j = V(i), V(j)

        def each(s: Stmt) -> Stmt:
            return loop("r", 0, mr, loop("l", 0, nr, s, kind="vector"), kind="unroll")

        update = seq(
            loop("l", 0, nr, put(col, (l,), b.at(kk, j + l)), kind="vector"),
            each(put(acc, (r, l), a.at(i + r, kk) * col.at(l), "add")),
        )
        body = Alloc(acc, Alloc(col, seq(
            each(put(acc, (r, l), 0.0)), loop("k", 0, k, update), each(put(c, (i + r, j + l), acc.at(r, l))),
        )))  # fmt: skip
        return Outline("tile", body) if outlined else body

    def strip(i: Any, mr: int) -> Stmt:
        whole = n // columns * columns
        edge = block(i, whole, mr, n - whole) if n > whole else None
        return seq(loop("j", 0, whole, block(i, "j", mr, columns), step=columns), edge)

    whole = m // rows * rows
    edge = strip(whole, m - whole) if m > whole else None
    body = seq(loop("i", 0, whole, strip("i", rows), step=rows), edge)
    return nest([a, b], [c], body), {"A": values("float32", m, k), "B": values("float32", k, n, seed=1)}


@case
def register_tile() -> Case:
    return tile(16, 64, 5, 4, 32)


@case
def register_tile_with_edges() -> Case:
    return tile(11, 85, 6, 4, 32)


@case
def register_tile_in_place() -> Case:
    return tile(7, 43, 3, 3, 32, outlined=False)


@case
def partial_tiles_by_bounds() -> Case:
    """Edges as bounds: unrolled and vector loops of at most their extent."""
    m, n, rows, columns = 10, 45, 4, 32
    x, y = array("x", m, n), array("y", m, n)
    acc = array("acc", rows, columns, scope="register")
    i, j, r, l = (V(v) for v in "ijrl")

    def each(s: Stmt) -> Stmt:
        inner = loop("l", 0, (columns, n - j), s, kind="vector")
        return loop("r", 0, (rows, m - i), inner, kind="unroll")

    body = Alloc(acc, seq(
        each(put(acc, (r, l), x.at(i + r, j + l))), each(put(acc, (r, l), 2.0, "mul")),
        each(put(y, (i + r, j + l), acc.at(r, l))),
    ))  # fmt: skip
    body = loop("i", 0, m, loop("j", 0, n, body, step=columns), step=rows)
    return nest([x], [y], body), {"x": values("float32", m, n)}


@case
def sliding_window() -> Case:
    """Neighbours across vectors are shuffles; the window moves along a row."""
    n = 80
    x, y = array("x", 3, n + 32), array("y", 3, n)
    c = array("c", 32, scope="register")
    i, v, l = V("i"), V("v"), V("l")
    body = seq(
        loop("l", 0, 16, put(c, (l,), x.at(i, l)), kind="vector"),
        loop("v", 0, n // 16,
             loop("l", 0, 16, put(c, (l + 16,), x.at(i, v * 16 + 16 + l)), kind="vector"),
             loop("l", 0, 16, put(y, (i, v * 16 + l), c.at(l) + c.at(l + 1) * 2.0 + c.at(l + 3)), kind="vector"),
             loop("l", 0, 16, put(c, (l,), c.at(l + 16)), kind="vector")),
    )  # fmt: skip
    return nest([x], [y], loop("i", 0, 3, Alloc(c, body))), {"x": values("float32", 3, n + 32)}
