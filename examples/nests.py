"""Four hard kernels as schedules: what the primitives can express, step by step.

Each function returns a `Schedule`; print it to see the loops.  The fifth, a pipelined CUDA kernel,
is in cuda_gemm.py.  `python benchmarks/hard_nests.py` times them.
"""

from __future__ import annotations

import tensordsl as td


def gemm_program(m: int, n: int, k: int) -> td.Program:
    """gelu(x @ w + b), shapes (m, k), (k, n), (n,)."""
    x, w = td.placeholder((m, k), name="x"), td.placeholder((k, n), name="w")
    b = td.placeholder((n,), name="b")
    kk = td.reduce_axis(k, name="k")
    y = td.compute((m, n), lambda i, j: td.sum(x[i, kk] * w[kk, j], axis=kk), name="y")
    z = td.compute((m, n), lambda i, j: _gelu(y[i, j] + b[j]), name="z")
    return td.Program([x, w, b], [z], name="gemm_gelu")


def _gelu(v: td.Expr) -> td.Expr:
    return 0.5 * v * (1.0 + td.erf(v * 0.7071067811865476))


def gemm(
    m: int,
    n: int,
    k: int,
    *,
    mr: int = 8,
    nr: int = 48,
    kc: int = 1024,
    mc: int = 96,
    packed: bool = True,
    near: int = 0,
) -> td.Schedule:
    """A register tile of mr x nr accumulators; w is packed while the first row block is computed;
    with kc < k the sum is split and bias and gelu follow its last part.  Any sizes: edges are masked.
    near: sum steps ahead for which lines of the packed w are asked for.
    """
    s = td.Schedule(gemm_program(m, n, k)).unchecked()
    s = s.split("y", "k", kc).split("y", "i", factors=[None, mc // mr, mr]).split("y", "j", nr)
    s = s.reorder("y", "k.o", "i.o", "j.o", "i.m", "k.i", "i.i", "j.i")
    s = s.reverse_compute_at("z", "y", "i.m")
    s = s.cache_write("y", "i.m", name="acc")
    s = s.cache_read("y", "w", "k.i", name="wr")
    if packed:
        s = s.pack("wr", "w", "k.o", name="panel")
        if near:
            s = s.prefetch("wr", "panel", "k.i", ahead=near, lines=nr // 16)
    s = s.unroll("y", "i.i").vectorize("y", "j.i").unroll("z", "i").vectorize("z", "j")
    s = s.outline("y", "i.m")
    s = s.peel("y", "j.o", "tail").peel("y", "i.o", "tail").peel("y", "i.m", "tail")
    return s.validate()


def blur_program(height: int, width: int) -> td.Program:
    """3x3 box blur, (height + 2, width + 2) -> (height, width), as a row and a column stage."""
    x = td.placeholder((height + 2, width + 2), name="x")
    h = td.compute((height + 2, width), lambda r, c: x[r, c] + x[r, c + 1] + x[r, c + 2], name="h")
    o = td.compute((height, width), lambda r, c: (h[r, c] + h[r + 1, c] + h[r + 2, c]) * (1.0 / 9.0), name="o")
    return td.Program([x], [o], name="blur")


def blur(height: int, width: int, *, rows: int = 4, lanes: int = 16, ahead: int = 4, nt: bool = True) -> td.Schedule:
    """Both stages in one loop over groups of rows: the last two rows of the first stage are kept
    from group to group, and neighbours along a row come from a sliding window of registers.
    """
    s = td.Schedule(blur_program(height, width)).unchecked()
    s = s.split("o", "r", rows).split("o", "c", lanes).reorder("o", "r.o", "c.o", "r.i", "c.i")
    s = s.compute_at("h", "o", "c.o").set_scope("h", "register").slide("h", "r.o")
    s = s.cache_read("h", "x", "r", name="window", align=lanes)
    s = s.unroll("h", "r").vectorize("h", "c").slide("window", "c.o")
    s = s.unroll("o", "r.i").vectorize("o", "c.i")
    if nt:
        s = s.store_nt("o")
    if ahead:
        s = s.prefetch("window", "x", "r", ahead=ahead)
    s = s.peel("o", "r.o", "tail").peel("o", "r.o", "first").peel("o", "c.o", "last").peel("o", "c.o", "first")
    return s.validate()


def jacobi_program(n: int, steps: int) -> td.Program:
    """`steps` sweeps of the 5-point stencil over an n x n grid with a fixed border."""
    a = td.placeholder((n, n), name="a")

    def sweep(x: td.Tensor, t: td.Expr, i: td.Expr, j: td.Expr) -> td.Expr:
        mean = (
            0.2 * (x[t - 1, i, j - 1] + x[t - 1, i, j + 1] + (x[t - 1, i - 1, j] + x[t - 1, i + 1, j]))
            + 0.2 * x[t - 1, i, j]
        )
        inside = (i >= 1) & (i <= n - 2) & (j >= 1) & (j <= n - 2)
        return td.select(t <= 0, a[i, j], td.select(inside, mean, x[t - 1, i, j]))

    x = td.recurrence((steps + 1, n, n), sweep, name="x", order="t")
    out = td.compute((n, n), lambda i, j: x[steps, i, j], name="out")
    return td.Program([a], [out], name="jacobi")


def jacobi(n: int, steps: int, *, rows: int = 8, lanes: int = 16) -> td.Schedule:
    """All time steps advance together down the grid, one row behind each other (skewed and
    interchanged), `rows` rows at a time; two time slices are stored.
    """
    s = td.Schedule(jacobi_program(n, steps)).unchecked()
    s = s.split("x", "j", lanes, names=("v", "l")).skew("x", "i", "t").reorder("x", "i", "t")
    s = s.split("x", "i", rows, names=("i", "r")).reorder("x", "i", "t", "r")
    s = s.separate("x", "r", suffix="f")
    inside = ("t >= 1", f"{rows}*i - t >= 1", f"{rows}*i + {rows - 1} - t <= {n - 2}")
    s = s.specialize("x", "r.f", *inside, suffix="f")
    s = s.reorder("x", "v.f.f", "r.f.f", "l.f.f")
    s = s.cache_read("x", "x", "v.f.f", name="window", align=lanes).slide("window", "v.f.f")
    s = s.unroll("x", "r.f.f").vectorize("x", "l.f.f")
    s = s.peel("x", "v.f.f", "last").peel("x", "v.f.f", "first")
    for lane in ("l", "l.f"):
        s = s.vectorize("x", lane)
    s = s.fold("x", 0, 2).vectorize("out", "j", lanes)
    return s.validate()


def attention_program(queries: int, width: int) -> td.Program:
    """softmax(q @ k.T / sqrt(width)) @ v for one head, as it is defined."""
    q, k, v = (td.placeholder((queries, width), name=n) for n in "qkv")
    scale = 1.4426950408889634 / width**0.5  # to powers of two
    qt = td.compute((width, queries), lambda c, i: q[i, c] * scale, name="qt")
    c, j = td.reduce_axis(width, name="c"), td.reduce_axis(queries, name="j")
    s = td.compute((queries, queries), lambda r, i: td.sum(k[r, c] * qt[c, i], axis=c), name="s")
    m = td.compute((queries,), lambda i: td.max(s[j, i], axis=j), name="m")
    p = td.compute((queries, queries), lambda r, i: td.exp2(s[r, i] - m[i]), name="p")
    l = td.compute((queries,), lambda i: td.sum(p[j, i], axis=j), name="l")
    acc = td.compute((width, queries), lambda d, i: td.sum(v[j, d] * p[j, i] / l[i], axis=j), name="acc")
    o = td.compute((queries, width), lambda i, d: acc[d, i], name="o")
    return td.Program([q, k, v], [o], name="attention")


def attention(
    queries: int, width: int, *, keys: int = 128, lanes: int = 16, vectors: int = 2, rows: int = 13
) -> td.Schedule:
    """Streaming attention: `online` derives the pass over tiles of keys, with the running maximum and
    sum rescaled from tile to tile (Dao et al., FlashAttention, 2022).  Everything for a tile of queries
    stays in the first-level cache.  Queries are the lanes, so maxima and sums are vertical and keys and
    values are broadcast as they lie in memory; only the query tile and the output tile are transposed,
    16 x 16 in registers.
    """
    s = td.Schedule(attention_program(queries, width)).unchecked().online("acc", keys)
    tile = vectors * lanes
    s = s.compute_inline("acc").split("o", "i", tile)
    for stage in ("acc_run", "acc_scale", "l_run"):
        s = s.compute_at(stage, "o", "i.o")
    s = s.jam("acc_run", "l_run", "j.t").split("acc_run", "d", most=rows)
    s = s.compute_at("acc_tile", "acc_run", "d.o")
    for stage in ("j_moved", "l_tile", "p_tile", "m_safe"):
        s = s.compute_at(stage, "l_run", "j.t")
    s = s.compute_at("m_run", "o", "i.o").jam("m_run", "l_run", "j.t")
    s = s.compute_at("m_tile", "m_run", "l_run.j.t").compute_at("s", "l_run", "j.t").compute_at("qt", "o", "i.o")
    s = s.fold("acc_run", 0, 1).fold("l_run", 0, 1).fold("m_run", 0, 2)  # the rescaling still reads the last maximum
    # scores: rows of keys by vectors of queries
    s = s.split("s", "r", most=rows, names=("s.ro", "s.ri")).reorder("s", "s.ro", "c", "s.ri", "i")
    s = s.cache_write("s", "s.ro", name="sr").cache_read("s", "qt", "c", name="qv")
    s = s.unroll("s", "s.ri").vectorize("s", "i").outline("s", "s.ro")
    # the running maximum and sum, one vector register each
    for stage in ("m_tile", "l_tile"):
        s = s.reorder(stage, "j.r", "i").vectorize(stage, "i").set_scope(stage, "register")
    for stage in ("m_run", "m_safe", "j_moved", "l_run", "acc_scale", "p_tile"):
        s = s.vectorize(stage, "i")
    # the output: rows of the head by vectors of queries, rescaled as they are stored
    s = s.reorder("acc_tile", "j.r", "d", "i").set_scope("acc_tile", "register")
    s = s.cache_read("acc_tile", "p_tile", "j.r", name="pr").unroll("acc_tile", "d").vectorize("acc_tile", "i")
    s = s.unroll("acc_run", "d.i").vectorize("acc_run", "i").outline("acc_run", "d.o")
    # 16 x 16 transposes at both ends
    s = s.split("qt", "c", lanes, names=("qt.cv", "qt.cl")).split("qt", "i", lanes, names=("qt.iv", "qt.il"))
    s = s.reorder("qt", "qt.cv", "qt.iv", "qt.cl", "qt.il").cache_read("qt", "q", "qt.iv", name="qb")
    s = s.unroll("qt", "qt.cl").vectorize("qt", "qt.il")
    s = s.split("o", "i.i", lanes, names=("o.iv", "o.il")).split("o", "d", lanes, names=("o.dv", "o.dl"))
    s = s.reorder("o", "o.dv", "o.iv", "o.il", "o.dl").cache_read("o", "acc_run", "o.iv", name="ob")
    s = s.unroll("o", "o.il").vectorize("o", "o.dl")
    return s.validate()
