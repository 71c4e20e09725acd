"""What the kernels of examples/polybench.py should compute: numpy with plain loops and linear algebra.

Each reference takes the inputs by name and the sizes, and returns the outputs in order.  Nothing is
shared with the definitions: in-place algorithms are in place, solutions come from numpy.linalg.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

import tensordsl as td

Array = np.ndarray[Any, Any]

#: Sizes of PolyBench's MINI and SMALL data sets (deriche: a quarter of MINI, which is 64 x 64).
MINI: dict[str, tuple[int, ...]] = {
    "gemm": (20, 25, 30), "two_mm": (16, 18, 22, 24), "three_mm": (16, 18, 20, 22, 24), "syrk": (20, 30),
    "syr2k": (20, 30), "symm": (20, 30), "trmm": (20, 30), "doitgen": (8, 10, 12), "covariance": (28, 32),
    "correlation": (28, 32), "atax": (38, 42), "bicg": (38, 42), "mvt": (40,), "gemver": (40,), "gesummv": (30,),
    "cholesky": (40,), "lu": (40,), "ludcmp": (40,), "trisolv": (40,), "durbin": (40,), "gramschmidt": (30, 20),
    "deriche": (32, 32), "floyd_warshall": (60,), "nussinov": (60,), "adi": (20, 20), "fdtd_2d": (20, 20, 30),
    "heat_3d": (20, 10), "jacobi_1d": (20, 30), "jacobi_2d": (20, 30), "seidel_2d": (10, 20),
}  # fmt: skip
SMALL: dict[str, tuple[int, ...]] = {
    "gemm": (60, 70, 80), "two_mm": (40, 50, 70, 80), "three_mm": (40, 50, 60, 70, 80), "syrk": (60, 80),
    "syr2k": (60, 80), "symm": (60, 80), "trmm": (60, 80), "doitgen": (20, 25, 30), "covariance": (80, 100),
    "correlation": (80, 100), "atax": (116, 124), "bicg": (116, 124), "mvt": (120,), "gemver": (120,),
    "gesummv": (90,), "cholesky": (120,), "lu": (120,), "ludcmp": (120,), "trisolv": (120,), "durbin": (120,),
    "gramschmidt": (80, 60), "deriche": (192, 128), "floyd_warshall": (180,), "nussinov": (180,), "adi": (40, 60),
    "fdtd_2d": (40, 60, 80), "heat_3d": (40, 20), "jacobi_1d": (40, 120), "jacobi_2d": (40, 90),
    "seidel_2d": (40, 120),
}  # fmt: skip
#: Small enough for the interpreters of nests, large enough for edges.
TINY: dict[str, tuple[int, ...]] = {
    "gemm": (4, 9, 5), "two_mm": (3, 4, 5, 9), "three_mm": (3, 4, 5, 3, 9), "syrk": (4, 7), "syr2k": (4, 7),
    "symm": (5, 9), "trmm": (5, 9), "doitgen": (3, 2, 9), "covariance": (9, 5), "correlation": (9, 5), "atax": (5, 9),
    "bicg": (9, 5), "mvt": (9,), "gemver": (9,), "gesummv": (9,), "cholesky": (9,), "lu": (9,), "ludcmp": (9,),
    "trisolv": (9,), "durbin": (9,), "gramschmidt": (9, 5), "deriche": (7, 9), "floyd_warshall": (7,),
    "nussinov": (9,), "adi": (2, 7), "fdtd_2d": (3, 6, 9), "heat_3d": (1, 6), "jacobi_1d": (3, 12),
    "jacobi_2d": (2, 9), "seidel_2d": (3, 9),
}  # fmt: skip


def inputs_of(name: str, program: td.Program) -> dict[str, Array]:
    """Inputs for which the kernel is well conditioned: symmetric positive definite matrices for the
    factorisations, a dominant diagonal for triangular systems, full rank for Gram-Schmidt."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    found: dict[str, Array] = {}
    for t in program.inputs:
        if not t.dtype.is_float:
            found[t.name] = rng.integers(0, 4 if name == "nussinov" else 100, t.shape).astype(t.dtype.name)
            continue
        x = rng.uniform(-1.0, 1.0, t.shape)
        if name in ("cholesky", "lu", "ludcmp", "trisolv") and t.ndim == 2:
            x = x @ x.T + len(x) * np.eye(len(x))
        elif name == "gramschmidt":
            x += 3.0 * np.eye(*t.shape)
        elif name == "durbin":
            x = 0.5 ** (1.0 + np.arange(len(x)))  # autocorrelations of a process of order 1: definite
            x += 1e-3 * rng.uniform(-1.0, 1.0, t.shape) / (1.0 + np.arange(len(x))) ** 2
        found[t.name] = np.array(x)
    return found


