"""Operators for all sizes, each with what makes it hard, and sizes around the tiles."""

from __future__ import annotations

import numpy as np

import tensordsl as td

#: Beside 0 and 1: around vectors and register tiles of every instruction set.
EDGES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 130)


@td.operator("x: float32[N], s: float32")
def scaled(x: td.Tensor, s: td.Tensor) -> td.Tensor:
    return td.compute("N", lambda i: x[i] * s + 1.0, name="y")


@td.operator("x: float32[N, 5]")
def fused_rows(x: td.Tensor) -> td.Tensor:
    return td.compute(("N", 5), lambda i, j: x[i, j] * 2.0, name="y")


@td.operator("a: float32[M, K], b: float32[K, N], c: float32[N]")
def linear_relu(a: td.Tensor, b: td.Tensor, c: td.Tensor) -> td.Tensor:
    k = td.reduce_axis("K")
    y = td.compute(("M", "N"), lambda m, n: td.sum(a[m, k] * b[k, n], axis=k), name="y")
    return td.compute(("M", "N"), lambda m, n: td.maximum(y[m, n] + c[n], 0.0), name="z")


@td.operator("x: float64[M, K], w: float64[N, K]")
def linear(x: td.Tensor, w: td.Tensor) -> td.Tensor:
    return td.ops.linear(x, w)


@td.operator("x: float32[M, N]; N >= 1")
def softmax(x: td.Tensor) -> td.Tensor:
    return td.ops.softmax(x)


@td.operator("x: float32[M, N]; N >= 1")
def layer_norm(x: td.Tensor) -> td.Tensor:
    return td.ops.layer_norm(x)


@td.operator("x: float32[M, N]")
def transposed(x: td.Tensor) -> td.Tensor:
    return td.transpose(x)


@td.operator("x: float32[M, N], y: float32[M, N]")
def two_results(x: td.Tensor, y: td.Tensor) -> tuple[td.Tensor, td.Tensor]:
    return td.compute(("M", "N"), lambda i, j: x[i, j] + y[i, j], name="a"), (x * y).sum(axis=0)


@td.operator("x: float32[N]; N >= 1")
def running(x: td.Tensor) -> td.Tensor:
    return td.recurrence("N", lambda y, i: x[i] + td.select(i > 0, y[i - 1], 0.0), name="y", order="i")


@td.operator("q: float32[T, D], k: float32[S, D]; S >= T")
def causal_scores(q: td.Tensor, k: td.Tensor) -> td.Tensor:
    d = td.reduce_axis("D")
    s = td.compute(("T", "S"), lambda i, j: td.sum(q[i, d] * k[j, d], axis=d), name="s")
    ahead = k.shape[0] - q.shape[0]
    return td.compute(("T", "S"), lambda i, j: td.select(j <= i + ahead, s[i, j], -1e9), name="m")


@td.operator("x: float32[B, 3, H, W], w: float32[8, 3, 3, 3]; H >= 3; W >= 3")
def convolution(x: td.Tensor, w: td.Tensor) -> td.Tensor:
    return td.ops.conv2d(x, w)


@td.operator("x: float32[H, W]; H >= 3; W >= 3")
def blur(x: td.Tensor) -> td.Tensor:
    a = td.compute(("H", "W - 2"), lambda i, j: x[i, j] + x[i, j + 1] + x[i, j + 2], name="a")
    return td.compute(("H - 2", "W - 2"), lambda i, j: a[i, j] + a[i + 1, j] + a[i + 2, j], name="b")


@td.operator("x: int32[N]")
def backwards(x: td.Tensor) -> td.Tensor:
    return td.compute("N", lambda i: x[x.shape[0] - 1 - i] * 2 + i, name="y")


@td.operator("x: float32[N]; N % 4 == 0")
def pairs(x: td.Tensor) -> td.Tensor:
    return td.compute("N // 2", lambda i: x[2 * i] + x[2 * i + 1], name="z")


@td.operator("x: float32[M], y: float32[N]; M % 8 == 3; N <= 100")
def joined(x: td.Tensor, y: td.Tensor) -> td.Tensor:
    return td.concatenate([x, y])


@td.operator("x: float32[M, N], s: float32", inplace={"y": "x"})
def in_place(x: td.Tensor, s: td.Tensor) -> td.Tensor:
    return td.compute(("M", "N"), lambda i, j: x[i, j] * s, name="y")


@td.operator("x: float32[N]; N >= 3")
def slices(x: td.Tensor) -> td.Tensor:
    return x[1:] - x[: x.shape[0] - 1] + x[::-1][1:]


@td.operator("token: int32[N] in range(50), table: float32[50, D]")
def embedding(token: td.Tensor, table: td.Tensor) -> td.Tensor:
    return td.compute(("N", "D"), lambda n, d: table[token[n], d], name="y")


@td.operator("x: float32[M, N]; N >= 1; N <= 4096")
def summaries(x: td.Tensor) -> tuple[td.Tensor, ...]:
    return td.argmax(x, axis=1), td.logsumexp(x, axis=1), td.var(x, axis=1)


@td.operator("x: float32[N, 12]")
def known_weights(x: td.Tensor) -> td.Tensor:
    return x @ td.constant(np.arange(84, dtype=np.float32).reshape(12, 7) - 40, "w")


@td.operator("x: float32[M, N]; M >= 2; N >= 2")
def standardised(x: td.Tensor) -> td.Tensor:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / td.sqrt(td.square(centred).mean(axis=1, keepdims=True) + 1e-5)


OPERATORS = (
    scaled, fused_rows, linear_relu, linear, softmax, layer_norm, transposed, two_results, running, causal_scores,
    convolution, blur, backwards, pairs, joined, in_place, slices, embedding, summaries,
    known_weights, standardised,
)  # fmt: skip
