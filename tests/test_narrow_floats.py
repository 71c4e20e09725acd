"""float16 and bfloat16: conversions bit by bit, arithmetic within its bound, accumulation, interfaces."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tensordsl.codegen import dlpack
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import compile_sources
from tensordsl.codegen.cuda.printer import to_cuda
from tensordsl.codegen.representation import is_narrow, represented
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret as interpret_nest
from tensordsl.schedules.loopnest import LoopNest, buffers
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule

import tensordsl as td
from tensordsl import dtypes, interpreter
from tensordsl.targets import target
from tensordsl.targets.cuda import cuda_target
from tests import kernel_runner
from tests.random_programs import random_program, small_integers, smooth_values
from tests.random_schedules import Steps, apply, too_large

TYPES = ("float16", "bfloat16")
STORED = ("float8_e4m3fn", "float8_e5m2")
TARGETS = ("native", "avx2", "portable")


def near_ties(t: dtypes.DType) -> np.ndarray:
    """Every number of a type in float32, the middles between neighbours, and what lies beside them."""
    wide = np.arange(1 << t.bits, dtype=f"u{t.bytes}").view(t.numpy).astype(np.float32)
    steps = np.unique(wide[np.isfinite(wide)]).astype(np.float64)
    middle = ((steps[1:] + steps[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(middle, np.float32(s * np.inf)) for s in (1, -1)]
    far = np.array([1e9, -1e9, 1e30, 3.4e38, np.inf, -np.inf, np.nan], np.float32)
    return np.concatenate([wide, middle, *beside, far])


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit by bit; any nan is nan."""
    bits = f"u{a.itemsize}"
    return bool(((a.view(bits) == b.view(bits)) | (np.isnan(a) & np.isnan(b))).all())


def program_of(inputs: list, *outputs: object, name: str = "kernel") -> td.Program:
    return td.Program(inputs, list(outputs), name)


@pytest.mark.compiler
@pytest.mark.parametrize("machine", TARGETS)
@pytest.mark.parametrize("name", (*TYPES, *STORED))
def test_every_number_converts(name: str, machine: str) -> None:
    t = dtypes.dtype(name)
    every = np.arange(1 << t.bits, dtype=f"u{t.bytes}").view(t.numpy)
    x = td.placeholder(every.shape, name, name="x")
    up = td.Program([x], [x.astype("float32")])
    for found in _run([default_schedule(up, target(machine)).nest, Schedule(up).nest], machine, {"x": every}):
        assert same(found, every.astype(np.float32))
    values = near_ties(t)
    y = td.placeholder(values.shape, name="y")
    down = td.Program([y], [y.astype(name)])
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = values.astype(t.numpy)
    for found in _run([default_schedule(down, target(machine)).nest, Schedule(down).nest], machine, {"y": values}):
        assert same(found, wanted)


def test_promotion() -> None:
    pairs = {
        ("float16", "bfloat16"): "float32", ("float16", "float32"): "float32", ("bfloat16", "float64"): "float64",
        ("int64", "float16"): "float16", ("bfloat16", "uint8"): "bfloat16", ("bool", "bfloat16"): "bfloat16",
    }  # fmt: skip
    for (a, b), c in pairs.items():
        assert dtypes.promote(dtypes.dtype(a), dtypes.dtype(b)).name == c
        assert dtypes.promote(dtypes.dtype(b), dtypes.dtype(a)).name == c


@pytest.mark.parametrize("name", TYPES)
def test_interpreters_round_each_operation_in_float32_mode(name: str) -> None:
    x = td.placeholder((64,), name, name="x")
    program = td.Program([x], [td.compute((64,), lambda i: x[i] * x[i] + 0.1, name="y")])
    data = {"x": np.linspace(-3, 3, 64).astype(dtypes.dtype(name).numpy)}
    wanted = data["x"] * data["x"] + data["x"].dtype.type(0.1)  # numpy rounds each operation
    found = td.interpret(program, data, dtype="float32")["y"]
    nest = interpret_nest(Schedule(program).nest, data, dtype="float32")["y"]
    assert found.dtype == nest.dtype == data["x"].dtype
    assert same(found, wanted) and same(nest, wanted)