def references(name: str, given: dict[str, Array], sizes: tuple[int, ...]) -> tuple[Array, ...]:
    """The outputs of a kernel in order; the inputs stay as they are."""
    copies = {key: np.array(value) for key, value in given.items()}
    return globals()[f"_{name}"](copies, *sizes)  # type: ignore[no-any-return]


def _gemm(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return (g["alpha"] * g["A"] @ g["B"] + g["beta"] * g["C"],)


def _two_mm(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return (np.linalg.multi_dot([g["alpha"] * g["A"], g["B"], g["C"]]) + g["beta"] * g["D"],)


def _three_mm(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return (np.linalg.multi_dot([g["A"], g["B"], g["C"], g["D"]]),)


def _syrk(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    full = g["alpha"] * g["A"] @ g["A"].T + g["beta"] * g["C"]
    return (np.tril(full) + np.triu(g["C"], 1),)


def _syr2k(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    half = g["alpha"] * g["A"] @ g["B"].T
    return (np.tril(half + half.T + g["beta"] * g["C"]) + np.triu(g["C"], 1),)


def _symm(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    A = np.tril(g["A"]) + np.tril(g["A"], -1).T
    return (g["alpha"] * A @ g["B"] + g["beta"] * g["C"],)


def _trmm(g: dict[str, Array], m: int, _: int) -> tuple[Array, ...]:
    return (g["alpha"] * (np.tril(g["A"], -1) + np.eye(m)).T @ g["B"],)


def _doitgen(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return (np.einsum("rqs,sp->rqp", g["A"], g["C4"]),)


def _covariance(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return (np.cov(g["data"], rowvar=False),)


def _correlation(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return (np.corrcoef(g["data"], rowvar=False),)


def _atax(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return (g["A"].T @ (g["A"] @ g["x"]),)


def _bicg(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return g["A"].T @ g["r"], g["A"] @ g["p"]


def _mvt(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return g["x1"] + g["A"] @ g["y1"], g["x2"] + g["A"].T @ g["y2"]


def _gemver(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    A = g["A"] + np.outer(g["u1"], g["v1"]) + np.outer(g["u2"], g["v2"])
    x = g["x"] + g["beta"] * A.T @ g["y"] + g["z"]
    return A, x, g["alpha"] * A @ x


def _gesummv(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return ((g["alpha"] * g["A"] + g["beta"] * g["B"]) @ g["x"],)


def _cholesky(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return (np.linalg.cholesky(g["A"]) + np.triu(g["A"], 1),)


def _eliminated(A: Array) -> Array:
    """Gaussian elimination by outer products, without pivots."""
    for k in range(len(A)):
        A[k + 1 :, k] /= A[k, k]
        A[k + 1 :, k + 1 :] -= np.outer(A[k + 1 :, k], A[k, k + 1 :])
    return A


def _lu(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return (_eliminated(g["A"]),)


def _ludcmp(g: dict[str, Array], n: int) -> tuple[Array, ...]:
    x = np.linalg.solve(g["A"], g["b"])
    LU = _eliminated(g["A"])
    return LU, x, np.linalg.solve(np.tril(LU, -1) + np.eye(n), g["b"])


def _trisolv(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return (np.linalg.solve(np.tril(g["L"]), g["b"]),)


def _durbin(g: dict[str, Array], n: int) -> tuple[Array, ...]:
    first = np.concatenate([[1.0], g["r"][:-1]])
    return (np.linalg.solve(first[abs(np.subtract.outer(np.arange(n), np.arange(n)))], -g["r"]),)


def _gramschmidt(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    Q, R = np.linalg.qr(g["A"])
    sign = np.sign(np.diag(R))
    return Q * sign, R * sign[:, None]


def _deriche(g: dict[str, Array], *_: int) -> tuple[Array, ...]:
    return (_smoothed(_smoothed(g["image"].T).T),)


def _smoothed(x: Array, alpha: float = 0.25) -> Array:
    """Down the columns, by convolution with both halves of the kernel's impulse response."""
    n = np.arange(len(x) + 1)
    e = math.exp(-alpha)
    k = (1 - e) ** 2 / (1 + 2 * alpha * e - e * e)
    causal = k * (alpha * n + 1) * e**n
    out = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            # the response is even; its middle belongs to the causal half
            out[i] += causal[abs(i - j)] * x[j]
    return out


def _floyd_warshall(g: dict[str, Array], n: int) -> tuple[Array, ...]:
    W = g["W"]
    for k in range(n):
        for i in range(n):
            W[i] = np.minimum(W[i], W[i, k] + W[k])
    return (W,)


def _nussinov(g: dict[str, Array], n: int) -> tuple[Array, ...]:
    s, N = g["s"], np.zeros((n, n), np.int32)
    for i in range(n - 1, -1, -1):
        for j in range(i + 1, n):
            best = max(N[i, j - 1], N[i + 1, j], N[i + 1, j - 1] + (s[i] + s[j] == 3 if i < j - 1 else 0))
            for k in range(i + 1, j):
                best = max(best, N[i, k] + N[k + 1, j])
            N[i, j] = best
    return (N,)


def _adi(g: dict[str, Array], steps: int, n: int) -> tuple[Array, ...]:
    def inverse(off: float) -> Array:
        m = n - 2
        return np.linalg.inv((1 - 2 * off) * np.eye(m) + off * (np.eye(m, k=1) + np.eye(m, k=-1)))

    a, d = -n * n / steps, -n * n / steps / 2  # B1 = 2, B2 = 1
    u, v = g["start"], np.ones((n, n))
    for _ in range(steps):
        for x, y, explicit, implicit in ((u, v, d, a), (v.T, u.T, a, d)):
            right = -explicit * (x[1:-1, :-2] + x[1:-1, 2:]) + (1 + 2 * explicit) * x[1:-1, 1:-1]
            right[0] -= implicit
            right[-1] -= implicit
            y[1:-1, 1:-1] = inverse(implicit) @ right
            y[0, 1:-1] = y[-1, 1:-1] = 1.0
    return (u,)


def _fdtd_2d(g: dict[str, Array], steps: int, *_: int) -> tuple[Array, ...]:
    ex, ey, hz = g["ex0"], g["ey0"], g["hz0"]
    for t in range(steps):
        ey[0] = g["pulse"][t]
        ey[1:] -= 0.5 * (hz[1:] - hz[:-1])
        ex[:, 1:] -= 0.5 * (hz[:, 1:] - hz[:, :-1])
        hz[:-1, :-1] -= 0.7 * (ex[:-1, 1:] - ex[:-1, :-1] + ey[1:, :-1] - ey[:-1, :-1])
    return ex, ey, hz


def _heat_3d(g: dict[str, Array], steps: int, n: int) -> tuple[Array, ...]:
    x = g["start"]
    inner = (slice(1, -1),) * 3
    for _ in range(2 * steps):
        new = x.copy()
        for d in range(3):
            after, before = list(inner), list(inner)
            after[d], before[d] = slice(2, None), slice(None, -2)
            new[inner] += 0.125 * (x[tuple(after)] - 2 * x[inner] + x[tuple(before)])
        x = new
    return (x,)


def _jacobi_1d(g: dict[str, Array], steps: int, n: int) -> tuple[Array, ...]:
    x = g["start"]
    for _ in range(2 * steps):
        x[1:-1] = 0.33333 * (x[:-2] + x[1:-1] + x[2:])
    return (x,)


def _jacobi_2d(g: dict[str, Array], steps: int, n: int) -> tuple[Array, ...]:
    x = g["start"]
    for _ in range(2 * steps):
        x[1:-1, 1:-1] = 0.2 * (x[1:-1, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] + x[2:, 1:-1] + x[:-2, 1:-1])
    return (x,)


def _seidel_2d(g: dict[str, Array], steps: int, n: int) -> tuple[Array, ...]:
    x = g["start"]
    for _ in range(steps):
        for i in range(1, n - 1):
            for j in range(1, n - 1):
                x[i, j] = x[i - 1 : i + 2, j - 1 : j + 2].sum() / 9
    return (x,)
