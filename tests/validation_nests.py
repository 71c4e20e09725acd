"""Nests for the tests of validation: each with legal variants, wrong ones, and sizes to choose.

``build(variant, **sizes)`` makes the nest; variant None is the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    If,
    Instance,
    LoopNest,
    Prefetch,
    Stmt,
    Store,
    Sync,
    loop,
    seq,
)  # fmt: skip

import tensordsl as td
from tensordsl.affine import Affine, AffineLike, affines
from tensordsl.dtypes import float32
from tensordsl.expr import Expr

Index = Sequence[AffineLike]


def V(name: str) -> Affine:
    return Affine.of(name)


def store(
    buffer: Buffer, cell: Index, value: Expr, kind: str, tensor: str, index: Index, points: Index = (),
    over: Sequence[tuple[str, AffineLike, AffineLike]] = (), op: str = "",
) -> Store:  # fmt: skip
    ranges = tuple([(v, Affine.of(lo), Affine.of(hi)) for v, lo, hi in over])
    return Store(buffer, affines(cell), value, Instance(kind, tensor, affines(index), affines(points), ranges), op)


def equals(e: AffineLike, value: int) -> tuple[Affine, ...]:
    e = Affine.of(e)
    return (e - value, value - e)


def up(a: int, b: int) -> int:
    return -(-a // b)


@dataclass
class Nest:
    build: Callable[..., LoopNest]
    small: dict[str, int]
    legal: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


NESTS: dict[str, Nest] = {}


def nest(small: dict[str, int], legal: Sequence[str] = (), wrong: Sequence[str] = ()):
    def add(build: Callable[..., LoopNest]) -> Callable[..., LoopNest]:
        NESTS[build.__name__] = Nest(build, small, list(legal), list(wrong))
        return build

    return add


# ---------------------------------------------------------------- matrix product


@nest(
    dict(M=7, N=8, K=5, mc=4, nc=4, kc=2, mr=2, nr=2),
    legal=["one row block more", "pack in every row block", "k descending", "prefetch outside",
           "spill into the output"],
    wrong=[
        "one row block short", "panel never packed", "packed one row block late", "panel one row short", "wrong panel",
        "init skipped", "init in every chunk", "overlapping k split", "k chunk one short", "epilogue one chunk early",
        "epilogue in every chunk", "spill into the output, epilogue in every chunk", "spilled sum mis-stated",
        "parallel k", "parallel rows share the panel", "no ragged guard", "tile one too long", "update reads A[i, k+1]",
        "epilogue adds b twice", "init with 1", "update by max", "panel in another buffer", "register tile too small",
        "k step 2", "bias of another column",
    ],
)  # fmt: skip
def gemm(m: str | None = None, M: int = 250, N: int = 256, K: int = 250, mc: int = 48, nc: int = 128, kc: int = 64,
         mr: int = 6, nr: int = 16) -> LoopNest:  # fmt: skip
    """3 levels, ragged, register tile, B packed in the first row block, K split with partial sums spilled,
    scale and bias after the last chunk."""
    A, B, b = (td.placeholder(s, name=n) for s, n in (((M, K), "A"), ((K, N), "B"), ((N,), "b")))
    kk = td.reduce_axis(K, "k")
    C = td.compute((M, N), lambda i, j: td.sum(A[i, kk] * B[kk, j], axis=kk), name="C")
    D = td.compute((M, N), lambda i, j: C[i, j] * 2.0 + b[j], name="D")
    program = td.Program([A, B, b], [D])
    bA, bB, bb, bD = (Buffer(t.name, t.shape, float32) for t in (A, B, b, D))
    Cm = bD if m and m.startswith("spill into") else Buffer("Cm", (M, N), float32, "workspace")
    nk = up(K, kc)
    last = nk - 1
    Bp = Buffer("Bp", (nc // nr, kc + (m == "overlapping k split"), nr), float32, "workspace")
    acc = Buffer("acc", (mr - (m == "register tile too small"), nr), float32, "register")
    jo, ko, io, jr, ir, i, j, k = (V(x) for x in ("jo", "ko", "io", "jr", "ir", "i", "j", "k"))
    j0, i0 = jo * nc + jr * nr, io * mc + ir * mr

    def tile(body: Stmt) -> Stmt:
        rows = (mr,) if m == "no ragged guard" else (Affine.of(mr + (m == "tile one too long")), M - i0)
        return loop("i", 0, affines(rows), loop("j", 0, nr, body, kind="vector"), kind="unroll")

    p0 = jo * nc if m == "wrong panel" else j0
    kp, jp = V("kp"), V("jp")
    high = (Affine.of(K), ko * kc + kc - (m == "panel one row short"))
    pack: Stmt = loop("kp", ko * kc, high, loop("jp", 0, nr, store(
        Bp, (jr, kp - ko * kc, jp), bB.at(kp, p0 + jp), "copy", "B", (kp, p0 + jp)), kind="vector"))  # fmt: skip
    if m == "panel never packed":
        pack = seq()
    elif m != "pack in every row block":
        pack = If(equals(io, 1 if m == "packed one row block late" else 0), pack)
    element = (i0 + i, j0 + j)
    zero = td.cast(1.0 if m == "init with 1" else 0.0, "float32")
    init = tile(store(acc, (i, j), zero, "init", "C", element))
    init = init if m == "init in every chunk" else If(equals(ko, 0), init)
    reload = If((ko - 1,), tile(store(acc, (i, j), Cm.at(*element), "partial", "C", element, ("kx",),
                [("kx", 0, ko * kc - (m == "spilled sum mis-stated"))])))  # fmt: skip
    q = ko * (2 * kc) + kc - 1 - k if m == "k descending" else k
    term = bA.at(i0 + i, q + (m == "update reads A[i, k+1]")) * Bp.at(jr, q - ko * kc, j)
    if m == "panel in another buffer":
        term = bA.at(i0 + i, q) * Cm.at(jr, j)
    update = store(acc, (i, j), term, "update", "C", element, (q,), op="max" if m == "update by max" else "add")
    chunk = ko * kc + kc + (m == "overlapping k split") - (m == "k chunk one short")
    sweep = loop("k", ko * kc, (Affine.of(K), chunk), tile(update), step=2 if m == "k step 2" else 1)
    if m == "k descending":
        sweep = loop("k", ko * kc, chunk, If((K - 1 - q,), tile(update)))
    every = m is not None and m.endswith("epilogue in every chunk")
    spill = If((last - 1 - ko,), tile(store(Cm, element, acc.at(i, j), "partial", "C", element, ("kx",),
               [("kx", 0, ko * kc + kc)])))  # fmt: skip
    bias = bb.at(j0 + j - (m == "bias of another column"))
    value = acc.at(i, j) * 2.0 + bias
    if m == "epilogue adds b twice":
        value = value + bias
    final = tile(store(bD, element, value, "compute", "D", element))
    if not every:
        final = If(equals(ko, last - (m == "epilogue one chunk early")), final)
    block = Alloc(acc, seq(
        None if m == "init skipped" else init,
        None if m == "init in every chunk" else reload,
        Prefetch(bB, (ko * kc + 3 * K, j0)) if m == "prefetch outside" else None,
        sweep, spill, final))  # fmt: skip
    rows = up(M, mc) - (m == "one row block short") + (m == "one row block more")
    body: Stmt = loop("io", 0, rows, loop("jr", 0, nc // nr, pack, loop("ir", 0, mc // mr, block)),
                      kind="parallel" if m == "parallel rows share the panel" else "serial")  # fmt: skip
    body = loop("ko", 0, nk, Alloc(Bp, body), kind="parallel" if m == "parallel k" else "serial")
    body = loop("jo", 0, N // nc, body, kind="parallel")
    if Cm is not bD:
        body = Alloc(Cm, body)
    return LoopNest(program, (bA, bB, bb, bD), body)


@nest(
    dict(M=3, N=4, K=7, kc=2),
    legal=["copy after use", "guarded, not peeled"],
    wrong=["one stage", "copies the chunk it uses", "prologue missing", "epilogue missing", "last chunk twice",
           "tail not masked", "wrong parity"],
)  # fmt: skip
def pipeline(m: str | None = None, M: int = 64, N: int = 64, K: int = 250, kc: int = 16) -> LoopNest:
    """Chunks of A and B are copied one ahead of their use into two alternating buffers; prologue and
    epilogue peeled."""
    A, B = td.placeholder((M, K), name="A"), td.placeholder((K, N), name="B")
    kk = td.reduce_axis(K, "k")
    C = td.compute((M, N), lambda i, j: td.sum(A[i, kk] * B[kk, j], axis=kk), name="C")
    program = td.Program([A, B], [C])
    bA, bB, bC = (Buffer(t.name, t.shape, float32) for t in (A, B, C))
    stages = 1 if m == "one stage" else 2
    chunks = up(K, kc)
    As = Buffer("As", (chunks + 2, M, kc), float32, "workspace", fold=(stages, 0, 0))
    Bs = Buffer("Bs", (chunks + 2, kc, N), float32, "workspace", fold=(stages, 0, 0))
    i, j, k = V("i"), V("j"), V("k")

    def copy(c: Affine) -> Stmt:
        high = (Affine.of(kc), K - c * kc) if m != "tail not masked" else (Affine.of(kc),)
        a = store(As, (c, i, k), bA.at(i, c * kc + k), "copy", "A", (i, c * kc + k))
        b = store(Bs, (c, k, j), bB.at(c * kc + k, j), "copy", "B", (c * kc + k, j))
        return seq(loop("i", 0, M, loop("k", 0, high, a)), loop("k", 0, high, loop("j", 0, N, b, kind="vector")))

    def use(c: Affine) -> Stmt:
        s = c + (m == "wrong parity")
        value = As.at(s, i, k) * Bs.at(s, k, j)
        high = (Affine.of(kc), K - c * kc)
        update = store(bC, (i, j), value, "update", "C", (i, j), (c * kc + k,), op="add")
        return loop("i", 0, M, loop("k", 0, high, loop("j", 0, N, update, kind="vector")))

    init = loop("i", 0, M, loop("j", 0, N, store(bC, (i, j), td.cast(0.0, "float32"), "init", "C", (i, j))))
    c = V("c")
    ahead = copy(c if m == "copies the chunk it uses" else c + 1)
    if m == "guarded, not peeled":
        body = loop("c", -1, chunks, If((chunks - 2 - c,), ahead), If((c,), use(c)))
        return LoopNest(program, (bA, bB, bC), Alloc(As, Alloc(Bs, seq(init, body))))
    steady = seq(use(c), ahead) if m == "copy after use" else seq(ahead, use(c))
    body = seq(
        None if m == "prologue missing" else copy(Affine()),
        loop("c", 0, chunks - 1, steady),
        None if m == "epilogue missing" else use(Affine.of(chunks - 1)),
        use(Affine.of(chunks - 1)) if m == "last chunk twice" else None,
    )
    return LoopNest(program, (bA, bB, bC), Alloc(As, Alloc(Bs, seq(init, Sync("barrier"), body))))


@nest(
    dict(M=3, K=7, kc=4),
    legal=["halves of another size", "three-way"],
    wrong=["second half forgotten", "halves overlap", "a point between the halves", "merge by max", "merged twice",
           "merge before the second half", "lanes not reset", "states too much"],
)  # fmt: skip
def halves(m: str | None = None, M: int = 64, K: int = 250, kc: int = 128) -> LoopNest:
    """A row sum in two accumulators over two ranges of points, merged at the end."""
    x = td.placeholder((M, K), name="x")
    kk = td.reduce_axis(K, "k")
    s = td.compute((M,), lambda i: td.sum(x[i, kk], axis=kk), name="s")
    program = td.Program([x], [s])
    bx, bs = Buffer("x", x.shape, float32), Buffer("s", s.shape, float32)
    P, Q = Buffer("p", (), float32, "register"), Buffer("q", (), float32, "register")
    cut = kc - 1 if m == "halves of another size" else kc
    i, k = V("i"), V("k")
    zero = td.cast(0.0, "float32")

    def part(b: Buffer, lo: int, hi: int) -> Stmt:
        return loop("k", lo, hi, store(b, (), bx.at(i, k), "update", "s", (i,), (k,), op="add"))

    lo = cut - (m == "halves overlap") + (m == "a point between the halves")
    second = None if m == "second half forgotten" else part(Q, lo, K)
    over = [("kx", cut - (m == "states too much"), K)]
    merge = store(P, (), Q.at(), "merge", "s", (i,), ("kx",), over, op="max" if m == "merge by max" else "add")
    inits = [store(b, (), zero, "init", "s", (i,)) for b in (P, Q)]
    tail: list[Stmt | None] = [second, merge]
    if m == "merge before the second half":
        tail.reverse()
    if m == "merged twice":
        tail.append(merge)
    if m == "three-way":
        middle = (cut + K) // 2
        first, third = (
            store(P, (), Q.at(), "merge", "s", (i,), ("kx",), [("kx", *bounds)], op="add")
            for bounds in ((cut, middle), (middle, K))
        )
        tail = [part(Q, cut, middle), first, inits[1], part(Q, middle, K), third]
    row = seq(*inits, part(P, 0, cut), *tail, store(bs, (i,), P.at(), "copy", "s", (i,)))
    if m == "lanes not reset":
        row = seq(part(P, 0, cut), *tail, store(bs, (i,), P.at(), "copy", "s", (i,)))
        return LoopNest(program, (bx, bs), Alloc(P, Alloc(Q, seq(loop("i", 0, 1, *inits), loop("i", 0, M, row)))))
    return LoopNest(program, (bx, bs), Alloc(P, Alloc(Q, loop("i", 0, M, row))))


@nest(
    dict(M=2, K=8, lanes=4),
    legal=["lanes summed serially"],
    wrong=["init in the lanes", "parallel lanes", "cell depends on the lane", "read in the lanes"],
)
def dot(m: str | None = None, M: int = 64, K: int = 256, lanes: int = 16) -> LoopNest:
    """A dot product whose vector loop combines into one cell: a horizontal reduction."""
    x, y = td.placeholder((M, K), name="x"), td.placeholder((K,), name="y")
    kk = td.reduce_axis(K, "k")
    d = td.compute((M,), lambda i: td.sum(x[i, kk] * y[kk], axis=kk), name="d")
    program = td.Program([x, y], [d])
    bx, by, bd = (Buffer(t.name, t.shape, float32) for t in (x, y, d))
    a = Buffer("a", (2,) if m == "cell depends on the lane" else (), float32, "register")
    i, ko, ki = V("i"), V("ko"), V("ki")
    k = ko * lanes + ki
    cell = (ki // lanes,) if m == "cell depends on the lane" else ()
    init = store(a, cell and (0,), td.cast(0.0, "float32"), "init", "d", (i,))
    update = store(a, cell, bx.at(i, k) * by.at(k), "update", "d", (i,), (k,), op="add")
    kind = {"lanes summed serially": "serial", "parallel lanes": "parallel"}.get(m or "", "vector")
    out = store(bd, (i,), a.at(*(cell and (0,))), "copy", "d", (i,))
    body: Stmt = loop("ko", 0, K // lanes, loop("ki", 0, lanes, update, kind=kind))  # type: ignore[arg-type]
    if m == "init in the lanes":
        body = loop("ko", 0, K // lanes, loop("ki", 0, lanes, If((-k,), init), update, kind="vector"))
        return LoopNest(program, (bx, by, bd), loop("i", 0, M, Alloc(a, seq(body, out))))
    if m == "read in the lanes":
        body = loop("ko", 0, K // lanes, loop("ki", 0, lanes, update, If((k - (K - 1),), out), kind="vector"))
        return LoopNest(program, (bx, by, bd), loop("i", 0, M, Alloc(a, seq(init, body))))
    return LoopNest(program, (bx, by, bd), loop("i", 0, M, Alloc(a, seq(init, body, out))))


# ---------------------------------------------------------------- stencils


def _blur(H: int, W: int) -> tuple[td.Program, Buffer, Buffer]:
    x = td.placeholder((H + 2, W + 2), name="x")
    h = td.compute((H + 2, W), lambda y, c: x[y, c] + x[y, c + 1] + x[y, c + 2], name="h")
    v = td.compute((H, W), lambda y, c: h[y, c] + h[y + 1, c] + h[y + 2, c], name="v")
    return td.Program([x], [v]), Buffer("x", x.shape, float32), Buffer("v", v.shape, float32)


@nest(
    dict(H=7, W=5, strip=4, lanes=2),
    legal=["fold by 4"],
    wrong=["fold by 2", "ring shared by strips", "warm-up one row short", "rows parallel", "row ahead", "row behind",
           "wrong halo column", "taps not rotated", "output before warm-up", "consumer first", "columns dropped"],
)  # fmt: skip
def ring(m: str | None = None, H: int = 250, W: int = 250, strip: int = 64, lanes: int = 16) -> LoopNest:
    """3x3 blur: rows of the first pass in a ring of 3, each computed two rows before its last use."""
    program, x, v = _blur(H, W)
    modulus = {"fold by 2": 2, "fold by 4": 4}.get(m or "", 3)
    b = Buffer("ring", (H + 6, W), float32, "workspace", fold=(modulus, 0))
    yo, y, xo, xi = V("yo"), V("y"), V("xo"), V("xi")
    c = xo * lanes + xi
    d = {"row ahead": 3, "row behind": 1}.get(m or "", 2)

    def row(s: Stmt, short: int = 0) -> Stmt:
        return loop("xo", 0, up(W, lanes) - short, loop("xi", 0, (Affine.of(lanes), W - xo * lanes), s, kind="vector"))

    e = 1 if m == "wrong halo column" else 0
    value = x.at(y + d, c) + x.at(y + d, c + 1) + x.at(y + d, c + 2 - e)
    produce = row(store(b, (y + d, c), value, "compute", "h", (y + d, c)), m == "columns dropped")
    t = 0 if m == "taps not rotated" else 1
    taps = b.at(y, c) + b.at(y + t, c) + b.at(y + 2 * t, c)
    consume = row(store(v, (y, c), taps, "compute", "v", (y, c)))
    ready = y - yo * strip + (m == "output before warm-up")
    guarded = If((ready, y), consume)
    body = seq(guarded, produce) if m == "consumer first" else seq(produce, guarded)
    first = yo * strip - (1 if m == "warm-up one row short" else 2)
    lows = (first, Affine.of(-d))
    kind = "parallel" if m == "rows parallel" else "serial"
    rows = loop("y", lows, (Affine.of(H), yo * strip + strip), body, kind=kind)
    if m == "ring shared by strips":
        return LoopNest(program, (x, v), Alloc(b, loop("yo", 0, up(H, strip), rows, kind="parallel")))
    return LoopNest(program, (x, v), loop("yo", 0, up(H, strip), Alloc(b, rows), kind="parallel"))


@nest(
    dict(H=7, W=5, ty=4, tx=3),
    legal=["halo too large"],
    wrong=["halo one row short", "tile buffer shared", "recomputed from a shifted tile", "no ragged guard",
           "tiles skipped"],
)  # fmt: skip
def tiles(m: str | None = None, H: int = 250, W: int = 250, ty: int = 64, tx: int = 64) -> LoopNest:
    """3x3 blur in overlapping tiles: each recomputes its halo."""
    program, x, v = _blur(H, W)
    halo = {"halo one row short": 1, "halo too large": 3}.get(m or "", 2)
    b = Buffer("tile", (ty + 3, tx), float32, "stack")
    yo, xo, y, c = V("yo"), V("xo"), V("y"), V("c")
    Y, X = yo * ty + y, xo * tx + c
    s = 1 if m == "recomputed from a shifted tile" else 0
    value = x.at(Y, X + s) + x.at(Y, X + 1) + x.at(Y, X + 2)
    rows = (Affine.of(ty + halo), H + 2 - yo * ty)
    columns = (Affine.of(tx),) if m == "no ragged guard" else (Affine.of(tx), W - xo * tx)
    first = loop("y", 0, rows, loop("c", 0, columns, store(b, (y, c), value, "compute", "h", (Y, X)), kind="vector"))
    taps = b.at(y, c) + b.at(y + 1, c) + b.at(y + 2, c)
    out = store(v, (Y, X), taps, "compute", "v", (Y, X))
    second = loop("y", 0, (Affine.of(ty), H - yo * ty), loop("c", 0, columns, out, kind="vector"))
    step = 2 if m == "tiles skipped" else 1
    if m == "tile buffer shared":
        body = loop("xo", 0, up(W, tx), first, second, kind="parallel")
        return LoopNest(program, (x, v), Alloc(b, loop("yo", 0, up(H, ty), body, kind="parallel")))
    body = loop("xo", 0, up(W, tx), Alloc(b, seq(first, second)), kind="parallel", step=step)
    return LoopNest(program, (x, v), loop("yo", 0, up(H, ty), body, kind="parallel"))


@nest(
    dict(H=5, N=6, taps=3),
    legal=["edges peeled", "guard by the loop", "select in the loop"],
    wrong=["edges read", "left edge only", "guard one short", "zero everywhere", "guard shifted"],
)
def padded(m: str | None = None, H: int = 8, N: int = 250, taps: int = 3) -> LoopNest:
    """A padded row: the definition chooses between the input and 0; nests may resolve the choice."""
    x = td.placeholder((H, N), name="x")
    p = td.compute((H, N + 2), lambda h, i: td.select((i >= 1) & (i <= N), x[h, i - 1], 0.0), name="p")
    rr = td.reduce_axis(taps, "r")
    y = td.compute((H, N), lambda h, i: td.sum(p[h, i + rr], axis=rr), name="y")
    program = td.Program([x], [y])
    bx, by = Buffer("x", x.shape, float32), Buffer("y", y.shape, float32)
    row = Buffer("row", (N + 2,), float32, "stack")
    h, i, r = V("h"), V("i"), V("r")
    zero = td.cast(0.0, "float32")
    inside = store(row, (i,), bx.at(h, i - 1), "compute", "p", (h, i))
    edge = store(row, (i,), zero, "compute", "p", (h, i))
    guard: tuple[Affine, ...] = (i - 1, N - i)
    if m == "left edge only":
        guard = (i - 1,)
    elif m == "guard one short":
        guard = (i - 1, N - 1 - i)
    elif m == "guard shifted":
        guard = (i, N - 1 - i)
    if m == "edges peeled":
        ends = [store(row, (e,), zero, "compute", "p", (h, e)) for e in (0, N + 1)]
        fill = seq(ends[0], loop("i", 1, N + 1, inside, kind="vector"), ends[1])
    elif m == "select in the loop":
        from tensordsl.expr import Index

        chosen = td.select((Index(i) >= 1) & (Index(i) < N + 1), bx.at(h, i - 1), 0.0)
        fill = loop("i", 0, N + 2, store(row, (i,), chosen, "compute", "p", (h, i)))
    elif m == "edges read":
        fill = loop("i", 0, N + 2, inside)
    elif m == "zero everywhere":
        fill = loop("i", 0, N + 2, edge)
    elif m == "guard by the loop":
        fill = seq(loop("i", 0, N + 2, If((-i,), edge)), loop("i", 1, N + 1, inside), loop("i", N + 1, N + 2, edge))
    else:
        fill = loop("i", 0, N + 2, If(guard, inside, edge))
    init = store(by, (h, i), zero, "init", "y", (h, i))
    update = store(by, (h, i), row.at(i + r), "update", "y", (h, i), (r,), op="add")
    body = seq(fill, loop("i", 0, N, init), loop("r", 0, taps, loop("i", 0, N, update, kind="vector"), kind="unroll"))
    return LoopNest(program, (bx, by), loop("h", 0, H, Alloc(row, body), kind="parallel"))


# ---------------------------------------------------------------- recurrences


@nest(
    dict(T=4, N=8, ts=2, xs=3),
    legal=["in written order", "fold by 3", "banks"],
    wrong=["unskewed", "fold by 1", "steps parallel", "step forgotten", "first row again", "wrong parity at the end"],
)
def heat(m: str | None = None, T: int = 100, N: int = 250, ts: int = 16, xs: int = 64) -> LoopNest:
    """A 1-d stencil over time, ping-pong storage, tiled after skewing by the time."""
    x = td.placeholder((N,), name="x")

    def body(u: td.Tensor, t: Expr, i: Expr) -> Expr:
        moved = u[t - 1, i - 1] + u[t - 1, i] + u[t - 1, i + 1]
        return td.select(t < 1, x[i], td.select((i >= 1) & (i < N - 1), moved, u[t - 1, i]))

    u = td.recurrence((T + 1, N), body, name="u", order="t")
    y = td.compute((N,), lambda i: u[T, i], name="y")
    program = td.Program([x], [y])
    bx, by = Buffer("x", x.shape, float32), Buffer("y", y.shape, float32)
    modulus = {"fold by 1": 1, "fold by 3": 3}.get(m or "", 2)
    banks = ("even", "odd") if m == "banks" else ()
    b = Buffer("u", (T + 1, N), float32, "workspace", fold=(modulus, 0), banks=banks)
    if modulus == 1:
        b = Buffer("u", (1, N), float32, "workspace")
    t, i = V("t"), V("i")
    row = lambda s: Affine() if modulus == 1 else s  # noqa: E731

    def step(at: Affine) -> Stmt:
        inner = b.at(row(t - 1), at - 1) + b.at(row(t - 1), at) + b.at(row(t - 1), at + 1)
        edge = store(b, (row(t), at), b.at(row(t - 1), at), "compute", "u", (t, at))
        return If((at - 1, N - 2 - at), store(b, (row(t), at), inner, "compute", "u", (t, at)), edge)

    first = loop("i", 0, N, store(b, (row(Affine()), i), bx.at(i), "compute", "u", (0, i)))
    end = T - 1 if m == "wrong parity at the end" else T
    last = loop("i", 0, N, store(by, (i,), b.at(row(Affine.of(end)), i), "compute", "y", (i,)))
    if m in ("in written order", "fold by 1", "steps parallel", "first row again"):
        sweep: Stmt = loop("t", 1, T + 1, loop("i", 0, N, step(i), kind="serial" if modulus == 1 else "vector"),
                           kind="parallel" if m == "steps parallel" else "serial")  # fmt: skip
        if m == "first row again":
            sweep = seq(sweep, first)
    else:
        to, so, s = V("to"), V("so"), V("s")
        at = s if m == "unskewed" else s - t
        width = N if m == "unskewed" else N + T
        shift = Affine() if m == "unskewed" else t
        skewed = loop("s", (so * xs, shift), (so * xs + xs, shift + N), step(at))
        time = loop("t", (to * ts, Affine.of(1)), (to * ts + ts, Affine.of(T + (m != "step forgotten"))), skewed)
        sweep = loop("to", 0, up(T + 1, ts), loop("so", 0, up(width, xs), time))
    body_ = Alloc(b, seq(first, sweep, last))
    if banks:
        for name in banks:
            body_ = Alloc(Buffer(name, (N,), float32, "workspace"), body_)
    return LoopNest(program, (bx, by), body_)


@nest(
    dict(N=6, M=4),
    legal=["fold by 2", "lanes"],
    wrong=["fold by 1", "backwards", "first from the input only", "parallel"],
)
def scan(m: str | None = None, N: int = 250, M: int = 64) -> LoopNest:
    """A running sum along i for each column, kept in a folded buffer and copied out."""
    x = td.placeholder((N, M), name="x")
    s = td.recurrence((N, M), lambda s, i, j: td.select(i > 0, s[i - 1, j] + x[i, j], x[i, j]), name="s", order="i")
    program = td.Program([x], [s])
    bx, bs = Buffer("x", x.shape, float32), Buffer("s", s.shape, float32)
    modulus = 3 if m is None else {"fold by 2": 2, "fold by 1": 1}.get(m, 3)
    b = Buffer("b", (N, M) if modulus > 1 else (1, M), float32, "stack", fold=(modulus, 0) if modulus > 1 else ())
    i, j = V("i"), V("j")
    at = (N - 1 - i) if m == "backwards" else i
    row = lambda e: e if modulus > 1 else Affine()  # noqa: E731
    start = store(b, (row(at), j), bx.at(at, j), "compute", "s", (at, j))
    later = store(b, (row(at), j), b.at(row(at - 1), j) + bx.at(at, j), "compute", "s", (at, j))
    if m == "fold by 1":  # the stale half: the value of the row before the last
        later = store(b, (row(at), j), b.at(row(at - 1), j) + bx.at(at, j), "compute", "s", (at + 1, j))
    out = store(bs, (at, j), b.at(row(at), j), "copy", "s", (at, j))
    body = start if m == "first from the input only" else If((at - 1,), later, start)
    inner = loop("j", 0, M, body, out, kind="vector" if m == "lanes" else "serial")
    kind = "parallel" if m == "parallel" else "serial"
    return LoopNest(program, (bx, bs), Alloc(b, loop("i", 0, N, inner, kind=kind)))


@nest(
    dict(N=6),
    legal=["through a copy", "vector"],
    wrong=["one element later", "one element earlier, in order", "last not written", "read after writing"],
)
def inplace(m: str | None = None, N: int = 250) -> LoopNest:
    """y = x * 2 in the memory of x, and its differences before that."""
    x = td.placeholder((N,), name="x")
    y = td.compute((N,), lambda i: x[i] * 2.0, name="y")
    d = td.compute((N - 1,), lambda i: x[i + 1] - x[i], name="d")
    program = td.Program([x], [y, d], inplace={"y": "x"})
    b, bd = Buffer("x", x.shape, float32), Buffer("d", d.shape, float32)
    i = V("i")
    scale = store(b, (i,), b.at(i) * 2.0, "compute", "y", (i,))
    diff = store(bd, (i,), b.at(i + 1) - b.at(i), "compute", "d", (i,))
    if m == "one element later":
        body = loop("i", 0, N, scale, If((N - 2 - i,), diff))
    elif m == "one element earlier, in order":
        body = loop("i", 0, N, If((N - 2 - i,), diff), store(b, (i,), b.at(i) * 2.0, "compute", "y", (N - 1 - i,)))
    elif m == "read after writing":
        body = seq(loop("i", 0, N, scale), loop("i", 0, N - 1, diff))
    elif m == "last not written":
        body = loop("i", 0, N - 1, diff, scale)
    elif m == "through a copy":
        t = Buffer("t", (N,), float32, "stack")
        copy = store(t, (i,), b.at(i), "copy", "x", (i,))
        later = store(bd, (i,), t.at(i + 1) - t.at(i), "compute", "d", (i,))
        body = Alloc(t, seq(loop("i", 0, N, copy), loop("i", 0, N, scale), loop("i", 0, N - 1, later)))
    else:
        kind = "vector" if m == "vector" else "serial"
        body = seq(loop("i", 0, N - 1, diff, kind=kind), loop("i", 0, N, scale, kind=kind))
    return LoopNest(program, (b, bd), body)


@nest(
    dict(N=11, f=4),
    legal=["two lower bounds", "even split", "reversed"],
    wrong=["overlapping split", "gap", "step too large", "second start"],
)
def strided(m: str | None = None, N: int = 250, f: int = 16) -> LoopNest:
    """A loop with a step over a row sum, in pieces."""
    x = td.placeholder((N,), name="x")
    kk = td.reduce_axis(N, "k")
    s = td.compute((), lambda: td.sum(x[kk] * x[kk], axis=kk), name="s")
    program = td.Program([x], [s])
    bx, bs = Buffer("x", x.shape, float32), Buffer("s", (), float32)
    k, ki = V("k"), V("ki")

    def update(p: Affine) -> Stmt:
        return store(bs, (), bx.at(p) * bx.at(p), "update", "s", (), (p,), op="add")

    init = store(bs, (), td.cast(0.0, "float32"), "init", "s", ())
    inner = f + (m == "overlapping split") - (m == "gap")
    step = f + 1 if m == "step too large" else f
    lows: tuple[AffineLike, ...] = (0, -3) if m == "two lower bounds" else (0,)
    if m == "even split":
        body = loop("k", 0, f, loop("ki", (k * N) // f, (k * N + N) // f, update(ki)))
    elif m == "reversed":
        body = loop("k", 0, N, update(N - 1 - k))
    elif m == "second start":
        body = loop("k", 0, N, If(equals(k, N // 2), init), update(k))
    else:
        body = loop("k", affines(lows), N, loop("ki", 0, (Affine.of(inner), N - k), update(k + ki)), step=step)
    return LoopNest(program, (bx, bs), seq(init, body))


def all_variants() -> list[tuple[str, str | None, bool]]:
    """(nest, variant, is it correct) of every nest."""
    found: list[tuple[str, str | None, bool]] = []
    for name, n in NESTS.items():
        found += [(name, None, True)] + [(name, v, True) for v in n.legal] + [(name, v, False) for v in n.wrong]
    return found
