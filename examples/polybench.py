"""The 30 kernels of the PolyBench suite, each from its formula.

Every function takes the sizes of its kernel, in PolyBench's order, and returns a `td.Program` in
double precision (floyd_warshall and nussinov: int32).  Time loops are recurrences over all steps;
how many of them are stored is up to the schedule.  `python benchmarks/polybench.py` times them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensordsl as td

compute = td.compute
recurrence = functools.partial(td.recurrence, dtype="float64")
recurrences = functools.partial(td.recurrences, dtype="float64")


def given(name: str, *shape: int, dtype: str = "float64") -> td.Tensor:
    return td.placeholder(shape, name=name, dtype=dtype)


def product(a: td.Tensor, b: td.Tensor, name: str) -> td.Tensor:
    k = td.reduce_axis(a.shape[1], "k")
    return compute((a.shape[0], b.shape[1]), lambda i, j: td.sum(a[i, k] * b[k, j], axis=k), name)


# ---------------------------------------------------------------- products of matrices


def gemm(ni: int, nj: int, nk: int) -> td.Program:
    """C <- alpha A B + beta C"""
    alpha, beta = given("alpha"), given("beta")
    A, B, C = given("A", ni, nk), given("B", nk, nj), given("C", ni, nj)
    AB = product(A, B, "AB")
    out = compute((ni, nj), lambda i, j: alpha * AB[i, j] + beta * C[i, j], "out")
    return td.Program([alpha, beta, A, B, C], [out], "gemm", inplace={"out": "C"})


def two_mm(ni: int, nj: int, nk: int, nl: int) -> td.Program:
    """D <- alpha A B C + beta D"""
    alpha, beta = given("alpha"), given("beta")
    A, B, C, D = given("A", ni, nk), given("B", nk, nj), given("C", nj, nl), given("D", ni, nl)
    AB = product(A, B, "AB")
    scaled = compute((ni, nj), lambda i, j: alpha * AB[i, j], "scaled")
    ABC = product(scaled, C, "ABC")
    out = compute((ni, nl), lambda i, j: ABC[i, j] + beta * D[i, j], "out")
    return td.Program([alpha, beta, A, B, C, D], [out], "two_mm", inplace={"out": "D"})


def three_mm(ni: int, nj: int, nk: int, nl: int, nm: int) -> td.Program:
    """G = (A B) (C D)"""
    A, B, C, D = given("A", ni, nk), given("B", nk, nj), given("C", nj, nm), given("D", nm, nl)
    G = product(product(A, B, "E"), product(C, D, "F"), "G")
    return td.Program([A, B, C, D], [G], "three_mm")


def syrk(m: int, n: int) -> td.Program:
    """C <- alpha A A^T + beta C, on and below the diagonal"""
    alpha, beta, A, C = given("alpha"), given("beta"), given("A", n, m), given("C", n, n)
    k = td.reduce_axis(m, "k")

    def update(i, j):
        product = td.sum(A[i, k] * A[j, k], axis=k)
        return td.select(j <= i, alpha * product + beta * C[i, j], C[i, j])

    out = compute((n, n), update, "out")
    return td.Program([alpha, beta, A, C], [out], "syrk", inplace={"out": "C"})


def syr2k(m: int, n: int) -> td.Program:
    """C <- alpha (A B^T + B A^T) + beta C, on and below the diagonal"""
    alpha, beta = given("alpha"), given("beta")
    A, B, C = given("A", n, m), given("B", n, m), given("C", n, n)
    k = td.reduce_axis(m, "k")

    def update(i, j):
        both = td.sum(A[j, k] * B[i, k] + B[j, k] * A[i, k], axis=k)
        return td.select(j <= i, alpha * both + beta * C[i, j], C[i, j])

    out = compute((n, n), update, "out")
    return td.Program([alpha, beta, A, B, C], [out], "syr2k", inplace={"out": "C"})


def symm(m: int, n: int) -> td.Program:
    """C <- alpha A B + beta C, where A is symmetric and given on and below its diagonal"""
    alpha, beta = given("alpha"), given("beta")
    A, B, C = given("A", m, m), given("B", m, n), given("C", m, n)
    k = td.reduce_axis(m, "k")
    AB = compute((m, n), lambda i, j: td.sum(td.select(k <= i, A[i, k], A[k, i]) * B[k, j], axis=k), "AB")
    out = compute((m, n), lambda i, j: alpha * AB[i, j] + beta * C[i, j], "out")
    return td.Program([alpha, beta, A, B, C], [out], "symm", inplace={"out": "C"})


def trmm(m: int, n: int) -> td.Program:
    """B <- alpha A^T B, where A is unit lower triangular"""
    alpha, A, B = given("alpha"), given("A", m, m), given("B", m, n)
    k = td.reduce_axis(m, "k")
    rest = compute((m, n), lambda i, j: td.sum(A[k, i] * B[k, j], axis=k, where=i < k), "rest")
    out = compute((m, n), lambda i, j: alpha * (B[i, j] + rest[i, j]), "out")
    return td.Program([alpha, A, B], [out], "trmm", inplace={"out": "B"})


def doitgen(nq: int, nr: int, np: int) -> td.Program:
    """A[r, q, :] <- A[r, q, :] C4"""
    A, C4 = given("A", nr, nq, np), given("C4", np, np)
    s = td.reduce_axis(np, "s")
    row = compute((nr, nq, np), lambda r, q, p: td.sum(A[r, q, s] * C4[s, p], axis=s), "row")
    out = compute((nr, nq, np), lambda r, q, p: row[r, q, p], "out")
    return td.Program([A, C4], [out], "doitgen", inplace={"out": "A"})


# ---------------------------------------------------------------- statistics


def covariance(m: int, n: int) -> td.Program:
    """cov = X^T X / (n - 1), where the columns of X are those of the data less their means"""
    data = given("data", n, m)
    X, k = _centred(data), td.reduce_axis(n, "k")
    cov = compute((m, m), lambda i, j: td.sum(X[k, i] * X[k, j], axis=k) / (n - 1.0), "cov")
    return td.Program([data], [cov], "covariance")


def correlation(m: int, n: int) -> td.Program:
    """corr = X^T X, where the columns of X are centred and of length 1 (constant ones are left)"""
    data = given("data", n, m)
    X, k = _centred(data), td.reduce_axis(n, "k")
    deviation = compute((m,), lambda j: td.sqrt(td.sum(X[k, j] * X[k, j], axis=k) / float(n)), "deviation")
    scale = compute((m,), lambda j: math.sqrt(n) * td.select(deviation[j] <= 0.1, 1.0, deviation[j]), "scale")
    Z = compute((n, m), lambda i, j: X[i, j] / scale[j], "Z")
    corr = compute((m, m), lambda i, j: td.select(i == j, 1.0, td.sum(Z[k, i] * Z[k, j], axis=k)), "corr")
    return td.Program([data], [corr], "correlation")


def _centred(data: td.Tensor) -> td.Tensor:
    n, m = data.shape
    k = td.reduce_axis(n, "k")
    mean = compute((m,), lambda j: td.sum(data[k, j], axis=k) / float(n), "mean")
    return compute((n, m), lambda i, j: data[i, j] - mean[j], "X")


# ---------------------------------------------------------------- matrices and vectors


def atax(m: int, n: int) -> td.Program:
    """y = A^T (A x)"""
    A, x = given("A", m, n), given("x", n)
    i, j = td.reduce_axis(m, "i"), td.reduce_axis(n, "j")
    Ax = compute((m,), lambda i: td.sum(A[i, j] * x[j], axis=j), "Ax")
    y = compute((n,), lambda j: td.sum(A[i, j] * Ax[i], axis=i), "y")
    return td.Program([A, x], [y], "atax")


def bicg(m: int, n: int) -> td.Program:
    """s = A^T r,  q = A p"""
    A, p, r = given("A", n, m), given("p", m), given("r", n)
    i, j = td.reduce_axis(n, "i"), td.reduce_axis(m, "j")
    s = compute((m,), lambda j: td.sum(r[i] * A[i, j], axis=i), "s")
    q = compute((n,), lambda i: td.sum(A[i, j] * p[j], axis=j), "q")
    return td.Program([A, p, r], [s, q], "bicg")


def mvt(n: int) -> td.Program:
    """x1 <- x1 + A y1,  x2 <- x2 + A^T y2"""
    x1, x2, y1, y2, A = given("x1", n), given("x2", n), given("y1", n), given("y2", n), given("A", n, n)
    j = td.reduce_axis(n, "j")
    out1 = compute((n,), lambda i: x1[i] + td.sum(A[i, j] * y1[j], axis=j), "out1")
    out2 = compute((n,), lambda i: x2[i] + td.sum(A[j, i] * y2[j], axis=j), "out2")
    return td.Program([x1, x2, y1, y2, A], [out1, out2], "mvt", inplace={"out1": "x1", "out2": "x2"})


def gemver(n: int) -> td.Program:
    """A <- A + u1 v1^T + u2 v2^T,  x <- x + beta A^T y + z,  w = alpha A x"""
    alpha, beta, A = given("alpha"), given("beta"), given("A", n, n)
    u1, v1, u2, v2, x, y, z = (given(name, n) for name in ("u1", "v1", "u2", "v2", "x", "y", "z"))
    j = td.reduce_axis(n, "j")
    B = compute((n, n), lambda i, j: A[i, j] + u1[i] * v1[j] + u2[i] * v2[j], "B")
    x2 = compute((n,), lambda i: x[i] + beta * td.sum(B[j, i] * y[j], axis=j) + z[i], "x2")
    w = compute((n,), lambda i: alpha * td.sum(B[i, j] * x2[j], axis=j), "w")
    return td.Program([alpha, beta, A, u1, v1, u2, v2, x, y, z], [B, x2, w], "gemver", inplace={"B": "A", "x2": "x"})


def gesummv(n: int) -> td.Program:
    """y = alpha A x + beta B x"""
    alpha, beta, A, B, x = given("alpha"), given("beta"), given("A", n, n), given("B", n, n), given("x", n)
    j = td.reduce_axis(n, "j")
    Ax = compute((n,), lambda i: td.sum(A[i, j] * x[j], axis=j), "Ax")
    Bx = compute((n,), lambda i: td.sum(B[i, j] * x[j], axis=j), "Bx")
    y = compute((n,), lambda i: alpha * Ax[i] + beta * Bx[i], "y")
    return td.Program([alpha, beta, A, B, x], [y], "gesummv")


# ---------------------------------------------------------------- factorisations and solvers


def cholesky(n: int) -> td.Program:
    """L L^T = A on and below the diagonal; the part above keeps A"""
    A = given("A", n, n)
    k = td.reduce_axis(n, "k")

    def element(L, i, j):
        rest = A[i, j] - td.sum(L[i, k] * L[j, k], axis=k, where=k < j)
        return td.select(j < i, rest / L[j, j], td.select(i < j, A[i, j], td.sqrt(rest)))

    L = recurrence((n, n), element, "L", order=("i", "j"))
    return td.Program([A], [L], "cholesky", inplace={"L": "A"})


def _lu(A: td.Tensor) -> td.Tensor:
    """L U = A in one matrix; L has a unit diagonal."""
    n = A.shape[0]
    k = td.reduce_axis(n, "k")

    def element(LU, i, j):
        rest = A[i, j] - td.sum(LU[i, k] * LU[k, j], axis=k, where=(k < i) & (k < j))
        return td.select(j < i, rest / LU[j, j], rest)

    return recurrence((n, n), element, "LU", order=("i", "j"))


def lu(n: int) -> td.Program:
    """L U = A, both in the place of A"""
    A = given("A", n, n)
    return td.Program([A], [_lu(A)], "lu", inplace={"LU": "A"})


def ludcmp(n: int) -> td.Program:
    """L U = A,  L y = b,  U x = y"""
    A, b = given("A", n, n), given("b", n)
    LU, k = _lu(A), td.reduce_axis(n, "k")
    y = recurrence((n,), lambda y, i: b[i] - td.sum(LU[i, k] * y[k], axis=k, where=k < i), "y", order="i")
    x = recurrence((n,), lambda x, i: (y[i] - td.sum(LU[i, k] * x[k], axis=k, where=i < k)) / LU[i, i], "x", order="-i")
    return td.Program([A, b], [LU, x, y], "ludcmp", inplace={"LU": "A"})


def trisolv(n: int) -> td.Program:
    """L x = b"""
    L, b = given("L", n, n), given("b", n)
    k = td.reduce_axis(n, "k")
    x = recurrence((n,), lambda x, i: (b[i] - td.sum(L[i, k] * x[k], axis=k, where=k < i)) / L[i, i], "x", order="i")
    return td.Program([L, b], [x], "trisolv")


def durbin(n: int) -> td.Program:
    """T y = -r, where T is the symmetric Toeplitz matrix of (1, r[0], ... r[n - 2])"""
    r = given("r", n)
    j = td.reduce_axis(n, "j")

    def error(beta, alpha, y, k):
        return td.select(k > 0, (1.0 - alpha[k - 1] * alpha[k - 1]) * beta[k - 1], 1.0)

    def reflection(beta, alpha, y, k):
        rest = td.sum(r[k - 1 - j] * y[k - 1, j], axis=j, where=j < k)
        return td.select(k > 0, -(r[k] + rest) / beta[k], -r[k])

    def solution(beta, alpha, y, k, i):
        longer = y[k - 1, i] + alpha[k] * y[k - 1, k - 1 - i]
        return td.select(i < k, longer, td.select(k < i, 0.0, alpha[k]))

    _, _, y = recurrences([(n,), (n,), (n, n)], [error, reflection, solution], ["beta", "alpha", "y"], order="k")
    out = compute((n,), lambda i: y[n - 1, i], "out")
    return td.Program([r], [out], "durbin")


def gramschmidt(m: int, n: int) -> td.Program:
    """Q R = A by projecting every column off those after it; the columns of Q are orthonormal"""
    A = given("A", m, n)
    i = td.reduce_axis(m, "i")

    # V: what is left of the columns, step by step; length: of its column k; C: along the others
    def rest(V, length, Q, C, k, i, j):
        projected = V[k - 1, i, j] - Q[i, k - 1] * C[k - 1, j]
        return td.select(k > 0, td.select(j >= k, projected, 0.0), A[i, j])

    def norm(V, length, Q, C, k):
        return td.sqrt(td.sum(V[k, i, k] * V[k, i, k], axis=i))

    def basis(V, length, Q, C, i, k):
        return V[k, i, k] / length[k]

    def along(V, length, Q, C, k, j):
        return td.select(k < j, td.sum(Q[i, k] * V[k, i, j], axis=i), 0.0)

    _, length, Q, C = recurrences(
        [(n, m, n), (n,), (m, n), (n, n)], [rest, norm, basis, along], ["V", "length", "Q", "C"], order="k"
    )
    R = compute((n, n), lambda k, j: td.select(k == j, length[k], C[k, j]), "R")
    return td.Program([A], [Q, R], "gramschmidt")


# ---------------------------------------------------------------- filters and dynamic programming


def deriche(w: int, h: int, alpha: float = 0.25) -> td.Program:
    """R. Deriche's recursive smoothing: forward and backward along the rows, then along the columns"""
    e = math.exp(-alpha)
    k = (1.0 - e) ** 2 / (1.0 + 2.0 * alpha * e - e * e)
    a1, a2, a3, a4 = k, k * e * (alpha - 1.0), k * e * (alpha + 1.0), -k * e * e
    b1, b2 = 2.0 * e, -e * e
    image = given("image", w, h)

    def at(x, i, j):
        return td.select((i >= 0) & (i < w) & (j >= 0) & (j < h), x[i, j], 0.0)

    def right(y, i, j):
        return a1 * image[i, j] + a2 * at(image, i, j - 1) + b1 * at(y, i, j - 1) + b2 * at(y, i, j - 2)

    def left(y, i, j):
        return a3 * at(image, i, j + 1) + a4 * at(image, i, j + 2) + b1 * at(y, i, j + 1) + b2 * at(y, i, j + 2)

    y1, y2 = recurrence((w, h), right, "y1", order="j"), recurrence((w, h), left, "y2", order="-j")
    rows = compute((w, h), lambda i, j: y1[i, j] + y2[i, j], "rows")

    def down(y, i, j):
        return a1 * rows[i, j] + a2 * at(rows, i - 1, j) + b1 * at(y, i - 1, j) + b2 * at(y, i - 2, j)

    def up(y, i, j):
        return a3 * at(rows, i + 1, j) + a4 * at(rows, i + 2, j) + b1 * at(y, i + 1, j) + b2 * at(y, i + 2, j)

    z1, z2 = recurrence((w, h), down, "z1", order="i"), recurrence((w, h), up, "z2", order="-i")
    out = compute((w, h), lambda i, j: z1[i, j] + z2[i, j], "out")
    return td.Program([image], [out], "deriche")


