"""examples/quantised.py against numpy, written from the formulas of ONNX's operator schemas."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.schedules.default import default_schedule

import tensordsl as td
from tensordsl.targets import target

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import quantised

F = np.float32
M, N, K = 13, 37, 29


def saturate(x: Any) -> Any:
    return np.clip(x, 0, 255).astype(np.uint8)


def quantize(x: Any, scale: float, zero: int) -> Any:
    return saturate(np.rint(x / F(scale)) + zero)


def dequantize(x: Any, scale: float, zero: int) -> Any:
    return (x.astype(np.int32) - zero).astype(F) * F(scale)


def product(a: Any, b: Any, a_zero: int, b_zero: int) -> Any:
    return (a.astype(np.int32) - a_zero) @ (b.astype(np.int32) - b_zero)


def qlinear(a: Any, a_scale: float, a_zero: int, b: Any, b_scale: float, b_zero: int, scale: float, zero: int) -> Any:
    ratio = F(a_scale) * F(b_scale) / F(scale)
    return saturate(np.rint(product(a, b, a_zero, b_zero).astype(F) * ratio) + zero)


def cases() -> dict[str, tuple[td.Program, Callable[..., Any], list[Any]]]:
    rng = np.random.default_rng(0)
    x = rng.uniform(-40, 40, (M, N)).astype(F)
    x[0, :4] = [0.25, 0.75, -0.25, 1.25]  # halves of the scale: to even
    a, b = rng.integers(0, 256, (M, K)).astype(np.uint8), rng.integers(-128, 128, (K, N)).astype(np.int8)
    q = rng.integers(0, 256, (M, N)).astype(np.uint8)
    return {
        "quantize_linear": (quantised.quantize_linear.bind(M=M, N=N), quantize, [x, 0.5, 100]),
        "dequantize_linear": (quantised.dequantize_linear.bind(M=M, N=N), dequantize, [q, 0.1, 128]),
        "matmul_integer": (quantised.matmul_integer.bind(M=M, N=N, K=K), product, [a, b, 120, -3]),
        "qlinear_matmul": (
            quantised.qlinear_matmul.bind(M=M, N=N, K=K), qlinear, [a, 0.02, 120, b, 0.05, -3, 2.5, 131]
        ),
    }  # fmt: skip


CASES = cases()


@pytest.mark.compiler
@pytest.mark.parametrize("machine", ["native", "avx2", "portable"])
@pytest.mark.parametrize("name", CASES)
def test_operators_are_those_of_onnx(name: str, machine: str) -> None:
    program, reference, arguments = CASES[name]
    wanted = reference(*arguments)
    kernel = td.compile(program, target=machine)
    found = kernel(*arguments)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    inputs = {t.name: v for t, v in zip(program.inputs, arguments)}
    np.testing.assert_array_equal(td.interpret(program, inputs, dtype="float32")[program.outputs[0].name], wanted)


@pytest.mark.parametrize("machine", ["avx2", "x86_64-v4-avx512"])
def test_products_are_tiled_in_registers(machine: str) -> None:
    """The sum stays in registers, and is requantised from there: no product in memory."""
    text = str(default_schedule(quantised.qlinear_matmul.bind(M=64, N=64, K=64), target(machine)))
    assert "product_acc: int32" in text and "product: int32" not in text


@pytest.mark.compiler
def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    quantised.main()
    assert float(capsys.readouterr().out.split()[-1]) < 0.25
