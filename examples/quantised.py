"""Quantised arithmetic as ONNX defines it: 8-bit numbers with a scale and a zero point, sums in int32.

A real number x is held as the integer q with x = (q - zero_point) * scale.  Every operator is written from the
formula in ONNX's operator schemas; rounding is to the nearest, ties to even, and casts to 8 bits saturate.

    python examples/quantised.py        # a quantised product beside the real one
"""

from __future__ import annotations

import numpy as np

import tensordsl as td


def saturated(x, dtype, least, most):
    """x as an 8-bit integer: clip, then cast (a cast alone would wrap around)."""
    return td.cast(td.minimum(td.maximum(x, least), most), dtype)


@td.operator("x: float32[M, N], scale: float32, zero_point: uint8")
def quantize_linear(x, scale, zero_point):
    """saturate(round(x / scale) + zero_point)"""
    return td.compute(
        ("M", "N"), lambda i, j: saturated(td.round(x[i, j] / scale) + zero_point, "uint8", 0, 255), name="y"
    )


@td.operator("x: uint8[M, N], scale: float32, zero_point: uint8")
def dequantize_linear(x, scale, zero_point):
    """(x - zero_point) * scale"""
    return td.compute(
        ("M", "N"),
        lambda i, j: td.cast(td.cast(x[i, j], "int32") - td.cast(zero_point, "int32"), "float32") * scale,
        name="y",
    )


def integer_product(a, b, a_zero_point, b_zero_point):
    """The sum over k of (a - a_zero_point) * (b - b_zero_point), in int32."""
    k = td.reduce_axis("K", name="k")

    def term(i, j):
        left = td.cast(a[i, k], "int32") - td.cast(a_zero_point, "int32")
        return left * (td.cast(b[k, j], "int32") - td.cast(b_zero_point, "int32"))

    return td.compute(("M", "N"), lambda i, j: td.sum(term(i, j), axis=k), name="product")


@td.operator("a: uint8[M, K], b: int8[K, N], a_zero_point: uint8, b_zero_point: int8")
def matmul_integer(a, b, a_zero_point, b_zero_point):
    """(a - a_zero_point) @ (b - b_zero_point) in int32"""
    return integer_product(a, b, a_zero_point, b_zero_point)


@td.operator(
    "a: uint8[M, K], a_scale: float32, a_zero_point: uint8, b: int8[K, N], b_scale: float32, b_zero_point: int8, "
    "y_scale: float32, y_zero_point: uint8"
)
def qlinear_matmul(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point):
    """saturate(round((a_scale * b_scale / y_scale) * product) + y_zero_point): requantised where it is summed"""
    product = integer_product(a, b, a_zero_point, b_zero_point)

    def requantised(i, j):
        scaled = (a_scale * b_scale / y_scale) * td.cast(product[i, j], "float32")
        return saturated(td.round(scaled) + y_zero_point, "uint8", 0, 255)

    return td.compute(("M", "N"), requantised, name="y")


def main() -> None:
    rng = np.random.default_rng(0)
    m, n, k = 64, 96, 128
    x, w = rng.uniform(-1, 1, (m, k)).astype(np.float32), rng.uniform(-1, 1, (k, n)).astype(np.float32)
    a = td.compile(quantize_linear.bind(M=m, N=k))(x, 2 / 255, 128)
    b = np.clip(np.rint(w * 127), -128, 127).astype(np.int8)
    product = td.compile(qlinear_matmul.bind(M=m, N=n, K=k))
    y = product(a, 2 / 255, 128, b, 1 / 127, 0, 0.2, 128)
    real = td.compile(dequantize_linear.bind(M=m, N=n))(y, 0.2, 128)
    print("largest difference from the real product:", float(np.abs(real - x @ w).max()))


if __name__ == "__main__":
    main()