def floyd_warshall(n: int) -> td.Program:
    """P[k, i, j], the shortest path from i to j through nodes before k; the last of them"""
    W = given("W", n, n, dtype="int32")

    def shorter(P, k, i, j):
        through = td.minimum(P[k - 1, i, j], P[k - 1, i, k - 1] + P[k - 1, k - 1, j])
        return td.select(k > 0, through, W[i, j])

    P = td.recurrence((n + 1, n, n), shorter, "P", order="k", dtype="int32")
    out = compute((n, n), lambda i, j: P[n, i, j], "out")
    return td.Program([W], [out], "floyd_warshall", inplace={"out": "W"})


def nussinov(n: int) -> td.Program:
    """N[i, j], the most base pairs (two bases that add up to 3) of the part i ... j of a sequence"""
    s = given("s", n, dtype="int32")
    k = td.reduce_axis(n, "k")

    def most(N, i, j):
        pair = td.select(i < j - 1, td.cast(td.equal(s[i] + s[j], 3), "int32"), 0)
        nested = N[i + 1, j - 1] + pair
        split = td.max(N[i, k] + N[k + 1, j], axis=k, where=(i <= k) & (k < j))
        return td.select(i < j, td.maximum(nested, split), 0)

    N = td.recurrence((n, n), most, "N", order=("-i", "j"), dtype="int32")
    return td.Program([s], [N], "nussinov")


