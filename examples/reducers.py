"""Reductions by monoids of one's own: a state, its identity, and how two states become one.

Each reducer is tested when it is defined, and then scheduled like a sum: in vectors, in tiles, fused with what
it reads and with what reads it.

tensordsl show examples/reducers.py:softmax_average
"""

from math import inf

import tensordsl as td

M, N = 64, 200
x = td.placeholder((M, N), name="x")
v = td.placeholder((M, N), name="v")


def rows(results, *inputs, name):
    """A program over the rows of x: ``results(i, k)`` is what there is to say of row i, k the axis along it."""
    k = td.reduce_axis(N, name="k")
    found = td.compute((M,), lambda i: results(i, k))
    return td.Program(inputs, found if isinstance(found, tuple) else [found], name=name)


# ---------------------------------------------------------------- the largest value and where it is


def later(a, b):
    """The larger value with its position; of equal values, the lower position."""
    (p, i), (q, j) = a, b
    take = (q > p) | (td.equal(q, p) & (j < i))
    return td.select(take, q, p), td.select(take, j, i)


largest = td.reducer("largest", identity=(-inf, inf), combine=later)
argmax = rows(lambda i, k: largest((x[i, k], k), axis=k), x, name="argmax")


def carry(a, b):
    """The larger value with what it brings along; of equal values, the one that brings more.

    A rule for equal values is needed: without one the result would depend on the order.
    """
    (p, u), (q, w) = a, b
    take = (q > p) | (td.equal(q, p) & (w > u))
    return td.select(take, q, p), td.select(take, w, u)


winner = td.reducer("winner", identity=(-inf, -inf), combine=carry)
top1 = rows(lambda i, k: winner((x[i, k], v[i, k]), axis=k)[1], x, v, name="top1")


# ---------------------------------------------------------------- the range of values, and conditions

spread = td.reducer(
    "spread",
    identity=(inf, -inf),
    combine=lambda a, b: (td.minimum(a[0], b[0]), td.maximum(a[1], b[1])),
    lift=lambda e: (e, e),
)
limits = rows(lambda i, k: spread(x[i, k], axis=k), x, name="limits")

some = td.reducer("some", identity=False, combine=lambda a, b: a | b)
every = td.reducer("every", identity=True, combine=lambda a, b: a & b)
conditions = rows(lambda i, k: (some(x[i, k] > 2.0, axis=k), every(x[i, k] > -3.0, axis=k)), x, name="conditions")


# ---------------------------------------------------------------- mean and variance in one pass


def merge(a, b):
    """Count, mean and sum of squared distances from it (Welford, 1962; of two parts: Chan and others, 1979)."""
    (n, m, q), (k, p, r) = a, b
    both, apart = n + k, p - m
    share = k / td.maximum(both, 1.0)
    return both, m + apart * share, q + r + apart * apart * n * share


moments = td.reducer("moments", identity=(0.0, 0.0, 0.0), combine=merge, lift=lambda e: (1.0, e, 0.0))


def mean_and_variance(i, k):
    n, mean, squares = moments(x[i, k], axis=k)
    return mean, squares / n


welford = rows(mean_and_variance, x, name="welford")


# ---------------------------------------------------------------- softmax without a second pass


def scaled(a, b):
    """A maximum with the sum of exp(x - maximum)."""
    (m, s), (n, t) = a, b
    top = td.maximum(m, n)
    base = td.select(td.equal(top, -inf), 0.0, top)
    return top, s * td.exp(m - base) + t * td.exp(n - base)


exponentials = td.reducer("exponentials", identity=(-inf, 0.0), combine=scaled, lift=lambda e: (e, 1.0))


def log_of_sum(i, k):
    m, s = exponentials(x[i, k], axis=k)
    return m + td.log(s)


logsumexp = rows(log_of_sum, x, name="logsumexp")


def attached(a, b):
    """The same with a weighted sum that is rescaled whenever the maximum grows."""
    (m, s, o), (n, t, p) = a, b
    top = td.maximum(m, n)
    base = td.select(td.equal(top, -inf), 0.0, top)
    old, new = td.exp(m - base), td.exp(n - base)
    return top, s * old + t * new, o * old + p * new


online_softmax = td.reducer("online_softmax", identity=(-inf, 0.0, 0.0), combine=attached)


def average(i, k):
    """sum_k softmax(x[i])[k] * v[i, k]"""
    _, s, o = online_softmax((x[i, k], 1.0, v[i, k]), axis=k)
    return o / s


softmax_average = rows(average, x, v, name="softmax_average")


# ---------------------------------------------------------------- terms in order

first = td.reducer(
    "first",
    identity=(False, 0.0),
    combine=lambda a, b: (a[0] | b[0], td.select(a[0], a[1], b[1])),
    lift=lambda e: (e > 1.0, td.select(e > 1.0, e, 0.0)),
    commutative=False,
)
first_large = rows(lambda i, k: first(x[i, k], axis=k)[1], x, name="first_large")