@pytest.mark.compiler
@pytest.mark.parametrize("name", TYPES)
def test_sum_in_registers_accumulates_in_float32(name: str) -> None:
    """4096 ones: float16 stops at 2048 and bfloat16 at 256 where each addition rounds."""
    n = 4096
    x = td.placeholder((3, n), name, name="x")
    k = td.reduce_axis(n, name="k")
    y = td.compute((3,), lambda i: td.sum(x[i, k], axis=k), name="y")
    ones = np.ones((3, n), dtypes.dtype(name).numpy)
    assert td.compile(td.Program([x], [y]))(ones).astype(float).tolist() == [n] * 3


@pytest.mark.compiler
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("machine", TARGETS)
def test_plain_loops_round_into_a_cell_once(name: str, machine: str) -> None:
    """Also where a vector loop runs along the reduction, and its lanes share the cell."""
    x = td.placeholder((5, 67), name, name="x")
    k = td.reduce_axis(67, name="k")
    program = td.Program([x], [td.compute((5,), lambda i: td.sum(x[i, k], axis=k), name="y")])
    data = {"x": np.random.default_rng(0).standard_normal((5, 67)).astype(dtypes.dtype(name).numpy)}
    once = data["x"].astype(np.float64).sum(axis=1)
    for s in (Schedule(program), Schedule(program).vectorize("y", "k"), Schedule(program).reorder("y", "k", "i")):
        [found] = _run([s.nest], machine, data)
        bound = td.error_bound(program, data)["y"]
        assert (np.abs(found.astype(float) - once) <= bound).all()
        if "reorder" not in str(s.trace):
            assert (np.abs(found.astype(float) - once) <= 1.01 * dtypes.dtype(name).unit_roundoff * np.abs(once)).all()


def _run(nests: list[LoopNest], machine: str, data: dict) -> list[np.ndarray]:
    from tensordsl.codegen.runtime import Kernel

    sources = [to_c(n, target(machine), f"narrow_{i}") for i, n in enumerate(nests)]
    kernels = compile_sources(sources)
    return [Kernel(k, n)(*data.values()) for k, n in zip(kernels, nests)]


@pytest.mark.parametrize("name", TYPES)
def test_representation_holds_what_is_computed_in_float32(name: str) -> None:
    a, b = td.placeholder((40, 48), name, name="a"), td.placeholder((48, 64), name, name="b")
    product = td.matmul(a, b)
    nest = represented(default_schedule(td.Program([a, b], [product]), target("avx2")).nest)
    kinds = {x.scope: x.dtype.name for x in buffers(nest).values()}
    assert kinds == {"external": "uint16", "register": "float32"}
    plain = default_schedule(random_program(3), target("avx2")).nest
    assert represented(plain) is plain
    assert not is_narrow(dtypes.float32)


@pytest.mark.compiler
def test_copies_move_bits() -> None:
    x = td.placeholder((16, 32), "bfloat16", name="x")
    program = td.Program([x], [x.T])
    bits = np.arange(512, dtype=np.uint16).reshape(16, 32) + 0x7F00  # nans with payloads among them
    kernel = td.compile(program)
    assert (kernel(bits.view("bfloat16")).view(np.uint16) == bits.T).all()
    assert "widen" not in kernel.source.text


@pytest.mark.compiler
def test_casts_round_and_arithmetic_does_not() -> None:
    x = td.placeholder((8,), name="x")
    rounded = td.compute((8,), lambda i: td.cast(td.cast(x[i], "float16"), "float32") - x[i], name="rounded")
    data = np.linspace(0.1, 0.8, 8, dtype=np.float32)
    wanted = data.astype(np.float16).astype(np.float32) - data
    assert (td.compile(td.Program([x], [rounded]))(data) == wanted).all()


