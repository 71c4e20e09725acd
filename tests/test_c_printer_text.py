"""What printed C looks like: goldens, the forms of registers, names, and what a caller gets wrong."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import printer_cases_storage  # noqa: F401  (fills CASES)
import pytest
from printed import Call, Printed, compile_text
from printer_cases import CASES, array, kinds, matmul, nest, put, tile, values
from tensordsl.codegen.c.names import Names, identifier
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.c.types import bare, literal
from tensordsl.codegen.source import unit
from tensordsl.schedules.loopnest import Alloc, LoopNest, Stmt, Sync, loop, seq
from tensordsl.schedules.lower import lower

import tensordsl as td
from tensordsl import dtypes
from tensordsl.affine import Affine
from tensordsl.errors import BuildError
from tensordsl.expr import Index
from tensordsl.targets import target

V = Affine.of
AVX512, PORTABLE = target("avx512"), target("portable")


def body_of(n: LoopNest, isa: str = "avx512") -> str:
    return to_c(n, target(isa), "kernel").body


# ---------------------------------------------------------------- texts


def test_register_tile_text(golden: Callable[..., None]) -> None:
    golden(body_of(tile(2, 32, 9, 2, 32)[0]))


def test_masks_and_tasks_text(golden: Callable[..., None]) -> None:
    x, s, y = array("x", 6, 11), array("s"), array("y", 6, 11)
    i, j = V("i"), V("j")
    inner = td.select(Index(j) >= Index(i), x.at(i, j) * s.at(), 0.0)
    body = loop("i", 0, 6, loop("j", 0, 11, put(y, (i, j), inner), kind="vector"), kind="parallel")
    golden(body_of(nest([x, s], [y], body)), "avx512")
    golden(body_of(nest([x, s], [y], body), "portable"), "portable")


def test_a_load_barrier_follows_each_vector_load_into_registers() -> None:
    n, _ = tile(8, 48, 5, 8, 48)
    assert body_of(n).count("td_keep(b_") == 3
    assert "td_keep" not in body_of(n, "portable")


def test_outlined_bodies_at_other_places_are_one_function() -> None:
    n, _ = tile(8, 96, 5, 4, 32)
    text = body_of(n)
    assert text.count("static __attribute__((noinline))") == 1
    edges, _ = tile(11, 85, 6, 4, 32)
    assert body_of(edges).count("static __attribute__((noinline))") == 4  # whole, right, lower, corner


def test_registers_that_are_not_used_are_not_declared() -> None:
    n, _ = tile(2, 20, 3, 2, 32)
    text = body_of(n)
    assert "acc_1_1" in text
    small, _ = tile(2, 16, 3, 2, 32)
    assert "acc_1_1" not in body_of(small) and "acc_1_0" in body_of(small)


def test_vectors_are_no_longer_than_loops_need() -> None:
    n, _ = matmul(4, 6, 3)
    assert "f32x8" in body_of(kinds(n, j="vector")) and "f32x16" not in body_of(kinds(n, j="vector"))
    n, _ = matmul(4, 4, 3)
    text = body_of(kinds(n, j="vector"))
    assert "f32x4" in text and "masked" not in text


def test_several_kernels_share_one_prelude() -> None:
    n, _ = matmul(4, 37, 3)
    sources = [to_c(kinds(n, j="vector"), AVX512, f"k{i}") for i in range(3)]
    text = unit(sources)
    assert text.count("typedef float f32x16 ") == 1 and text.count("td_load_masked_f32x16(const") == 1
    assert all(f"int32_t k{i}(" in text for i in range(3))


def test_the_banner_names_program_and_target() -> None:
    n, _ = matmul(4, 5, 3)
    text = body_of(n)
    assert text.startswith("/*\n * tensordsl ") and "x86_64-v4-avx512" in text
    assert "sum(A[i, k] * B[k, j], over k:3)" in text


def test_printing_twice_gives_the_same_text() -> None:
    for build in CASES.values():
        n, _ = build()
        assert to_c(n, AVX512).text == to_c(n, AVX512).text


# ---------------------------------------------------------------- names and literals


def test_names_of_the_nest_become_c_identifiers() -> None:
    assert [identifier(n) for n in ("i.o", "for", "t1", "f32x16", "td_x", "0a", "x")] == [
        "i_o", "for_", "t1_", "f32x16_", "td_x_", "v0a", "x",
    ]  # fmt: skip
    names = Names(["acc", "acc_0", "acc.0", "acc_0_1", "i"], ["i", "j", "acc"], spread=["acc"], reserved=["i"])
    found = [names[n] for n in ("acc", "acc_0", "acc.0", "acc_0_1", "i")] + [names.loop(n) for n in ("i", "j", "acc")]
    assert len(set(found)) == 8 and "i" not in found
    assert not any(f.startswith("acc_0") for f in found[1:4] if f in ("acc_0", "acc_0_1"))


@pytest.mark.compiler
def test_hostile_names_compile_and_run() -> None:
    """Tensors named as keywords, temporaries, types and registers of each other."""
    names = ["float", "t1", "f32x16", "call", "q1"]
    inputs = [array(n, 20) for n in names]
    acc, other = array("acc", 32, scope="register"), array("acc_0", 20)
    l = V("l")
    total: Any = sum((b.at(l) for b in inputs[1:]), inputs[0].at(l))
    body: Stmt = Alloc(acc, seq(
        loop("l", 0, 20, put(acc, (l,), total), kind="vector"),
        loop("l", 0, 20, put(other, (l,), acc.at(l)), kind="vector"),
    ))  # fmt: skip
    n = nest(inputs, [other], body)
    arrays = {name: values("float32", 20, seed=s) for s, name in enumerate(names)}
    printed = Printed({"hostile": n}, PORTABLE)
    np.testing.assert_array_equal(printed.run("hostile", arrays)["acc_0"], sum(arrays.values()))


@pytest.mark.parametrize(
    ("value", "t", "text"),
    [
        (0.1, "float32", "0.1f"), (0.1, "float64", "0.1"), (-2.0, "float32", "(-2.0f)"), (1e30, "float32", "1e+30f"),
        (float("-inf"), "float32", "(-__builtin_inff())"), (float("nan"), "float64", '__builtin_nan("")'),
        (16777217, "float32", "1.6777216e+7f"), (-0.0, "float32", "(-0.0f)"), (3, "int32", "3"), (-3, "int64", "(-3LL)"),
        (-(2**31), "int32", "(-2147483647 - 1)"), (2**64 - 1, "uint64", "18446744073709551615ULL"),
        (-1, "uint8", "(unsigned char)255"), (True, "bool", "1"),
    ],
)  # fmt: skip
def test_literals(value: Any, t: str, text: str) -> None:
    assert literal(value, dtypes.dtype(t)) == text


def test_only_outer_parentheses_are_dropped() -> None:
    assert [bare(t) for t in ("(a + b)", "(a) + (b)", "a", "((a))")] == ["a + b", "(a) + (b)", "a", "(a)"]


# ---------------------------------------------------------------- the caller's mistakes


@pytest.mark.compiler
def test_return_codes() -> None:
    n, _ = CASES["workspace_stack_and_streams"]()
    source = to_c(n, PORTABLE, "k")
    f = compile_text(source.text, PORTABLE).k
    x, y = np.zeros((8, 64), np.float32), np.zeros((8, 64), np.float32)
    p, q = ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data)
    scratch = np.zeros(source.workspace_bytes, np.uint8)

    def call(**fields: Any) -> Any:
        c = Call()
        c.size, c.workspace, c.workspace_bytes = ctypes.sizeof(Call), scratch.ctypes.data, scratch.size
        for name, value in fields.items():
            setattr(c, name, value)
        return ctypes.byref(c)

    assert f(call(), p, q) == 0
    assert f(None, p, q) == f(call(workspace=None), p, q) == f(call(workspace_bytes=scratch.size - 1), p, q) == 2
    assert f(call(size=8), p, q) == 3
    assert f(call(), None, q) == f(call(), p, None) == 4


@pytest.mark.compiler
def test_a_failing_parallel_for_is_reported() -> None:
    from printed import PARALLEL_FOR

    n, arrays = CASES["parallel_inside_a_loop"]()
    f = compile_text(to_c(n, PORTABLE, "k").text, PORTABLE).k
    y = np.zeros((6, 30), np.float32)
    fail = PARALLEL_FOR(lambda *_: 77)
    c = Call(ctypes.sizeof(Call), 0, None, 0, fail, None, None)
    assert f(ctypes.byref(c), ctypes.c_void_p(arrays["x"].ctypes.data), ctypes.c_void_p(y.ctypes.data)) == 77


def test_workspace_is_reused_by_buffers_that_do_not_live_together() -> None:
    a, b = array("a", 100, scope="workspace"), array("b", 50, scope="workspace")
    y = array("y", 4)
    body = seq(Alloc(a, put(a, (0,), 1.0)), Alloc(b, put(b, (0,), 1.0)), put(y, (0,), 0.0))
    assert to_c(nest([], [y], body), AVX512).workspace_bytes == 448 + 64
    nested = Alloc(a, Alloc(b, put(b, (0,), 1.0)))
    assert to_c(nest([], [y], nested), AVX512).workspace_bytes == 448 + 256 + 64


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (Sync("barrier"), "sync barrier has no meaning on a CPU"),
        (loop("i", 0, 4, put(array("y", 4), (V("i"),), 0.0), kind="thread"), "a thread loop (i) has no meaning"),
        (Alloc(array("m", 4, scope="shared"), put(array("y", 4), (0,), 0.0)), "shared memory (m) exists on a GPU only"),
    ],
)
def test_what_only_a_gpu_has_is_refused(body: Stmt, message: str) -> None:
    with pytest.raises(BuildError, match=r"CUDA|stack") as error:
        to_c(nest([], [array("y", 4)], body), AVX512)
    assert message in str(error.value)


def test_a_program_of_every_rank_prints() -> None:
    x = td.placeholder((), "int8", name="x")
    y = td.compute((), lambda: td.cast(x[()], "int32") * 3, name="y")
    assert "signed char x, int *restrict y" in body_of(lower(td.Program([x], [y])))
