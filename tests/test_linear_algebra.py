"""Schedules for factorisations, filters and products that share a matrix: taken by structure, proven, right in C."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensordsl.autotune.driver import kernel_of
from tensordsl.codegen.c.printer import to_c
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.plan import make_plan
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches import sketches
from tensordsl.schedules.sketches.blocked import BlockSizes, apply_blocks, block_sizes, blocks
from tensordsl.schedules.sketches.panels import panels
from tensordsl.schedules.sketches.strips import strips
from tensordsl.schedules.sketches.triangular import Triangle, triangle

import tensordsl as td
from tensordsl.dtypes import float64, int32
from tensordsl.targets import target
from tests.polybench_references import inputs_of, references

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import polybench

AVX512 = target("avx512")
#: A machine whose caches hold next to nothing, so that small programs take the ways of large ones.
TIGHT = replace(target("native"), caches=(2048, 4096))


def cyclic(program: td.Program) -> list[object]:
    return [blocks(program, g) for g in program.groups if g.order is not None]


def check(name: str, sizes: tuple[int, ...], s: Schedule, *, compiled: bool) -> None:
    """Interpreted, and in C where there is a compiler."""
    program = polybench.KERNELS[name](*sizes)
    given = inputs_of(name, program)
    expected = references(name, given, sizes)
    if compiled:
        found = kernel_of(s)(*[np.array(given[t.name]) for t in program.inputs])
        results = found if isinstance(found, tuple) else (found,)
    else:
        values = interpret(s.nest, given, lockstep=True)
        results = tuple(values[t.name] for t in program.outputs)
    for value, reference in zip(results, expected):
        np.testing.assert_allclose(value, reference, rtol=0, atol=1e-11 * (1.0 + abs(reference).max()))


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize("name", ["lu", "cholesky"])
@pytest.mark.parametrize("sizes", [BlockSizes(8, 4), BlockSizes(16, 8), BlockSizes(16, 2)], ids=str)
def test_blocks_are_proven(name: str, sizes: BlockSizes) -> None:
    """Whole blocks, and ones that the matrix cuts."""
    for n in (48, 53):
        program = polybench.KERNELS[name](n)
        [b] = cyclic(program)
        s = apply_blocks(Schedule(program, checked=False), b, sizes).validate()
        assert {"push", "cache_write", "distribute"} <= {step.name for step in s.trace}
    check(name, (n,), s, compiled=False)


@pytest.mark.compiler
@pytest.mark.parametrize("name", ["lu", "cholesky", "ludcmp"])
@pytest.mark.parametrize("n", [48, 61, 100])
def test_factorisations_run_in_blocks(name: str, n: int) -> None:
    s = default_schedule(polybench.KERNELS[name](n), target("native"))
    if target("native").lanes(float64) > 1:
        assert any(step.name == "push" for step in s.trace)
    check(name, (n,), s, compiled=True)


def test_what_has_no_blocks() -> None:
    """One axis, a step that is not needed in order of both axes, a descending axis, no sum."""
    for name, sizes in (("trisolv", (60,)), ("durbin", (60,)), ("nussinov", (60,)), ("seidel_2d", (3, 60))):
        assert cyclic(polybench.KERNELS[name](*sizes)) == [None]
    program = polybench.lu(20)
    [b] = cyclic(program)
    assert block_sizes(program, b, AVX512) == ()  # too small
    assert block_sizes(polybench.lu(100), b, AVX512)[0] == BlockSizes(16, 8)
    assert block_sizes(polybench.lu(100), b, target("portable")) == () or target("portable").lanes(float64) > 1


def test_names_do_not_matter() -> None:
    """The same factorisation under other names, and its blocks."""

    def other(n: int) -> td.Program:
        M = td.placeholder((n, n), name="M", dtype="float64")
        p = td.reduce_axis(n, "p")

        def element(F: td.Tensor, u: td.Expr, v: td.Expr) -> td.Expr:
            rest = M[u, v] - td.sum(F[u, p] * F[p, v], axis=p, where=(p < u) & (p < v))
            return td.select(v < u, rest / F[v, v], rest)

        F = td.recurrence((n, n), element, "F", order=("u", "v"), dtype="float64")
        return td.Program([M], [F], "other", inplace={"F": "M"})

    a, b = (default_schedule(p, AVX512) for p in (polybench.lu(64), other(64)))
    assert [step.name for step in a.trace] == [step.name for step in b.trace]
    assert len(str(a.nest).splitlines()) == len(str(b.nest).splitlines())


def test_a_sketch_offers_blocks_to_the_tuner() -> None:
    [sketch, *_] = sketches(polybench.lu(100), AVX512)
    assert set(sketch.holes["LU_sum.nb"]) >= {0, 8, 16}
    plain = sketch.build(sketch.default | {"LU_sum.nb": 0}).validate()
    assert not any(step.name == "push" for step in plain.trace)
    assert not sketch.allowed(sketch.default | {"LU_sum.nb": 24, "LU_sum.mr": 5})


# ---------------------------------------------------------------- sums, panels, shared passes


def test_dot_products_of_recurrences_have_accumulators() -> None:
    for name, n in (("trisolv", 200), ("durbin", 200)):
        s = default_schedule(polybench.KERNELS[name](n), AVX512)
        assert any(step.name == "accumulate" for step in s.trace)
    assert any(step.name == "drop" for step in s.trace)  # the unread rest of each step
    check("durbin", (70,), default_schedule(polybench.durbin(70), AVX512), compiled=False)


def test_columns_of_recurrences_are_held_in_registers() -> None:
    s = default_schedule(polybench.gramschmidt(20, 70), AVX512)
    assert any(step.name == "cache_write" and step.args[0] == "C_sum" for step in s.trace)
    assert "C_sum_acc[" not in to_c(s.nest, AVX512).body


@pytest.mark.compiler
@pytest.mark.parametrize("n", [50, 64, 77])
def test_sums_that_end_at_each_element_run_in_strips(n: int) -> None:
    s = default_schedule(polybench.nussinov(n), target("native"))
    if target("native").lanes(int32) > 1:
        assert any(step.name == "cache_write" and step.kwargs for step in s.trace)
        assert "N_max_acc[" not in to_c(s.nest, target("native")).body
    check("nussinov", (n,), s, compiled=True)


def test_what_has_no_strips() -> None:
    """Columns in strides, one axis, too short rows."""
    for name, n in (("cholesky", 90), ("trisolv", 90), ("nussinov", 20)):
        program = polybench.KERNELS[name](n)
        assert [strips(program, g, AVX512) for g in program.groups if g.order is not None] == [None]


@pytest.mark.compiler
@pytest.mark.parametrize("sizes", [(24, 40), (19, 37)], ids=str)
def test_filters_go_through_panels(sizes: tuple[int, int]) -> None:
    program = polybench.deriche(*sizes)
    assert [(p.lines, p.transposed) for p in panels(program, TIGHT)] == [("i", True), ("j", False)]
    assert panels(program, replace(TIGHT, caches=(1 << 15, 1 << 20))) == []  # everything fits
    s = default_schedule(program, TIGHT)
    assert any(step.name == "transform_layout" for step in s.trace)
    check("deriche", sizes, s, compiled=True)


@pytest.mark.compiler
@pytest.mark.parametrize("name", ["atax", "bicg", "gemver"])
def test_products_share_a_pass(name: str) -> None:
    sizes = (70,) if name == "gemver" else (38, 70)
    s = default_schedule(polybench.KERNELS[name](*sizes), TIGHT)
    assert any(step.name == "jam" for step in s.trace)
    check(name, sizes, s, compiled=True)


# ---------------------------------------------------------------- triangles


@pytest.mark.compiler
def test_a_triangular_product_stays_in_registers() -> None:
    """The terms that some rows of a tile lack are written out; the others have a loop of their own."""
    s = default_schedule(polybench.trmm(40, 50), target("native"))
    if target("native").lanes(float64) > 1:
        assert any(step.name == "partition" for step in s.trace)
        assert "rest_acc[" not in to_c(s.nest, target("native")).body
    check("trmm", (40, 50), s, compiled=True)


@pytest.mark.compiler
@pytest.mark.parametrize("name", ["syrk", "syr2k"])
@pytest.mark.parametrize("sizes", [(40, 50), (17, 53), (9, 72)], ids=str)
def test_half_a_product(name: str, sizes: tuple[int, int]) -> None:
    """Tiles beyond the diagonal are skipped, and what the columns read in strides is transposed once."""
    s = default_schedule(polybench.KERNELS[name](*sizes), target("native"))
    if target("native").lanes(float64) > 1:
        assert sum(step.name == "transform_layout" for step in s.trace) == (1 if name == "syrk" else 2)
        assert any(step.name == "drop" for step in s.trace)
    check(name, sizes, s, compiled=True)


@pytest.mark.compiler
@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize("distance", [-9, -1, 0, 3, 40])
def test_any_triangle(below: bool, distance: int) -> None:
    """On, above and below the diagonal, by any distance, in C."""
    a, c = td.placeholder((31, 20), name="a", dtype="float64"), td.placeholder((31, 31), name="c", dtype="float64")
    k = td.reduce_axis(20, "k")

    def element(i: td.Expr, j: td.Expr) -> td.Expr:
        inside = (j <= i + distance) if below else (i <= j + distance)
        return td.select(inside, 2.0 * td.sum(a[i, k] * a[j, k], axis=k) + c[i, j], c[i, j])

    s = default_schedule(td.Program([a, c], [td.compute((31, 31), element, "y")], "half"), target("native"))
    rng = np.random.default_rng(3)
    x, z = rng.standard_normal((31, 20)), rng.standard_normal((31, 31))
    i, j = np.indices((31, 31))
    inside = (j <= i + distance) if below else (i <= j + distance)
    np.testing.assert_allclose(kernel_of(s)(x, z), np.where(inside, 2.0 * x @ x.T + z, z), rtol=0, atol=1e-12)


def test_whole_products_are_no_triangles() -> None:
    plan, program = make_plan(polybench.gemm(30, 30, 30), AVX512)
    assert [triangle(program, n, plan.tiles[n], e) for n, e in plan.epilogues.items()] == [None]
    plan, program = make_plan(polybench.syrk(30, 30), AVX512)
    assert [triangle(program, n, plan.tiles[n], e) for n, e in plan.epilogues.items()] == [Triangle(True, 0)]


def test_lanes_need_known_terms() -> None:
    """Rows of a sparse matrix begin and end where memory says."""
    v = td.placeholder((8,), name="v")
    start = td.placeholder((5,), "int32", name="start", values=range(9))
    p = td.reduce_axis(8, "p")
    y = td.compute((4,), lambda i: td.sum(v[p], axis=p, where=(start[i] <= p) & (p < start[i + 1])), "y")
    with pytest.raises(td.ScheduleError, match="are read from memory"):
        Schedule(td.Program([v, start], [y], "rows")).accumulate("y", "p", 4)


def test_terms_of_the_other_case_keep_their_conditions() -> None:
    """``0 if c else (term if k < j else 0)`` has no terms from j on."""
    a, k = td.placeholder((9,), name="a"), td.reduce_axis(9, "k")

    def sums(j: td.Expr) -> td.Expr:
        term = td.select(td.equal(j, 3), 0.0, td.select(k < j, a[k], 0.0))
        return td.sum(term, axis=k)

    s = Schedule(td.Program([a], [td.compute((9,), sums, "y")], "partial"))
    assert "for k in 0..min(9, j):" in str(s)
    x = np.arange(9.0, dtype=np.float32)
    found = interpret(s.validate().nest, {"a": x})["y"]
    np.testing.assert_array_equal(found, [0.0 if j == 3 else x[:j].sum() for j in range(9)])
