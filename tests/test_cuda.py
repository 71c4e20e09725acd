"""Printing nests as CUDA: the text, its meaning under the emulator, and what is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from tensordsl.codegen.cuda.emulate import Emulation, compile_emulation
from tensordsl.codegen.cuda.printer import CudaSource, to_cuda
from tensordsl.codegen.cuda.sync import insert_sync
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    If,
    Instance,
    Kind,
    LoopNest,
    Stmt,
    Store,
    loop,
    rewrite,
    seq,
)  # fmt: skip
from tensordsl.schedules.lower import lower

import tensordsl as td
from tensordsl.affine import Affine
from tensordsl.dtypes import DType, float32
from tensordsl.errors import BuildError, ScheduleError
from tensordsl.expr import Expr, Index, binary, constant, select, unary
from tensordsl.targets.cuda import cuda_target

SM80 = cuda_target("sm_80")
RUNS = [("forward", True), ("reverse", True), (3, False)]
i, j, k, t, u = (Affine.of(v) for v in "ijktu")


def kinds(nest: LoopNest, **of: Kind) -> LoopNest:
    """The nest with the kinds of some loops set, by loop name."""
    return replace(
        nest,
        body=rewrite(nest.body, lambda x: replace(x, kind=of[x.var]) if isinstance(x, For) and x.var in of else None),
    )


@dataclass(frozen=True)
class Kernel:
    """A nest to print and run, the arrays it takes, and what it must give (None: the interpreter's answer)."""

    nest: LoopNest
    inputs: dict[str, Any]
    expected: dict[str, np.ndarray[Any, Any]] | None = None
    tolerance: float = 0.0


def random_array(t: DType, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    if t.is_float:
        return rng.integers(-40, 41, shape).astype(t.name) / 8
    low = 0 if t.kind in "ub" else -50
    return rng.integers(low, 2 if t.kind == "b" else 51, shape).astype(t.name)


def pointwise(t: str, body: Callable[..., Expr], n: int = 6, m: int = 8, tolerance: float = 0.0) -> Kernel:
    """out[i, j] = body(x[i, j], y[i, j], i, j), rows on blocks, columns on threads."""
    x, y = (td.placeholder((n, m), t, name=v) for v in "xy")
    out = td.compute((n, m), lambda i, j: body(x[i, j], y[i, j], i, j), name="out")
    nest = kinds(lower(td.Program([x, y], [out], name="pointwise")), i="block", j="thread")
    dtype = x.dtype
    return Kernel(nest, {"x": random_array(dtype, (n, m), 1), "y": random_array(dtype, (n, m), 2)}, None, tolerance)


def sum_of(terms: Iterable[Expr]) -> Expr:
    return functools.reduce(lambda a, b: a + b, terms)


def scalar() -> Kernel:
    """A run-time scalar, an index as a value, and a read that only one side of a select may do."""
    x, a = td.placeholder((5, 8), name="x"), td.placeholder((), name="a")
    y = td.compute((5, 8), lambda i, j: td.select(j >= 2, x[i, j - 2] * a + td.cast(i, "float32"), -x[i, j]), name="y")
    nest = kinds(lower(td.Program([x, a], [y], name="scaled")), i="block", j="thread")
    return Kernel(nest, {"x": random_array(float32, (5, 8), 3), "a": np.float32(3)})


def row_sums() -> Kernel:
    """Each thread sums a part of a row, thread 0 the parts, all threads divide: two barriers a row."""
    x = td.placeholder((6, 32), name="x")
    p, q = td.reduce_axis(4, name="p"), td.reduce_axis(8, name="q")
    part = td.compute((6, 8), lambda i, t: td.sum(x[i, t + 8 * p], axis=p), name="part")
    total = td.compute((6,), lambda i: td.sum(part[i, q], axis=q), name="total")
    out = td.compute((6, 32), lambda i, j: x[i, j] / total[i], name="out")
    s = td.Schedule(td.Program([x], [out], name="rows")).split("out", "i", 3, names=("b", "i"))
    s = s.compute_at("total", "out", "i").compute_at("part", "out", "i")
    s = s.set_scope("part", "shared").set_scope("total", "shared")
    s = s.bind("out", "b", "block").bind("part", "t", "thread").bind("out", "j", "thread")
    return Kernel(
        insert_sync(s.nest),
        {"x": 2.0 ** np.random.default_rng(4).integers(0, 3, (6, 32)).astype("float32")},
        None,
        1e-6,
    )


def many_blocks() -> Kernel:
    """Four block loops: more than a grid has dimensions."""
    x = td.placeholder((2, 3, 2, 4), name="x")
    y = td.compute((2, 3, 2, 4), lambda i, j, k, t: x[i, j, k, t] + 1, name="y")
    nest = kinds(lower(td.Program([x], [y], name="deep")), i="block", j="block", k="block", t="block")
    return Kernel(nest, {"x": random_array(float32, (2, 3, 2, 4), 5)})


def move(n: int, body: Callable[[Buffer, Buffer], Stmt], name: str = "moved") -> LoopNest:
    """A nest by hand that computes y = x."""
    x = td.placeholder((n,), name="x")
    y = td.compute((n,), lambda i: x[i], name="y")
    a, b = Buffer("x", (n,), float32), Buffer("y", (n,), float32)
    return LoopNest(td.Program([x], [y], name=name), (a, b), body(a, b))


def of(index: Affine, kind: str = "copy") -> Instance:
    return Instance("copy" if kind == "copy" else "compute", "x" if kind == "copy" else "y", (index,))


def register_copy(cell: Affine, kind: Kind = "unroll", scope: str = "register") -> LoopNest:
    """Values that stay in registers from one phase to another, in cells that belong to threads in some way."""
    held = Buffer("held", (32,), float32, scope)  # type: ignore[arg-type]
    threads = lambda body: loop("t", 0, 8, loop("i", 0, 4, body, kind=kind), kind="thread")  # noqa: E731

    def body(x: Buffer, y: Buffer) -> Stmt:
        load = threads(Store(held, (cell,), x.at(cell), of(cell)))
        return Alloc(held, seq(load, threads(Store(y, (cell,), held.at(cell), of(cell, "compute")))))

    return move(32, body)


def gathered() -> LoopNest:
    """Vectors of 8 that start at any multiple of 2, go backwards, or are added to memory."""

    def body(x: Buffer, y: Buffer) -> Stmt:
        lanes = lambda s: loop("j", 0, 8, s, kind="vector")  # noqa: E731
        s = Buffer("s", (32,), float32, "shared")
        return Alloc(
            s,
            seq(
                loop("t", 0, 4, lanes(Store(s, (8 * t + j,), x.at(8 * t + 7 - j), of(8 * t + 7 - j))), kind="thread"),
                loop(
                    "t",
                    0,
                    4,
                    lanes(Store(y, (8 * t + j,), s.at(8 * t + 7 - j), of(8 * t + j, "compute"))),
                    kind="thread",
                ),
                loop(
                    "t",
                    0,
                    4,
                    lanes(Store(y, (8 * t + j,), s.at(8 * t + 7 - j), of(8 * t + j, "compute"), "max")),
                    kind="thread",
                ),
            ),
        )

    return move(32, body)


def one_thread() -> LoopNest:
    """A vector loop that thread 0 runs alone, beside a loop of all threads."""

    def body(x: Buffer, y: Buffer) -> Stmt:
        s = Buffer("s", (8,), float32, "shared")
        alone = loop("j", 0, 8, Store(s, (j,), x.at(j), of(j)), kind="vector")
        return Alloc(s, seq(alone, loop("t", 0, 8, Store(y, (t,), s.at(t), of(t, "compute")), kind="thread")))

    return move(8, body)


def one_name() -> LoopNest:
    """Three tiles of one name and two sizes, one after the other."""

    def tile(x: Buffer, y: Buffer, start: int, n: int) -> Stmt:
        held = Buffer("held", (4 * n,), float32, "stack")
        threads = lambda body: loop("t", 0, 4, loop("i", 0, n, body), kind="thread")  # noqa: E731
        load = threads(Store(held, (n * t + i,), x.at(start + n * t + i), of(start + n * t + i)))
        move_out = Store(y, (start + n * t + i,), held.at(n * t + i), of(start + n * t + i, "compute"))
        return Alloc(held, seq(load, threads(move_out)))

    return move(20, lambda x, y: seq(tile(x, y, 0, 2), tile(x, y, 8, 2), tile(x, y, 16, 1)))


def masked_copy() -> LoopNest:
    """Asynchronous copies of 16 values into a padded tile of 20, the rest zeros."""
    s = Buffer("s", (20,), float32, "shared")

    def body(x: Buffer, y: Buffer) -> Stmt:
        inside = select(Index(15 - (4 * t + j)) >= 0, x.at(4 * t + j), constant(0.0, float32))
        fill = replace(loop("j", 0, 4, Store(s, (4 * t + j,), inside, of(4 * t + j)), kind="vector"), notes=("async",))
        value = s.at(i) + s.at(Affine.of(19)) + s.at(Affine.of(16))
        return Alloc(
            s,
            seq(
                loop("t", 0, 5, fill, kind="thread"),
                loop("i", 0, 16, Store(y, (i,), value, of(i, "compute")), kind="thread"),
            ),
        )

    return move(16, body)


def ragged() -> LoopNest:
    """10 elements in tiles of 4: a guarded last block, a triangular thread loop, a step of 2."""

    def body(x: Buffer, y: Buffer) -> Stmt:
        tile = loop(
            "t", 0, (4, 10 - 4 * i), Store(y, (4 * i + t,), x.at(4 * i + t), of(4 * i + t, "compute")), kind="thread"
        )
        again = loop("u", 4 * i, (4 * i + 4, 10), Store(y, (u,), x.at(u), of(u, "compute")), kind="thread", step=2)
        return loop("i", 0, 3, tile, If((i - 1,), again), kind="block")

    return move(10, body)


def odd_names() -> LoopNest:
    """Loops and buffers named by words of C++ and by what is no word at all."""

    def body(x: Buffer, y: Buffer) -> Stmt:
        v = Affine.of("for") + 4 * Affine.of("i.o")
        store = Store(Buffer("int", (8,), float32, "shared"), (v,), x.at(v), of(v))
        final = Store(y, (v,), store.buffer.at(v), of(v, "compute"))
        both = seq(store, final)
        return Alloc(store.buffer, loop("for", 0, 4, loop("i.o", 0, 2, both), kind="thread"))

    return move(8, body, "words")


X32 = random_array(float32, (32,), 6)
KERNELS: dict[str, Callable[[], Kernel]] = {
    "scalar": scalar,
    "arithmetic": lambda: pointwise(
        "float32", lambda x, y, i, j: (x - y) * x / (abs(y) + 1) + td.cast(i // 3 - j % 5, "float32")
    ),
    "shared nodes": lambda: pointwise(
        "float64", lambda x, y, i, j: (z := (x + y) * 2.0) * z - td.select(z > 1.0, z * z, z), 4, 4
    ),
    "integers": lambda: pointwise("int32", lambda x, y, i, j: (x // (abs(y) + 1)) + x % (y * y + 1) + x * 3 - (x & y)),
    "negative divisors": lambda: pointwise(
        "int64", lambda x, y, i, j: x // td.select(y < 0, y, -1 - y) + x % td.select(y < 0, y, -1 - y)
    ),
    "small integers": lambda: pointwise("uint8", lambda x, y, i, j: x * 7 + y),
    "conditions": lambda: pointwise("int8", lambda x, y, i, j: td.cast((x < y) | ((x != y) & ~(i <= j)), "int8")),
    "extremes": lambda: pointwise("float32", lambda x, y, i, j: binary("max", x, y) - binary("min", x, 0.5)),
    "functions": lambda: pointwise(
        "float32",
        lambda x, y, i, j: (
            sum_of(unary(n, x * 0.25) for n in ("exp", "tanh", "erf", "sin", "floor")) + unary("rsqrt", abs(y) + 1)
        ),
        tolerance=1e-5,
    ),
    "row sums": row_sums,
    "many blocks": many_blocks,
    "blocked registers": lambda: Kernel(register_copy(4 * t + i), {"x": X32}),
    "interleaved registers": lambda: Kernel(register_copy(8 * i + t), {"x": X32}),
    "reversed registers": lambda: Kernel(register_copy(31 - 4 * t - i), {"x": X32}),
    "stack": lambda: Kernel(register_copy(4 * t + i, "serial", "stack"), {"x": X32}),
    "gathered": lambda: Kernel(insert_sync(gathered()), {"x": X32}),
    "one thread": lambda: Kernel(insert_sync(one_thread()), {"x": X32[:8]}),
    "one name": lambda: Kernel(one_name(), {"x": X32[:20]}),
    "divided floats": lambda: pointwise("float64", lambda x, y, i, j: (x // (y + 0.3)) + x % (y - 0.3) - abs(x)),
    "masked copy": lambda: Kernel(insert_sync(masked_copy()), {"x": X32[:16]}),
    "ragged": lambda: Kernel(insert_sync(ragged()), {"x": X32[:10]}),
    "odd names": lambda: Kernel(insert_sync(odd_names()), {"x": X32[:8]}),
}


@pytest.fixture(scope="module")
def printed() -> tuple[dict[str, Kernel], dict[str, CudaSource], Emulation]:
    kernels = {name: make() for name, make in KERNELS.items()}
    sources = {name: to_cuda(kernel.nest, SM80, f"k{n}") for n, (name, kernel) in enumerate(kernels.items())}
    return kernels, sources, compile_emulation(list(sources.values()))


@pytest.mark.parametrize("name", KERNELS)
def test_text_means_what_the_nest_means(
    name: str, printed: tuple[dict[str, Kernel], dict[str, CudaSource], Emulation]
) -> None:
    kernels, sources, emulation = printed
    kernel, source = kernels[name], sources[name]
    expected = interpret(kernel.nest, kernel.inputs)
    for order, late in RUNS:
        outputs = {n: np.zeros(b.shape, b.dtype.name) for b in source.parameters if (n := b.name) not in kernel.inputs}
        for array in outputs.values():
            array.view(np.uint8)[...] = 0xFF
        emulation.run(source, {**kernel.inputs, **outputs}, order, late)
        for n, array in outputs.items():
            if kernel.tolerance or array.dtype.kind == "f":
                np.testing.assert_allclose(array, expected[n], rtol=max(kernel.tolerance, 1e-6))
            else:
                assert (array == expected[n]).all()


# ---------------------------------------------------------------- the text


def test_loops_map_to_blocks_and_threads(golden: Callable[..., None]) -> None:
    source = to_cuda(scalar().nest, SM80)
    assert (source.grid, source.block, source.shared_bytes) == ((5, 1, 1), (8, 1, 1), 0)
    golden(source)


def test_row_sums_cross_two_barriers() -> None:
    text = to_cuda(row_sums().nest, SM80).text
    assert text.count("__syncthreads();") == 3  # two dependences, and the next row overwrites the parts
    assert "if (tid < 1) {" in text and "if (tid < 8) {" in text


def test_more_than_three_block_loops_share_one_grid_dimension() -> None:
    source = to_cuda(many_blocks().nest, SM80)
    assert source.grid == (48, 1, 1) and source.block == (1, 1, 1)


def test_vectors_are_whole_accesses_where_they_are_aligned() -> None:
    def copy(start: int, n: int) -> str:
        def body(x: Buffer, y: Buffer) -> Stmt:
            at = 8 * t + j + start
            return loop(
                "t", 0, 2, loop("j", 0, n, Store(y, (at,), x.at(at), of(at, "compute")), kind="vector"), kind="thread"
            )

        source = to_cuda(move(24, body), SM80)
        return f"{source.alignment} {source.text}"

    assert copy(0, 8).startswith("16") and copy(0, 8).count("td_load<4>") == 2
    assert copy(0, 6).count("td_load<2>") == 3
    assert copy(2, 6).startswith("8") and copy(1, 4).count("td_load") == 0


# ---------------------------------------------------------------- what has no CUDA form


def shared_cells(x: Buffer, y: Buffer) -> Stmt:
    held = Buffer("held", (32,), float32, "register")
    threads = lambda body: loop("t", 0, 8, loop("i", 0, 4, body, kind="unroll"), kind="thread")  # noqa: E731
    load = threads(Store(held, (4 * t + i,), x.at(4 * t + i), of(4 * t + i)))
    return Alloc(held, seq(load, threads(Store(y, (8 * i + t,), held.at(8 * i + t), of(8 * i + t, "compute")))))


def overlapping(x: Buffer, y: Buffer) -> Stmt:
    held = Buffer("held", (8,), float32, "stack")
    body = seq(Store(held, (t + i,), x.at(t + i), of(t + i)), Store(y, (t + i,), held.at(t + i), of(t + i, "compute")))
    return Alloc(held, loop("t", 0, 4, loop("i", 0, 4, body), kind="thread"))


def many_threads(x: Buffer, y: Buffer) -> Stmt:
    return loop("t", 0, 32, loop("u", 0, 64, Store(y, (t,), x.at(t), of(t, "compute")), kind="thread"), kind="thread")


def scratch(x: Buffer, y: Buffer) -> Stmt:
    w = Buffer("w", (32,), float32, "workspace")
    return Alloc(
        w, seq(Store(w, (Affine(),), x.at(0), of(Affine())), Store(y, (Affine(),), w.at(0), of(Affine(), "compute")))
    )


def computed_copy(x: Buffer, y: Buffer) -> Stmt:
    s = Buffer("s", (32,), float32, "shared")
    copy = replace(loop("t", 0, 32, Store(s, (t,), x.at(t) + 1.0, of(t)), kind="thread"), notes=("async",))
    return Alloc(s, copy)


def parallel(x: Buffer, y: Buffer) -> Stmt:
    return loop("t", 0, 32, Store(y, (t,), x.at(t), of(t, "compute")), kind="parallel")


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (shared_cells, BuildError, "held is not private: its cells belong to threads by .* in one place"),
        (overlapping, BuildError, "held is not private: in dimension 0 one cell belongs to several threads"),
        (many_threads, BuildError, "needs 2048 threads in a block, cuda-sm_80 has at most 1024"),
        (scratch, BuildError, "a CUDA kernel has no such buffer"),
        (computed_copy, BuildError, "cannot be an asynchronous copy"),
        (parallel, ScheduleError, "loop t is for CPU threads"),
    ],
)
def test_refusals(body: Callable[[Buffer, Buffer], Stmt], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        to_cuda(move(32, body), SM80)


def test_register_index_must_be_unrolled() -> None:
    with pytest.raises(BuildError, match="register buffer held is indexed by i, which is not an unrolled loop"):
        to_cuda(register_copy(4 * t + i, "serial"), SM80)


def test_unknown_devices_are_named() -> None:
    with pytest.raises(BuildError, match="unknown CUDA target 'sm_81'"):
        cuda_target("sm_81")


# ---------------------------------------------------------------- faults that the emulator reports


def source(symbol: str, body: str, alignment: int = 4) -> CudaSource:
    """A kernel by hand on 64 threads: x has 64 floats, y too."""
    text = (
        f'#include "tensordsl_cuda.cuh"\nextern "C" __global__ void __launch_bounds__(64)\n'
        f"{symbol}(const float *__restrict__ x, float *__restrict__ y) {{\n  const int tid = threadIdx.x;\n{body}\n}}\n"
    )
    parameters = tuple(Buffer(n, (64,), float32) for n in "xy")
    return CudaSource(text, symbol, (1, 1, 1), (64, 1, 1), 0, 0, parameters, alignment)


STALE = "TD_SHARED(float, s, 64); if (tid < 32) s[tid] = x[tid]; y[tid] = s[tid];"
AHEAD = "TD_SHARED(float, s, 64); s[tid] = x[tid]; y[tid] = s[63 - tid];"
ARRIVES = "TD_SHARED(float, s, 64); td_copy_async<4>(&s[tid], &x[tid]); td_commit(); y[tid] = s[tid];"
FAULTS = {
    "deadlock": ("if (tid < 63) __syncthreads(); y[tid] = x[tid];", "deadlock: thread 0 waits at __syncthreads"),
    "misaligned": ("td_store(&y[4 * (tid / 8) + 1], td_load<2>(&x[0]));", "misaligned access of 8 bytes"),
    "before": ("y[tid - 1] = x[tid];", "a write outside y"),
    "after": ("y[tid + 1] = x[tid];", "a write outside y"),
    "shared": ("TD_SHARED(float, s, 60); s[tid] = x[tid]; y[tid] = x[tid];", "a write outside shared array s"),
    "async": ("TD_SHARED(float, s, 64); td_copy_async<16>(&s[tid], &x[tid]);", "misaligned access of 16 bytes"),
}


@pytest.fixture(scope="module", params=[(), ("TD_EMULATOR_UCONTEXT",)], ids=["registers", "ucontext"])
def faulty(request: pytest.FixtureRequest) -> tuple[dict[str, CudaSource], Emulation]:
    """Under both ways to switch stacks."""
    texts = {name: body for name, (body, _) in FAULTS.items()} | {"stale": STALE, "ahead": AHEAD, "arrives": ARRIVES}
    sources = {name: source(f"fault_{name}", body) for name, body in texts.items()}
    return sources, compile_emulation(list(sources.values()), definitions=request.param)


def test_faults_are_reported_not_fatal(faulty: tuple[dict[str, CudaSource], Emulation]) -> None:
    sources, emulation = faulty
    x, y = np.arange(64, dtype="float32"), np.zeros(64, "float32")
    for name, (_, message) in FAULTS.items():
        with pytest.raises(BuildError, match=message) as fault:
            emulation.run(sources[name], {"x": x, "y": y}, "reverse")
        assert "hint: order='reverse', late=True reproduces it" in str(fault.value)


def test_missing_synchronisation_shows_as_wrong_values(faulty: tuple[dict[str, CudaSource], Emulation]) -> None:
    sources, emulation = faulty
    x = np.arange(64, dtype="float32")

    def run(name: str, order: str | int, late: bool) -> np.ndarray[Any, Any]:
        y = np.zeros(64, "float32")
        emulation.run(sources[name], {"x": x, "y": y}, order, late)
        return y

    assert np.isnan(run("stale", "forward", False)[32:]).all()  # shared memory starts as NaNs
    assert np.isnan(run("ahead", "forward", False)[:32]).all() and np.isnan(run("ahead", "reverse", False)[32:]).all()
    assert (run("arrives", "forward", False) == x).all() and np.isnan(run("arrives", "forward", True)).all()


def test_wrong_arrays_are_refused(faulty: tuple[dict[str, CudaSource], Emulation]) -> None:
    sources, emulation = faulty
    x = np.zeros(64, "float32")
    with pytest.raises(BuildError, match="no array for parameter y"):
        emulation.run(sources["after"], {"x": x})
    with pytest.raises(BuildError, match=r"y is float64\[64\], the kernel takes float32\[64\]"):
        emulation.run(sources["after"], {"x": x, "y": np.zeros(64)})


def test_compiler_faults_are_reported() -> None:
    with pytest.raises(BuildError, match="does not compile the emulation") as fault:
        compile_emulation([source("broken", "nonsense")])
    assert "nonsense" in str(fault.value)
    with pytest.raises(BuildError, match="two kernels to emulate have one symbol"):
        compile_emulation([source("same", ""), source("same", "")])
