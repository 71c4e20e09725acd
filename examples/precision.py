"""Numbers other than float32: half precision with float32 sums, 8-bit and 4-bit storage, complex numbers.

python examples/precision.py        # each beside numpy in double precision
"""

from __future__ import annotations

import numpy as np
from ml_dtypes import bfloat16, int4

import tensordsl as td


@td.operator("a: bfloat16[M, K], b: bfloat16[K, N]")
def mixed_matmul(a, b):
    """bfloat16 times bfloat16, summed in float32: the terms are cast, so the sum is a float32."""
    k = td.reduce_axis("K")
    return td.compute(
        ("M", "N"), lambda i, j: td.sum(td.cast(a[i, k], "float32") * td.cast(b[k, j], "float32"), axis=k), name="y"
    )


@td.operator("x: float16[M, N]")
def softmax_half(x):
    """Softmax of float16 rows: computed and summed in float32, rounded once."""
    return td.ops.softmax(x.astype("float32"), axis=-1).astype("float16")


@td.operator("x: float32[K], w: int4[N, K], scale: float32[N]")
def four_bit_weights(x, w, scale):
    """A vector times weights of four bits, each row with a scale."""
    k = td.reduce_axis("K")
    total = td.compute(("N",), lambda n: td.sum(w[n, k] * x[k], axis=k), name="total")
    return total * scale


@td.operator("x: float32[N]")
def to_float8(x):
    """Clipped to what float8_e4m3fn holds, so that nothing becomes nan."""
    return td.minimum(td.maximum(x, -448.0), 448.0).astype("float8_e4m3fn")


@td.operator("x: complex64[N], twiddles: complex64[N, N]")
def transform(x, twiddles):
    """A discrete Fourier transform by its definition."""
    k = td.reduce_axis("N", name="k")
    return td.compute(("N",), lambda i: td.sum(twiddles[i, k] * x[k], axis=k), name="y")


def differences() -> dict[str, float]:
    """Each operator's largest difference from numpy in double precision, relative to the largest result."""
    rng = np.random.default_rng(0)
    found = {}

    def compare(name, program, wanted, *arrays):
        y = td.compile(program)(*arrays)
        y = y.astype(wanted.dtype)
        found[name] = float(np.abs(y - wanted).max() / np.abs(wanted).max())

    a, b = rng.standard_normal((64, 96)).astype(bfloat16), rng.standard_normal((96, 80)).astype(bfloat16)
    compare("mixed_matmul", mixed_matmul.bind(M=64, K=96, N=80), a.astype(float) @ b.astype(float), a, b)
    x = rng.standard_normal((16, 100)).astype(np.float16)
    e = np.exp(x.astype(float))
    compare("softmax_half", softmax_half.bind(M=16, N=100), e / e.sum(axis=1, keepdims=True), x)
    w, v, s = rng.integers(-8, 8, (32, 75)).astype(int4), rng.standard_normal(75), rng.uniform(0.1, 1, 32)
    wanted = w.astype(float) @ v * s
    compare("four_bit_weights", four_bit_weights.bind(K=75, N=32), wanted, v.astype("f4"), w, s.astype("f4"))
    v = rng.uniform(-600, 600, 50).astype("f4")
    compare("to_float8", to_float8.bind(N=50), np.clip(v, -448, 448).astype(float), v)
    z = (rng.standard_normal(48) + 1j * rng.standard_normal(48)).astype(np.complex64)
    twiddles = np.exp(-2j * np.pi * np.outer(np.arange(48), np.arange(48)) / 48).astype(np.complex64)
    compare("transform", transform.bind(N=48), np.fft.fft(z.astype(complex)), z, twiddles)
    return found


if __name__ == "__main__":
    for name, difference in differences().items():
        print(f"{name}: {difference:.1e}")
