"""Calling kernels: what fits, what is refused before anything is written, and what comes back."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handwritten import PORTABLE, axpy, axpy_source
from tensordsl.codegen import dlpack
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import CompiledKernel, compile_source
from tensordsl.codegen.runtime import Kernel
from tensordsl.codegen.source import C_CALL, C_TYPES, Source
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.loopnest import Buffer, LoopNest
from tensordsl.schedules.lower import lower

import tensordsl as td
from tensordsl.errors import BuildError, InternalError
from tensordsl.interpreter import interpret
from tensordsl.targets import target


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as m:
        m.setenv("TD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def kernel_of(nest: LoopNest, signature: str, body: str, workspace_bytes: int = 0) -> Kernel:
    text = f"TD_KERNEL int32_t k_kernel(const td_call *call, {signature})\n{{\n{body}\n    return 0;\n}}\n"
    source = Source("k_kernel", (C_TYPES, C_CALL), text, nest.parameters, workspace_bytes, PORTABLE)
    return Kernel(compile_source(source), nest)


@pytest.fixture(scope="module")
def saxpy(own_cache: None) -> Kernel:
    return Kernel(compile_source(axpy_source(6)), axpy(6))


@pytest.fixture(scope="module")
def add(own_cache: None) -> Kernel:
    """y[2, 3] = x + z."""
    x, z = td.placeholder((2, 3), name="x"), td.placeholder((2, 3), name="z")
    y = td.compute((2, 3), lambda i, j: x[i, j] + z[i, j], name="y")
    nest = lower(td.Program([x, z], [y], name="add"))
    return kernel_of(
        nest, "const float *x, const float *z, float *y", "for (int i = 0; i < 6; ++i) y[i] = x[i] + z[i];"
    )


@pytest.fixture(scope="module")
def divide(own_cache: None) -> Kernel:
    """Two outputs: quotient and remainder of int32."""
    a, b = td.placeholder((4,), "int32", name="a"), td.placeholder((4,), "int32", name="b")
    q = td.compute((4,), lambda i: a[i] // b[i], name="q")
    r = td.compute((4,), lambda i: a[i] % b[i], name="r")
    nest = lower(td.Program([a, b], [q, r], name="divide"))
    return kernel_of(
        nest, "const int *a, const int *b, int *q, int *r",
        "for (int i = 0; i < 4; ++i) { q[i] = a[i] / b[i]; r[i] = a[i] % b[i]; }",
    )  # fmt: skip


@pytest.fixture(scope="module")
def scale(own_cache: None) -> Kernel:
    """y = 2 x in x's memory, s = x's first element."""
    x = td.placeholder((5,), name="x")
    y = td.compute((5,), lambda i: 2 * x[i], name="y")
    s = td.compute((), lambda: x[0] + 0, name="s")
    program = td.Program([x], [y, s], name="scale", inplace={"y": "x"})
    nest = LoopNest(program, (Buffer("x", (5,), x.dtype), Buffer("s", (), x.dtype)), lower(program).body)
    return kernel_of(nest, "float *x, float *s", "*s = x[0]; for (int i = 0; i < 5; ++i) x[i] *= 2;")


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


class Foreign:
    """An array of another framework: DLPack is all it has."""

    def __init__(self, array: np.ndarray, device: int = 1, versioned: bool = True) -> None:
        self.array, self.device, self.versioned = array, device, versioned

    def __dlpack__(self, **options: Any) -> Any:
        if not self.versioned:
            if options:
                raise TypeError("unexpected keyword argument 'max_version'")
            return self.array.__dlpack__()
        return self.array.__dlpack__(max_version=options["max_version"])

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


def test_arrays_in_an_array_out(add: Kernel) -> None:
    x, z = ramp(2, 3), ramp(2, 3)
    result = add(x, z)
    assert type(result) is np.ndarray and result.dtype == np.float32
    np.testing.assert_array_equal(result, x + z)
    np.testing.assert_array_equal(add(x, x), 2 * x)


def test_given_outputs_are_filled_and_returned(add: Kernel) -> None:
    out = np.full((2, 3), np.nan, np.float32)
    assert add(ramp(2, 3), ramp(2, 3), out=out) is out
    np.testing.assert_array_equal(out, 2 * ramp(2, 3))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: ramp(3, 2).T, id="transposed"),
        pytest.param(lambda: ramp(2, 6)[:, ::2], id="strided"),
        pytest.param(lambda: ramp(2, 3)[::-1], id="negative stride"),
        pytest.param(lambda: np.broadcast_to(ramp(3), (2, 3)), id="broadcast"),
        pytest.param(lambda: np.frombuffer(b"\1" + ramp(2, 3).tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3),
                     id="unaligned, read-only"),
        pytest.param(lambda: ramp(2, 3).view(type("Sub", (np.ndarray,), {})), id="subclass"),
    ],
)  # fmt: skip
def test_inputs_of_any_layout(add: Kernel, make: Any) -> None:
    x = make()
    np.testing.assert_array_equal(np.asarray(add(x, ramp(2, 3))), np.asarray(x) + ramp(2, 3))


@pytest.mark.parametrize("make", [lambda: ramp(3, 2).T, lambda: ramp(2, 6)[:, ::2]])
def test_outputs_of_any_layout_are_written_back(add: Kernel, make: Any) -> None:
    out = make()
    assert add(ramp(2, 3), ramp(2, 3), out=out) is out
    np.testing.assert_array_equal(out, 2 * ramp(2, 3))


def test_numbers_for_inputs_of_rank_zero(saxpy: Kernel) -> None:
    x = ramp(6)
    for a in (2, 2.0, np.float32(2), np.float64(2), np.int64(2), np.array(2, np.float32), Foreign(np.ones(6))):
        if isinstance(a, Foreign):
            with pytest.raises(BuildError, match="a is a Foreign, the kernel takes a number"):
                saxpy(a, x, x)
        else:
            np.testing.assert_array_equal(saxpy(a, x, x), 3 * x)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "n = 1.5 is not an integer"),
        (300, "n = 300 does not fit in int8"),
        ("1", "n is a str, the kernel takes a number"),
        (np.ones(3, np.int8), r"n has shape \(3,\), the kernel takes one number"),
    ],
)
def test_numbers_that_do_not_fit(value: Any, message: str) -> None:
    n = td.placeholder((), "int8", name="n")
    nest = lower(td.Program([n], [td.compute((1,), lambda i: n[()] + 0, name="y")]))
    kernel = kernel_of(nest, "signed char n, signed char *y", "y[0] = n;")
    assert kernel(-128)[0] == -128 and kernel(True)[0] == 1
    with pytest.raises(BuildError, match=message):
        kernel(value)


def test_several_outputs(divide: Kernel) -> None:
    a, b = np.array([7, 8, 9, 10], np.int32), np.array([2, 3, 4, 5], np.int32)
    q, r = divide(a, b)
    np.testing.assert_array_equal(q, a // b)
    np.testing.assert_array_equal(r, a % b)
    mine = np.empty(4, np.int32)
    q, r = divide(a, b, out=(None, mine))
    assert r is mine
    np.testing.assert_array_equal(mine, a % b)
    with pytest.raises(BuildError, match="divide has 2 outputs, out= gives 1"):
        divide(a, b, out=mine)


def test_an_in_place_output_overwrites_its_input(scale: Kernel) -> None:
    x = ramp(5)
    y, s = scale(x)
    assert y is x and s.shape == () and s == 0
    np.testing.assert_array_equal(x, 2 * ramp(5))
    strided = np.zeros(10, np.float32)
    strided[::2] = 1
    view = strided[::2]
    y, _ = scale(view)
    assert y is view
    np.testing.assert_array_equal(strided, [2, 0] * 5)
    s = np.zeros((), np.float32)
    assert scale(x, out=(x, s))[1] is s
    with pytest.raises(BuildError, match="y overwrites x, but out= gives another array"):
        scale(x, out=(ramp(5), None))
    x.setflags(write=False)
    with pytest.raises(BuildError, match="y would be written to a read-only array"):
        scale(x)


def in_place_programs() -> list[td.Program]:
    """A pointwise one, one whose input is read by another output, an epilogue, a contraction."""
    x, b = td.placeholder((20,), name="x"), td.placeholder((20,), name="b")
    w, z = td.placeholder((20, 20), name="w"), td.placeholder((20, 20), name="z")
    k = td.reduce_axis(20, name="k")
    product = td.compute((20, 20), lambda i, j: td.sum(z[i, k] * z[k, j], axis=k), name="product")
    twice = td.compute((20,), lambda i: 2 * x[i], name="y")
    added = td.compute((20,), lambda i: x[i] + b[i], name="y")
    scaled = td.compute((20,), lambda i: x[i] * b[i], name="q")
    fused = td.compute((20, 20), lambda i, j: x[j] + w[i, j] + product[i, j], name="o")
    return [
        td.Program([x], [twice], name="twice", inplace={"y": "x"}),
        td.Program([x, b], [added, scaled], name="two", inplace={"y": "x"}),
        td.Program([w, z, x], [fused], name="fused", inplace={"o": "w"}),
        td.Program([w, z], [product], name="direct", inplace={"product": "w"}),
    ]


@pytest.mark.parametrize("plain", [True, False], ids=["plain loops", "default schedule"])
@pytest.mark.parametrize("program", in_place_programs(), ids=lambda p: p.name)
def test_in_place_outputs_from_program_to_call(program: td.Program, plain: bool) -> None:
    native = target("native")
    schedule = td.Schedule(program, checked=False).validate() if plain else default_schedule(program, native)
    kernel = Kernel(compile_source(to_c(schedule.nest, native)), schedule.nest, schedule)
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-3, 4, t.shape).astype(np.float32) for t in program.inputs]
    expected = interpret(program, {t.name: a.copy() for t, a in zip(program.inputs, inputs)})
    results = kernel(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    assert results[0] is inputs[0]
    for t, result in zip(program.outputs, results):
        np.testing.assert_array_equal(result, expected[t.name])


@pytest.mark.parametrize(
    ("inputs", "out", "message"),
    [
        ((ramp(2, 3),), None, "add takes 2 inputs, got 1"),
        ((ramp(2, 3), ramp(3, 2)), None, r"z has shape \(3, 2\), the kernel takes \(2, 3\)"),
        ((ramp(6), ramp(2, 3)), None, r"x has rank 1, the kernel takes rank 2: x: float32\[2, 3\]"),
        ((ramp(2, 3).astype("f8"), ramp(2, 3)), None, "x is float64, the kernel takes float32"),
        ((ramp(2, 3).astype(">f4"), ramp(2, 3)), None, "x is >f4, the kernel takes float32"),
        (([[1, 2, 3]] * 2, ramp(2, 3)), None, "x is a list, not an array"),
        ((ramp(2, 3), ramp(2, 3)), ramp(2, 4), r"y has shape \(2, 4\)"),
        ((ramp(2, 3), ramp(2, 3)), ramp(2, 3).astype("i4"), "y is int32, the kernel takes float32"),
        ((ramp(2, 3), ramp(2, 3)), np.broadcast_to(ramp(3), (2, 3)), "y would be written to a read-only array"),
        ((Foreign(ramp(2, 3), device=2), ramp(2, 3)), None, "x lives on a cuda device, the kernel runs on the cpu"),
        ((Foreign(ramp(2, 3).astype("f8")), ramp(2, 3)), None, "x is float64, the kernel takes float32"),
        ((ramp(2, 3), ramp(2, 3)), Foreign(ramp(3, 2).T), r"y is not contiguous \(strides \(1, 2\)"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(add: Kernel, inputs: tuple[Any, ...], out: Any, message: str) -> None:
    with pytest.raises(BuildError, match=message) as caught:
        add(*inputs, out=out)
    assert "tests/test_runtime.py" in str(caught.value)


def test_shared_memory_is_refused_where_it_would_be_written(add: Kernel) -> None:
    memory = np.zeros(9, np.float32)
    x, out = memory[:6].reshape(2, 3), memory[3:].reshape(2, 3)
    with pytest.raises(BuildError, match="y would overwrite x: bytes 0x"):
        add(x, ramp(2, 3), out=out)
    with pytest.raises(BuildError, match="y would overwrite z"):
        add(ramp(2, 3), Foreign(x), out=x)
    assert not memory.any()
    apart = np.zeros(12, np.float32)  # neighbours are no overlap
    add(apart[:6].reshape(2, 3), ramp(2, 3), out=apart[6:].reshape(2, 3))


def test_outputs_must_not_share_memory(divide: Kernel) -> None:
    a, same = np.ones(4, np.int32), np.zeros(4, np.int32)
    with pytest.raises(BuildError, match="q would overwrite r"):
        divide(a, a, out=(same, same))


@pytest.mark.parametrize("versioned", [True, False])
def test_arrays_of_other_frameworks(add: Kernel, versioned: bool) -> None:
    x = Foreign(ramp(2, 3), versioned=versioned)
    np.testing.assert_array_equal(add(x, ramp(2, 3)), 2 * ramp(2, 3))
    out = Foreign(np.zeros((2, 3), np.float32), versioned=versioned)
    assert add(x, x, out=out) is out
    np.testing.assert_array_equal(out.array, 2 * ramp(2, 3))
    strided = Foreign(ramp(2, 6)[:, ::2])
    np.testing.assert_array_equal(add(strided, ramp(2, 3)), strided.array + ramp(2, 3))


def test_a_read_only_array_of_another_framework(add: Kernel) -> None:
    frozen = ramp(2, 3)
    frozen.setflags(write=False)
    np.testing.assert_array_equal(add(Foreign(frozen), frozen), 2 * frozen)
    with pytest.raises(BuildError, match="y would be written to a read-only array"):
        add(ramp(2, 3), ramp(2, 3), out=Foreign(frozen))


def test_outputs_come_in_the_framework_of_the_inputs(add: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("framework")
    tensor = type("Tensor", (Foreign,), {"__module__": "framework.core"})
    module.from_dlpack = lambda a: tensor(np.from_dlpack(a))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "framework", module)
    result = add(tensor(ramp(2, 3)), ramp(2, 3))
    assert type(result) is tensor
    np.testing.assert_array_equal(result.array, 2 * ramp(2, 3))


def test_an_array_that_refuses_its_memory(add: Kernel) -> None:
    class Guarded(Foreign):
        def __dlpack__(self, **options: Any) -> Any:
            raise RuntimeError("Can't export tensors that require gradient, use tensor.detach()")

    with pytest.raises(BuildError, match="x does not give access to its memory") as caught:
        add(Guarded(ramp(2, 3)), ramp(2, 3))
    assert "detach" in str(caught.value.hint)


def test_torch_tensors_where_torch_is_installed(add: Kernel) -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    result = add(x, x)
    assert isinstance(result, torch.Tensor) and bool((result == 2 * x).all())
    out = torch.zeros(2, 3)
    assert add(x, x.T.contiguous().T, out=out) is out and bool((out == 2 * x).all())


def test_views_know_contiguity() -> None:
    for array, expected in (
        (ramp(2, 3), True), (ramp(3, 2).T, False), (ramp(4, 1, 3), True), (ramp(4, 6)[:, :1], False),
        (ramp(1, 6)[:, :3], True), (np.zeros((0, 3), np.float32).T, True), (np.zeros((), np.float32), True),
    ):  # fmt: skip
        seen = dlpack.view(array, "x")
        assert (seen.contiguous, seen.shape, seen.dtype) == (expected, array.shape, "float32")
        assert seen.address == array.ctypes.data or array.size == 0


def test_empty_arrays() -> None:
    x = td.placeholder((0, 3), name="x")
    nest = lower(td.Program([x], [td.compute((0, 3), lambda i, j: x[i, j] + 1, name="y")]))
    kernel = kernel_of(nest, "const float *x, float *y", "")
    assert kernel(np.zeros((0, 3), np.float32)).shape == (0, 3)
    whole = np.zeros((2, 3), np.float32)
    assert kernel(whole[1:1], out=whole[:0]).shape == (0, 3)


def test_threads_have_workspace_of_their_own() -> None:
    x = td.placeholder((1,), name="x")
    nest = lower(td.Program([x], [td.compute((1,), lambda i: x[i] + 0, name="y")], name="slow"))
    body = """
    if (!call || !call->workspace || call->workspace_bytes < 4096) return 2;
    if ((__UINTPTR_TYPE__)call->workspace % 64) return 9;
    volatile float *w = call->workspace;
    for (int n = 0; n < 200; ++n) {
        for (int i = 0; i < 1024; ++i) w[i] = x[0];
        for (int i = 0; i < 1024; ++i) if (w[i] != x[0]) return 7;
    }
    y[0] = w[5];"""
    kernel = kernel_of(nest, "const float *x, float *y", body, workspace_bytes=4096)
    failures: list[BaseException] = []

    def work(value: int) -> None:
        try:
            for _ in range(20):
                assert kernel(np.array([value], np.float32))[0] == value
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(v,)) for v in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_codes_of_the_kernel_become_errors() -> None:
    x = td.placeholder((1,), name="x")
    nest = lower(td.Program([x], [td.compute((1,), lambda i: x[i] + 0, name="y")], name="failing"))
    with pytest.raises(InternalError, match="failing returned 2: the workspace is missing or too small"):
        kernel_of(nest, "const float *x, float *y", "return 2;")(np.zeros(1, np.float32))
    with pytest.raises(BuildError, match="failing returned 77"):
        kernel_of(nest, "const float *x, float *y", "return 77;")(np.zeros(1, np.float32))


def test_a_cleared_cache_is_said(tmp_path: Path) -> None:
    compiled = compile_source(axpy_source())
    gone = CompiledKernel(compiled.source, tmp_path / "gone.so", compiled.symbol, True)
    with pytest.raises(BuildError, match="cannot be loaded"):
        Kernel(gone, axpy())


def test_a_kernel_prints(saxpy: Kernel, scale: Kernel) -> None:
    text = repr(saxpy)
    assert text.startswith("Kernel axpy(a: float32, x: float32[6], z: float32[6]) -> y: float32[6]\n  for portable")
    assert "-> y in x, s: float32\n" in repr(scale)
    assert saxpy.target is PORTABLE and saxpy.source.symbol == "axpy_kernel" and saxpy.schedule is None
