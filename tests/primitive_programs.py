"""Small programs on which each primitive has a legal use, and others have none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import tensordsl as td


def chain() -> td.Program:
    """h: a stencil; c: a matrix product of it; y: an epilogue."""
    x, w, b = td.placeholder((8, 13), name="x"), td.placeholder((9, 10), name="w"), td.placeholder((10,), name="b")
    h = td.compute((6, 9), lambda i, j: x[i, j] + x[i + 2, j + 1] * 2.0, name="h")
    k = td.reduce_axis(9, "k")
    c = td.compute((6, 10), lambda i, j: td.sum(h[i, k] * w[k, j], axis=k), name="c")
    y = td.compute((6, 10), lambda i, j: c[i, j] * 2.0 + b[j], name="y")
    return td.Program([x, w, b], [y], "chain")


def rows() -> td.Program:
    """v: three rows of h; d: divided by something that stays the same in a row."""
    x, m = td.placeholder((9, 8), name="x"), td.placeholder((7,), name="m")
    h = td.compute((9, 8), lambda i, j: x[i, j] * 2.0, name="h")
    v = td.compute((7, 8), lambda i, j: h[i, j] + h[i + 1, j] + h[i + 2, j], name="v")
    d = td.compute((7, 8), lambda i, j: v[i, j] / (m[i] * m[i] + 1.0), name="d")
    return td.Program([x, m], [d], "rows")


def scan() -> td.Program:
    x = td.placeholder((6, 5), name="x")
    s = td.recurrence((6, 5), lambda s, t, i: td.select(t >= 1, s[t - 1, i], 0.0) + x[t, i], name="s", order="t")
    z = td.compute((5,), lambda i: s[5, i] * 3.0, name="z")
    return td.Program([x], [z], "scan")


def spread() -> td.Program:
    """A sum of squared distances from the mean: two reductions over one axis, one using the other."""
    x = td.placeholder((4, 6), name="x")
    k = td.reduce_axis(6, name="k")
    t = td.compute((4,), lambda i: td.sum(x[i, k], axis=k), name="t")
    q = td.compute((4,), lambda i: td.sum((x[i, k] - t[i]) * (x[i, k] - t[i]), axis=k), name="q")
    return td.Program([x], [q], "spread")


def solve() -> td.Program:
    """A triangular system, whose right side is the beginning of a longer vector."""
    m, b = td.placeholder((21, 21), name="m"), td.placeholder((24,), name="b")
    k = td.reduce_axis(21, "k")
    u = td.compute((24,), lambda i: b[i] * 2.0, name="u")
    x = td.recurrence((21,), lambda x, i: u[i] - td.sum(m[i, k] * x[k], axis=k, where=k < i), "x", order="i")
    return td.Program([m, b], [x], "solve")


def triangle() -> td.Program:
    """A triangular matrix times another one, and a matrix times its transpose."""
    a = td.placeholder((9, 9), name="a")
    k = td.reduce_axis(9, "k")
    y = td.compute((9, 9), lambda i, j: td.sum(a[i, k] * a[k, j], axis=k, where=i < k), name="y")
    z = td.compute((9, 9), lambda i, j: td.sum(a[i, k] * a[j, k], axis=k), name="z")
    return td.Program([a], [y, z], "triangle")


def fields() -> td.Program:
    """e and h advance together; h needs the next row of e."""
    x = td.placeholder((7, 5), name="x")

    def e(e, h, t, i, j):  # type: ignore[no-untyped-def]
        return td.select(t > 0, e[t - 1, i, j] + 2.0 * h[t - 1, i, j], x[i, j])

    def h(e, h, t, i, j):  # type: ignore[no-untyped-def]
        return td.select(t > 0, td.select(i < 6, h[t - 1, i, j] - e[t, i + 1, j] + e[t, i, j], 0.0), x[i, j])

    e, h = td.recurrences([(4, 7, 5)] * 2, [e, h], ["e", "h"], order="t")
    return td.Program([x], [td.compute((7, 5), lambda i, j: h[3, i, j], name="z")], "fields")


def steady() -> td.Program:
    """c: coefficients that are the same in every step and every row."""
    x = td.placeholder((5, 6), name="x")
    c = td.recurrence(
        (3, 5, 6), lambda c, t, i, j: td.select(j > 0, 0.5 * c[t, i, j - 1] + 1.0, 0.0), name="c", order=("t", "j")
    )

    def row(y, t, i, j):  # type: ignore[no-untyped-def]
        return td.select(t > 0, c[t, i, j] * y[t - 1, i, j], x[i, j])

    y = td.recurrence((3, 5, 6), row, name="y", order="t")
    return td.Program([x], [td.compute((5, 6), lambda i, j: y[2, i, j], name="z")], "steady")


def known() -> td.Program:
    """A product with a constant that is doubled first."""
    x, w = td.placeholder((4, 6), name="x"), td.constant(np.arange(30.0).reshape(5, 6), name="w")
    twice = td.compute((5, 6), lambda i, j: w[i, j] * 2.0, name="twice")
    k = td.reduce_axis(6, name="k")
    return td.Program([x], [td.compute((4, 5), lambda i, j: td.sum(x[i, k] * twice[j, k], axis=k), name="y")], "known")


def window() -> td.Program:
    """A correlation with three taps down and across, two channels."""
    x, w = td.placeholder((7, 8, 2), name="x"), td.placeholder((3, 3, 2, 4), name="w")
    r, s, c = td.reduce_axis(3, "r"), td.reduce_axis(3, "s"), td.reduce_axis(2, "c")
    term = lambda i, j, o: td.sum(x[i + r, j + s, c] * w[r, s, c, o], axis=(r, s, c))  # noqa: E731
    return td.Program([x, w], [td.compute((5, 6, 4), term, name="y")], "window")


def counts() -> td.Program:
    """h: a sum of rows by destination; g: rows of it, looked up."""
    x, to = td.placeholder((9, 4), name="x"), td.placeholder((9,), "int32", name="to", values=range(-1, 7))
    k = td.reduce_axis(9, name="k")
    h = td.compute((5, 4), lambda i, j: td.sum(x[k, j], axis=k, where=(to[k] == i) & (k >= 2)), name="h")
    g = td.compute((9, 4), lambda n, j: h[td.clip(to[n], 0, 4), j] * 2.0, name="g")
    return td.Program([x, to], [g], "counts")


ALL = (chain, rows, scan, spread, solve, triangle, fields, steady, counts, known, window)
PROGRAMS: dict[str, Callable[[], td.Program]] = {f.__name__: f for f in ALL}
