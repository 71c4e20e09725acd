"""int4 and uint4: two elements a byte in memory, read by kernels, never written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensordsl.codegen.packed import packed
from tensordsl.schedules.interpreter import interpret as interpret_nest
from tensordsl.schedules.schedule import Schedule

import tensordsl as td
from tensordsl import dtypes

LEAST = {"int4": -8, "uint4": 0}


def numbers(name: str, *shape: int) -> np.ndarray:
    least = LEAST[name]
    return np.random.default_rng(0).integers(least, least + 16, shape).astype(dtypes.dtype(name).numpy)


def test_low_bits_come_first_and_rows_start_at_bytes() -> None:
    given = np.array([[1, -2, 7], [-8, 0, 3]]).astype(dtypes.int4.numpy)
    assert packed(given).tolist() == [[0xE1, 0x07], [0x08, 0x03]]


@pytest.mark.compiler
@pytest.mark.parametrize("machine", ["native", "avx2", "portable"])
@pytest.mark.parametrize("columns", [64, 37, 5])
@pytest.mark.parametrize("name", LEAST)
def test_kernels_read_halves_of_bytes(name: str, columns: int, machine: str) -> None:
    x, s = td.placeholder((3, columns), name, name="x"), td.placeholder((3,), name="s")
    w = td.placeholder((columns,), name="w")
    k = td.reduce_axis(columns, name="k")
    outputs = [
        td.compute((3, columns), lambda i, j: td.cast(x[i, j], "float32") * s[i], name="scaled"),
        td.compute((3, columns), lambda i, j: x[i, j] - 8, name="moved"),
        td.compute((columns, 3), lambda i, j: td.cast(x[j, columns - 1 - i], "int8"), name="turned"),
        td.compute((3,), lambda i: td.sum(x[i, k] * w[k], axis=k), name="total"),
        td.compute((columns // 2,), lambda i: td.select(i > 1, x[1, 2 * i + 1], 3), name="odd"),
    ]
    assert outputs[1].dtype.name == outputs[4].dtype.name == "int32"
    program = td.Program([x, s, w], outputs)
    rng = np.random.default_rng(1)
    data = [numbers(name, 3, columns), rng.standard_normal(3).astype("f4"), rng.standard_normal(columns).astype("f4")]
    inputs = dict(zip("xsw", data))
    exact, bound = td.interpret(program, inputs), td.error_bound(program, inputs)
    nest = interpret_nest(Schedule(program).nest, inputs)
    kernel = td.compile(program, target=machine)
    for first in (data[0], packed(data[0])):
        for t, found in zip(program.outputs, kernel(first, *data[1:])):
            assert (np.abs(found - exact[t.name]) <= bound[t.name]).all()
            np.testing.assert_allclose(nest[t.name], exact[t.name], rtol=1e-12, atol=1e-12)


@pytest.mark.compiler
def test_weights_of_a_product(tmp_path: Path) -> None:
    a, b = td.placeholder((32, 48), name="a"), td.placeholder((48, 33), "int4", name="b")
    program = td.Program([a, b], [td.matmul(a, b.astype("float32"))], name="weights")
    left = np.random.default_rng(1).integers(-3, 4, (32, 48)).astype(np.float32)
    right = numbers("int4", 48, 33)
    np.testing.assert_array_equal(td.compile(program)(left, right), left @ right.astype(np.float32))
    tuned = td.tune(program, trials=2, log_dir=tmp_path)
    lines = [json.loads(line) for line in tuned.log.read_text().splitlines()]
    assert {line["status"] for line in lines} == {"ok"}
    td.build_library([program], tmp_path / "out", name="four", log_dir=tmp_path)
    header = (tmp_path / "out" / "include" / "four.h").read_text()
    assert "const float *a, const uint8_t *b" in header.replace("\n", " ").replace("  ", "")
    assert "b: int4 (two a byte, low bits first, rows padded to bytes), rank 2, input" in header


X = td.placeholder((4, 6), "int4", name="x")
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "copy": (lambda: td.compute((4,), lambda i: X[i, 0], name="y"), "y would be int4, a type of inputs"),
    "transposition": (lambda: X.T, "x_t would be int4, a type of inputs"),
    "cast": (lambda: td.cast(td.placeholder((3,), name="z"), "int4"), "int4 is a type of inputs"),
    "scalar": (lambda: td.placeholder((), "uint4"), "uint4 packs two elements into a byte"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_write_one_is_refused(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(td.ProgramError, match=message):
        make()


@pytest.mark.compiler
def test_other_arrays_are_refused() -> None:
    kernel = td.compile(td.Program([X], [X.astype("int8")]))
    with pytest.raises(td.BuildError, match="x is int8, the kernel takes int4"):
        kernel(np.zeros((4, 6), np.int8))
    with pytest.raises(td.BuildError, match=r"x has shape \(4, 2\)"):
        kernel(np.zeros((4, 2), np.uint8))