# ---------------------------------------------------------------- stencils


def _inside(n: int, *indices: td.Expr) -> td.Expr:
    """Not on the border of a grid of n points along each index."""
    return functools.reduce(lambda a, b: a & b, [(i >= 1) & (i <= n - 2) for i in indices])


def _at(x: td.Tensor, t: int, i: td.Expr, j: td.Expr) -> td.Expr:
    return x[t, i, j]


def adi(steps: int, n: int) -> td.Program:
    """The heat equation by alternating directions: tridiagonal systems along columns, then along rows"""
    start = given("start", n, n)
    a, d = -1.0 * n * n / steps, -0.5 * n * n / steps
    b, e = 1.0 - 2.0 * a, 1.0 - 2.0 * d

    # the systems by elimination, x[j] = p[j] x[j + 1] + q[j]: the columns give v, the rows give u
    def p(p, q, v, r, s, u, t, i, j):
        return td.select(j < 1, 0.0, -a / (a * p[t, i, j - 1] + b))

    def q(p, q, v, r, s, u, t, i, j):
        right = -d * u[t - 1, j, i - 1] + (1.0 + 2.0 * d) * u[t - 1, j, i] - d * u[t - 1, j, i + 1]
        solved = (right - a * q[t, i, j - 1]) / (a * p[t, i, j - 1] + b)
        return td.select((t > 0) & _inside(n, i, j), solved, 1.0)

    def v(p, q, v, r, s, u, t, j, i):
        return td.select((t > 0) & _inside(n, i, j), p[t, i, j] * v[t, j + 1, i] + q[t, i, j], 1.0)

    def r(p, q, v, r, s, u, t, i, j):
        return td.select(j < 1, 0.0, -d / (d * r[t, i, j - 1] + e))

    def s(p, q, v, r, s, u, t, i, j):
        right = -a * v[t, i - 1, j] + (1.0 + 2.0 * a) * v[t, i, j] - a * v[t, i + 1, j]
        solved = (right - d * s[t, i, j - 1]) / (d * r[t, i, j - 1] + e)
        return td.select((t > 0) & _inside(n, i, j), solved, 1.0)

    def u(p, q, v, r, s, u, t, i, j):
        solved = td.select(_inside(n, j), r[t, i, j] * u[t, i, j + 1] + s[t, i, j], 1.0)
        return td.select((t > 0) & _inside(n, i), solved, start[i, j])

    forward, backward = ("t", "j"), ("t", "-j")
    *_, u = recurrences(
        [(steps + 1, n, n)] * 6, [p, q, v, r, s, u], ["p", "q", "v", "r", "s", "u"],
        order=[forward, forward, backward, forward, forward, backward],
    )  # fmt: skip
    out = compute((n, n), lambda i, j: u[steps, i, j], "out")
    return td.Program([start], [out], "adi", inplace={"out": "start"})


