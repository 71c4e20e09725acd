"""The PolyBench kernels that OpenBLAS and LAPACK compute, by scipy (optional): name -> function of the inputs.

Row-major matrices are passed as the transposes of column-major ones, so nothing is copied but what a
kernel overwrites.  Some compute more or something else than the kernel, and are not compared: lu and
ludcmp pivot, gramschmidt is a Householder factorisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    from scipy.linalg import blas, lapack
except ImportError:  # scipy is optional
    blas = lapack = None

Array = np.ndarray[Any, Any]
#: Results that may differ from the kernel's.
NOT_COMPARED = frozenset(["lu", "ludcmp", "gramschmidt"])


def times(a: Array, b: Array, alpha: float = 1.0, beta: float = 0.0, c: Array | None = None) -> Array:
    """alpha a b + beta c, row-major, in the memory of c."""
    if c is None:
        return blas.dgemm(alpha, b.T, a.T).T
    return blas.dgemm(alpha, b.T, a.T, beta=beta, c=c.T, overwrite_c=1).T


def two_mm(alpha: float, beta: float, A: Array, B: Array, C: Array, D: Array) -> tuple[Array, ...]:
    return (times(times(A, B, alpha), C, 1.0, beta, D),)


def centred(data: Array) -> Array:
    return data - data.mean(axis=0)


def covariance(data: Array) -> tuple[Array, ...]:
    X = centred(data)
    return (np.dot(X.T, X) / (len(data) - 1.0),)


def correlation(data: Array) -> tuple[Array, ...]:
    X = centred(data)
    deviation = np.sqrt((X * X).mean(axis=0))
    X /= math.sqrt(len(data)) * np.where(deviation <= 0.1, 1.0, deviation)
    corr = np.dot(X.T, X)
    np.fill_diagonal(corr, 1.0)
    return (corr,)


def gemver(
    alpha: float, beta: float, A: Array, u1: Array, v1: Array, u2: Array, v2: Array, x: Array, y: Array, z: Array
) -> tuple[Array, ...]:
    B = blas.dger(1.0, v1, u1, a=A.T, overwrite_a=1)
    B = blas.dger(1.0, v2, u2, a=B, overwrite_a=1).T
    x = x + beta * np.dot(B.T, y) + z
    return B, x, alpha * np.dot(B, x)


def ludcmp(A: Array, b: Array) -> tuple[Array, ...]:
    lu, pivots, _ = lapack.dgetrf(A.T, overwrite_a=1)
    return lu, lapack.dgetrs(lu, pivots, b, trans=1)[0], b


def gramschmidt(A: Array) -> tuple[Array, ...]:
    qr, tau, _, _ = lapack.dgeqrf(np.asfortranarray(A))
    return lapack.dorgqr(qr[:, : A.shape[1]], tau)[0], np.triu(qr[: A.shape[1]])


LIBRARIES: dict[str, Callable[..., tuple[Array, ...]]] = {
    "gemm": lambda alpha, beta, A, B, C: (times(A, B, alpha, beta, C),),
    "two_mm": two_mm,
    "three_mm": lambda A, B, C, D: (times(times(A, B), times(C, D)),),
    "syrk": lambda alpha, beta, A, C: (
        blas.dsyrk(alpha, A.T, beta=beta, c=C.T, trans=1, lower=0, overwrite_c=1).T,
    ),
    "syr2k": lambda alpha, beta, A, B, C: (
        blas.dsyr2k(alpha, A.T, B.T, beta=beta, c=C.T, trans=1, lower=0, overwrite_c=1).T,
    ),
    "symm": lambda alpha, beta, A, B, C: (
        blas.dsymm(alpha, A.T, B.T, beta=beta, c=C.T, side=1, lower=0, overwrite_c=1).T,
    ),
    "trmm": lambda alpha, A, B: (
        blas.dtrmm(alpha, A.T, B.T, side=1, lower=0, trans_a=1, diag=1, overwrite_b=1).T,
    ),
    "doitgen": lambda A, C4: (times(A.reshape(-1, A.shape[-1]), C4).reshape(A.shape),),
    "covariance": covariance,
    "correlation": correlation,
    "atax": lambda A, x: (np.dot(A.T, np.dot(A, x)),),
    "bicg": lambda A, p, r: (np.dot(A.T, r), np.dot(A, p)),
    "mvt": lambda x1, x2, y1, y2, A: (x1 + np.dot(A, y1), x2 + np.dot(A.T, y2)),
    "gemver": gemver,
    "gesummv": lambda alpha, beta, A, B, x: (alpha * np.dot(A, x) + beta * np.dot(B, x),),
    "cholesky": lambda A: (lapack.dpotrf(A.T, lower=0, overwrite_a=1, clean=0)[0].T,),
    "lu": lambda A: (lapack.dgetrf(A.T, overwrite_a=1)[0],),
    "ludcmp": ludcmp,
    "trisolv": lambda L, b: (blas.dtrsv(L.T, b, lower=0, trans=1),),
    "gramschmidt": gramschmidt,
}  # fmt: skip


def library(name: str) -> Callable[..., tuple[Array, ...]] | None:
    """The kernel by BLAS and LAPACK, or None where they have none or scipy is missing."""
    return LIBRARIES.get(name) if blas is not None else None