@pytest.mark.compiler
@pytest.mark.parametrize("name", TYPES)
def test_functions_of_reals(name: str) -> None:
    x = td.placeholder((50,), name, name="x")
    outputs = [f(x) for f in (td.exp, td.tanh, td.erf, td.sqrt, td.log, td.sin, td.floor)]
    program = td.Program([x], [*outputs, td.maximum(x, 1.0)])
    data = {"x": np.linspace(0.1, 5, 50).astype(dtypes.dtype(name).numpy)}
    exact, bound = td.interpret(program, data), td.error_bound(program, data)
    for t, found in zip(program.outputs, td.compile(program)(*data.values())):
        assert (np.abs(found.astype(float) - exact[t.name]) <= bound[t.name]).all()
        near = np.abs(found.astype(float) - exact[t.name]) <= 1.01 * t.dtype.unit_roundoff * np.abs(exact[t.name])
        assert near.all(), t.name  # computed in float32, rounded once


@pytest.mark.compiler
def test_scalars_come_by_value_and_outputs_in_place() -> None:
    x, alpha = td.placeholder((5,), "bfloat16", name="x"), td.placeholder((), "float16", name="alpha")
    y = td.compute((5,), lambda i: td.cast(alpha * x[i], "bfloat16"), name="y")
    kernel = td.compile(td.Program([x, alpha], [y], inplace={"y": "x"}))
    data = np.array([1, 2, 3, 4, 5], "bfloat16")
    result = kernel(data, 0.5)
    assert result is data and data.astype(float).tolist() == [0.5, 1, 1.5, 2, 2.5]
    assert kernel(data, np.float16(2)).astype(float).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.compiler