def fdtd_2d(steps: int, nx: int, ny: int) -> td.Program:
    """Maxwell's equations: the fields ex and ey from the curl of hz, hz from theirs; a pulse on one side"""
    ex0, ey0, hz0, pulse = given("ex0", nx, ny), given("ey0", nx, ny), given("hz0", nx, ny), given("pulse", steps)

    def ex(ex, ey, hz, t, i, j):
        new = ex[t - 1, i, j] - 0.5 * (hz[t - 1, i, j] - hz[t - 1, i, j - 1])
        return td.select(t > 0, td.select(j > 0, new, ex[t - 1, i, j]), ex0[i, j])

    def ey(ex, ey, hz, t, i, j):
        new = ey[t - 1, i, j] - 0.5 * (hz[t - 1, i, j] - hz[t - 1, i - 1, j])
        return td.select(t > 0, td.select(i > 0, new, pulse[t - 1]), ey0[i, j])

    def hz(ex, ey, hz, t, i, j):
        curl = ex[t, i, j + 1] - ex[t, i, j] + ey[t, i + 1, j] - ey[t, i, j]
        new = td.select((i < nx - 1) & (j < ny - 1), hz[t - 1, i, j] - 0.7 * curl, hz[t - 1, i, j])
        return td.select(t > 0, new, hz0[i, j])

    fields = recurrences([(steps + 1, nx, ny)] * 3, [ex, ey, hz], ["ex", "ey", "hz"], order="t")
    last = [compute((nx, ny), functools.partial(_at, f, steps), f"{f.name}_out") for f in fields]
    inplace = {"ex_out": "ex0", "ey_out": "ey0", "hz_out": "hz0"}
    return td.Program([ex0, ey0, hz0, pulse], last, "fdtd_2d", inplace=inplace)


