"""Operators whose indices are data: lookups, sums over ragged rows, counts.

What an index may be is stated by the input, ``token: int32[N] in range(V)``; a call that breaks it is refused.

tensordsl tune examples/sparse.py:embed
"""

import tensordsl as td


@td.operator("table: float32[V, D], token: int32[N] in range(V)")
def embedding(table, token):
    """A row of a table for each token, as torch.nn.functional.embedding."""
    return td.compute(("N", "D"), lambda n, d: table[token[n], d])


@td.operator("table: float32[V, D], token: int32[N] in range(-1, V)")
def padded_embedding(table, token):
    """As `embedding`; token -1 is padding and gives zeros."""
    return td.compute(("N", "D"), lambda n, d: td.select(token[n] >= 0, table[token[n], d], 0.0))


@td.operator("table: float32[V, D], token: int32[T] in range(V), offset: int32[B + 1] in range(T + 1)")
def embedding_bag(table, token, offset):
    """The sum of the rows of each bag: the tokens from one offset to the next, as torch.nn.functional.embedding_bag."""
    t = td.reduce_axis("T")
    return td.compute(
        ("B", "D"),
        lambda b, d: td.sum(table[token[t], d], axis=t, where=(offset[b] <= t) & (t < offset[b + 1])),
    )


@td.operator("x: float32[M, N], index: int64[M, K] in range(N)")
def take_along_axis(x, index):
    """x[m, index[m, k]], as numpy.take_along_axis along the last axis."""
    return td.compute(("M", "K"), lambda m, k: x[m, index[m, k]])


@td.operator("image: uint8[H, W], curve: float32[256]")
def tone_curve(image, curve):
    """A lookup table for each pixel.  An 8-bit index needs no statement: its type is its range."""
    return td.compute(("H", "W"), lambda i, j: curve[image[i, j]])


@td.operator("image: float32[H, W], row: float32[N], column: float32[N]")
def bilinear(image, row, column):
    """The image between its pixels, at N points in pixel coordinates; outside, the border is repeated."""

    def pixel(n, i, j):
        return image[td.clip(i, 0, image.shape[0] - 1), td.clip(j, 0, image.shape[1] - 1)]

    def sample(n):
        i, j = td.cast(td.floor(row[n]), "int32"), td.cast(td.floor(column[n]), "int32")
        u, v = row[n] - td.floor(row[n]), column[n] - td.floor(column[n])
        upper = (1 - v) * pixel(n, i, j) + v * pixel(n, i, j + 1)
        lower = (1 - v) * pixel(n, i + 1, j) + v * pixel(n, i + 1, j + 1)
        return (1 - u) * upper + u * lower

    return td.compute(("N",), sample)


_CSR = "value: float32[Z], column: int32[Z] in range(N), start: int32[M + 1] in range(Z + 1)"


def _row(start, m, z):
    """Is the z-th entry in row m of a matrix in CSR form?"""
    return (start[m] <= z) & (z < start[m + 1])


@td.operator(f"{_CSR}, x: float32[N]")
def spmv(value, column, start, x):
    """A sparse matrix in CSR form times a vector."""
    z = td.reduce_axis("Z")
    return td.compute(("M",), lambda m: td.sum(value[z] * x[column[z]], axis=z, where=_row(start, m, z)))


@td.operator(f"{_CSR}, x: float32[N, K]")
def spmm(value, column, start, x):
    """A sparse matrix in CSR form times a dense one."""
    z = td.reduce_axis("Z")
    return td.compute(("M", "K"), lambda m, k: td.sum(value[z] * x[column[z], k], axis=z, where=_row(start, m, z)))


@td.operator("x: int32[N] in range(B)")
def histogram(x):
    """How often each value occurs, as numpy.bincount."""
    n = td.reduce_axis("N")
    return td.compute(("B",), lambda b: td.sum(td.cast(1, "int32"), axis=n, where=x[n] == b))


@td.operator("x: float32[N, D], index: int32[N] in range(M)")
def scatter_add(x, index):
    """Row n of x is added to row index[n] of the result, as torch.Tensor.index_add_ on zeros."""
    n = td.reduce_axis("N")
    return td.compute(("M", "D"), lambda m, d: td.sum(x[n, d], axis=n, where=index[n] == m))


@td.operator("x: float32[N, D], segment: int32[N] in range(S)")
def segment_max(x, segment):
    """The largest element of each segment and column, -inf where a segment is empty, as jax.ops.segment_max."""
    n = td.reduce_axis("N")
    return td.compute(("S", "D"), lambda s, d: td.max(x[n, d], axis=n, where=segment[n] == s))


embed = embedding.bind(V=30000, D=768, N=512)
bags = embedding_bag.bind(V=30000, D=128, T=4096, B=256)
sparse_layer = spmm.bind(Z=40000, M=1024, N=1024, K=128)
counts = histogram.bind(N=1 << 20, B=256)