@pytest.mark.parametrize("name", STORED)
def test_types_that_only_store(name: str) -> None:
    """Arithmetic is in float32; a cast, and only a cast, makes such a number again."""
    t = dtypes.dtype(name)
    x, w = td.placeholder((6, 20), name, name="x"), td.placeholder((20,), "bfloat16", name="w")
    total = (x * w).sum(axis=1)
    peak = td.max(x, axis=1)
    assert [e.dtype.name for e in (x * w, total, peak, td.maximum(x, 0.5), -x)] == ["float32"] * 5
    program = td.Program([x, w], [total, peak, td.cast(td.sqrt(abs(x)), name)])
    assert program.outputs[2].dtype.name == name
    rng = np.random.default_rng(0)
    data = [rng.standard_normal((6, 20)).astype(t.numpy), rng.standard_normal(20).astype("bfloat16")]
    found = td.compile(program)(*data)
    wide = [d.astype(np.float32) for d in data]
    np.testing.assert_allclose(found[0], (wide[0] * wide[1]).sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(found[1], wide[0].max(axis=1))
    assert same(found[2], np.sqrt(np.abs(wide[0])).astype(t.numpy))


def test_a_wrong_type_is_refused() -> None:
    x = td.placeholder((5,), "bfloat16", name="x")
    kernel = td.compile(td.Program([x], [td.exp(x)]))
    with pytest.raises(td.BuildError, match="x is float16, the kernel takes bfloat16"):
        kernel(np.zeros(5, np.float16))


class Foreign:
    """An array of another framework: uint16 of numpy that says it is bfloat16."""

    def __init__(self, bits: np.ndarray) -> None:
        self.bits = bits

    def __dlpack__(self, **options: object) -> object:
        capsule = self.bits.__dlpack__(**options)
        versioned = dlpack._is_valid(capsule, b"dltensor_versioned")
        kind, name = (dlpack._Versioned, b"dltensor_versioned") if versioned else (dlpack._Tensor, b"dltensor")
        managed = kind.from_address(dlpack._pointer(capsule, name))
        (managed.tensor if versioned else managed).dtype.code = 4
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


@pytest.mark.compiler
def test_arrays_of_other_frameworks() -> None:
    x = td.placeholder((3, 4), "bfloat16", name="x")
    kernel = td.compile(td.Program([x], [td.compute((3, 4), lambda i, j: x[i, j] * 2, name="y")]))
    bits = np.arange(12).reshape(3, 4).astype("bfloat16").view(np.uint16)
    out = np.zeros((3, 4), "bfloat16")
    for given in (bits, np.asfortranarray(bits)):
        kernel(Foreign(given), out=out)
        assert out.astype(float).ravel().tolist() == [2 * k for k in range(12)]
    result = np.zeros((3, 4), np.uint16)
    kernel(Foreign(bits), out=Foreign(result))
    assert (result.view("bfloat16") == out).all()


@pytest.mark.compiler
def test_library_takes_bits(tmp_path: Path) -> None:
    x = td.placeholder((6,), "float16", name="x")
    program = td.Program([x], [td.compute((6,), lambda i: td.cast(x[i], "bfloat16"), name="y")], name="half")
    td.build_library([program], tmp_path, name="halves", log_dir=tmp_path / "none")
    header = (tmp_path / "include" / "halves.h").read_text()
    assert "halves_half_float16_bfloat16(const halves_call *call, const uint16_t *x, uint16_t *y)" in header
    assert "x: float16 (its bits), rank 1, input" in header


@pytest.mark.compiler
def test_tuning(tmp_path: Path) -> None:
    a, b = (td.placeholder((32, 32), "bfloat16", name=n) for n in "ab")
    product = td.matmul(a.astype("float32"), b.astype("float32"))
    tuned = td.tune(td.Program([a, b], [product.astype("bfloat16")]), trials=2, log_dir=tmp_path)
    lines = [json.loads(line) for line in tuned.log.read_text().splitlines()]
    assert {line["status"] for line in lines} == {"ok"}
    assert lines[0]["workload"]["shapes"] == ["bfloat16[32, 32]", "bfloat16[32, 32]", "->", "bfloat16[32, 32]"]


def test_no_cuda_text() -> None:
    x = td.placeholder((5,), "bfloat16", name="x")
    with pytest.raises(td.BuildError, match="bfloat16 is printed as C only"):
        to_cuda(Schedule(td.Program([x], [td.exp(x)])).nest, cuda_target("sm_80"))


# ---------------------------------------------------------------- random programs


def _check(seeds: range, machine: str, smooth: bool, folder: Path) -> None:
    jobs, about, sources, nests = [], [], [], []
    for seed in seeds:
        program = random_program(seed, narrow=True, smooth=smooth)
        s, draw = Schedule(program, checked=False), Steps(random.Random(seed))
        for k in range(10):
            try:
                new = apply(s, draw.draw(s, k / 10))
            except td.ScheduleError:
                continue
            if find_violation(new.nest) is None and not too_large(new.nest):
                s = new
        for one in (s, default_schedule(program, target(machine))):
            nests.append(one.nest)
            about.append(
                (seed, program, f"random_program({seed}, narrow=True, smooth={smooth})\n{one.trace.to_python()}")
            )
            sources.append(to_c(one.nest, target(machine), f"narrow_{len(nests)}"))
    for k, (kernel, nest, (seed, program, origin)) in enumerate(zip(compile_sources(sources), nests, about)):
        assert not isinstance(kernel, td.BuildError), f"{kernel}\n{origin}"
        inputs = (smooth_values if smooth else small_integers)(program, seed)
        expected = interpreter.interpret(program, inputs)
        bounds = interpreter.error_bound(nest.program, inputs)
        kernel_runner.save(folder / f"{k}.npz", nest, [(inputs, expected, bounds)])
        jobs.append(kernel_runner.job(kernel, nest, folder / f"{k}.npz", 1))
    for nest, (_, _, origin), verdict in zip(nests, about, kernel_runner.run(jobs, folder)):
        assert verdict == "right", f"{verdict} on {machine}\n{origin}\n{nest}"


@pytest.mark.compiler
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("machine", ["native", "portable"])
def test_random_programs(machine: str, smooth: bool, tmp_path: Path) -> None:
    start = 700 + 100 * smooth + 50 * (machine == "portable")
    _check(range(start, start + 15), machine, smooth, tmp_path)