def heat_3d(steps: int, n: int) -> td.Program:
    """x <- x + (dxx + dyy + dzz) x / 8 inside the cube, twice a step"""
    start = given("start", n, n, n)

    def sweep(x, t, i, j, k):
        here = x[t - 1, i, j, k]
        along_i = x[t - 1, i + 1, j, k] - 2.0 * here + x[t - 1, i - 1, j, k]
        along_j = x[t - 1, i, j + 1, k] - 2.0 * here + x[t - 1, i, j - 1, k]
        along_k = x[t - 1, i, j, k + 1] - 2.0 * here + x[t - 1, i, j, k - 1]
        new = 0.125 * along_i + 0.125 * along_j + 0.125 * along_k + here
        return td.select(t > 0, td.select(_inside(n, i, j, k), new, here), start[i, j, k])

    x = recurrence((2 * steps + 1, n, n, n), sweep, "x", order="t")
    out = compute((n, n, n), lambda i, j, k: x[2 * steps, i, j, k], "out")
    return td.Program([start], [out], "heat_3d", inplace={"out": "start"})


def jacobi_1d(steps: int, n: int) -> td.Program:
    """The mean of three neighbours, twice a step"""
    start = given("start", n)

    def sweep(x, t, i):
        new = 0.33333 * (x[t - 1, i - 1] + x[t - 1, i] + x[t - 1, i + 1])
        return td.select(t > 0, td.select(_inside(n, i), new, x[t - 1, i]), start[i])

    x = recurrence((2 * steps + 1, n), sweep, "x", order="t")
    out = compute((n,), lambda i: x[2 * steps, i], "out")
    return td.Program([start], [out], "jacobi_1d", inplace={"out": "start"})


def jacobi_2d(steps: int, n: int) -> td.Program:
    """The mean of five neighbours, twice a step"""
    start = given("start", n, n)

    def sweep(x, t, i, j):
        here = x[t - 1, i, j]
        new = 0.2 * (here + x[t - 1, i, j - 1] + x[t - 1, i, j + 1] + x[t - 1, i + 1, j] + x[t - 1, i - 1, j])
        return td.select(t > 0, td.select(_inside(n, i, j), new, here), start[i, j])

    x = recurrence((2 * steps + 1, n, n), sweep, "x", order="t")
    out = compute((n, n), lambda i, j: x[2 * steps, i, j], "out")
    return td.Program([start], [out], "jacobi_2d", inplace={"out": "start"})


def seidel_2d(steps: int, n: int) -> td.Program:
    """The mean of nine neighbours, of which four are those of the same sweep"""
    start = given("start", n, n)

    def sweep(x, t, i, j):
        above = x[t, i - 1, j - 1] + x[t, i - 1, j] + x[t, i - 1, j + 1]
        beside = x[t, i, j - 1] + x[t - 1, i, j] + x[t - 1, i, j + 1]
        below = x[t - 1, i + 1, j - 1] + x[t - 1, i + 1, j] + x[t - 1, i + 1, j + 1]
        new = (above + beside + below) / 9.0
        return td.select(t > 0, td.select(_inside(n, i, j), new, x[t - 1, i, j]), start[i, j])

    x = recurrence((steps + 1, n, n), sweep, "x", order=("t", "i", "j"))
    out = compute((n, n), lambda i, j: x[steps, i, j], "out")
    return td.Program([start], [out], "seidel_2d", inplace={"out": "start"})


#: The kernels by name.
KERNELS: dict[str, Callable[..., td.Program]] = {
    f.__name__: f
    for f in (
        gemm, two_mm, three_mm, syrk, syr2k, symm, trmm, doitgen, covariance, correlation, atax, bicg, mvt, gemver,
        gesummv, cholesky, lu, ludcmp, trisolv, durbin, gramschmidt, deriche, floyd_warshall, nussinov, adi, fdtd_2d,
        heat_3d, jacobi_1d, jacobi_2d, seidel_2d,
    )
}  # fmt: skip
