"""Every primitive: what its docstring says, a legal use, each way to refuse it, and its trace."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import PRIMITIVES, Schedule, load_primitives
from tensordsl.schedules.trace import Hole, Step, Trace

import tensordsl as td
from tests.random_programs import small_integers

load_primitives()
NAMES = sorted(PRIMITIVES)
S = Any  # a Schedule; its primitives are looked up by name


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


ALL = (chain, rows, scan, spread, fields, steady, counts, known, window)
PROGRAMS: dict[str, Callable[[], td.Program]] = {f.__name__: f for f in ALL}


def shared(s: S) -> S:
    return s.split("c", "k", 3).reorder("c", "i", "k.o", "j", "k.i").cache_read("c", "w", "k.o", scope="shared")


#: primitive -> (program, a schedule that ends with it)
LEGAL: dict[str, list[tuple[str, Callable[[S], S]]]] = {
    "split": [
        ("chain", lambda s: s.split("c", "j", 4)),
        ("chain", lambda s: s.split("c", "j", factors=[None, 2, 3])),
        ("chain", lambda s: s.split("c", "j", most=4)),
        ("chain", lambda s: s.split("c", "j", 4, names=("jo", "ji"))),
        ("chain", lambda s: s.split("c", "j", np.int64(4))),
        ("chain", lambda s: s.split(stage="c", loop="j", factor=4)),
    ],
    "tile": [("chain", lambda s: s.tile("c", ["i", "j"], [4, 3]))],
    "fuse": [("chain", lambda s: s.fuse("y", "i", "j")), ("chain", lambda s: s.fuse("y", "i", "j", name="ij"))],
    "reorder": [("chain", lambda s: s.reorder("c", "k", "j", "i")), ("chain", lambda s: s.reorder("y", "j", "i"))],
    "skew": [("scan", lambda s: s.skew("s", "i", "t")), ("scan", lambda s: s.skew("s", "i", "t", -2))],
    "peel": [
        ("chain", lambda s: s.peel("c", "i", "first")),
        ("chain", lambda s: s.peel("c", "i")),
        ("chain", lambda s: s.split("c", "j", 4).peel("c", "j.o", "tail")),
    ],
    "separate": [("chain", lambda s: s.split("c", "j", 4).separate("c", "j.i", suffix="full"))],
    "specialize": [("chain", lambda s: s.split("c", "j", 4).specialize("c", "j.i", "j.o <= 1"))],
    "scatter": [
        ("counts", lambda s: s.scatter("h", "i")),
        ("counts", lambda s: s.scatter("h", "i").vectorize("h", "j", 4)),
    ],
    "partition": [
        ("chain", lambda s: s.partition("c", "j", "4")),
        ("chain", lambda s: s.partition("c", "j", "i + 2", suffix="late")),
        ("scan", lambda s: s.partition("s", "t", "1")),
    ],
    "scan": [("scan", lambda s: s.scan("s", 2)), ("scan", lambda s: s.scan("s", 4).unroll("s_v1", "i"))],
    "online": [("spread", lambda s: s.online("q", 4)), ("spread", lambda s: s.online("q", 3, axis="k"))],
    "fold_constants": [("known", lambda s: s.fold_constants())],
    "winograd": [("window", lambda s: s.winograd("y", 2))],
    "relayout": [
        ("chain", lambda s: s.relayout("c", "w", [1, 0])),
        ("known", lambda s: s.fold_constants().relayout("y", "twice", (1, 0), name="turned").fold_constants()),
    ],
    "store_at": [("rows", lambda s: s.jam("v", "d", "i").store_at("v", "i"))],
    "distribute": [("chain", lambda s: s.compute_at("h", "c", "i").distribute("c", "j"))],
    "decompose_reduction": [("chain", lambda s: s.split("c", "k", 4).reorder("c", "k.o", "i", "j", "k.i").decompose_reduction("c", "k.o"))],
    "unroll": [("chain", lambda s: s.unroll("c", "k"))],
    "vectorize": [
        ("chain", lambda s: s.vectorize("y", "j")),
        ("chain", lambda s: s.vectorize("y", "j", 4)),
        ("chain", lambda s: s.vectorize("c", "k")),  # a horizontal sum
    ],
    "parallel": [("chain", lambda s: s.parallel("c", "i"))],
    "bind": [("chain", lambda s: s.bind("c", "i", "block").bind("c", "j", "thread.x"))],
    "compute_at": [("chain", lambda s: s.compute_at("h", "c", "i"))],
    "reverse_compute_at": [("chain", lambda s: s.reverse_compute_at("y", "c", "i"))],
    "jam": [("chain", lambda s: s.jam("c", "y", "i"))],
    "interleave": [
        ("fields", lambda s: s.interleave("e", "t", (0, 1))),
        ("fields", lambda s: s.unchecked().interleave("e", "t", (0, 1)).skew("e", "i", "t").reorder("e", "i", "t")),
        ("fields", lambda s: s.split("e", "i", 2).split("h", "i", 2).interleave("h", "t", [1, 2])),
    ],
    "project": [
        ("steady", lambda s: s.project("c", "t")),
        ("steady", lambda s: s.project("c", "i").project("c", "t").fold("y", 0, 1)),
    ],
    "shear": [
        ("fields", lambda s: s.shear("e", 1, 0, 2).shear("h", 1, 0, 1)),
        ("scan", lambda s: s.shear("s", 1, 0, 1).fold("s", 0, 1)),
    ],
    "permute": [
        ("chain", lambda s: s.permute("c", (1, 0)).cache_read("y", "c", "i", scope="stack")),
        ("fields", lambda s: s.fold("e", 0, 2).permute("e", (2, 0, 1))),
    ],
    "cache_read": [
        ("chain", lambda s: s.reorder("c", "i", "k", "j").cache_read("c", "w", "k")),
        ("chain", lambda s: s.cache_read("c", "w", "i", scope="stack", pad=3, align=4, name="panel")),
    ],
    "cache_write": [("chain", lambda s: s.split("c", "k", 4).reorder("c", "i", "k.o", "j", "k.i").cache_write("c", "k.o"))],
    "pack": [("chain", lambda s: s.reorder("c", "i", "k", "j").cache_read("c", "w", "k").pack("w_r", "w"))],
    "slide": [("rows", lambda s: s.compute_at("h", "v", "i").slide("h", "i"))],
    "compute_inline": [("chain", lambda s: s.compute_inline("h"))],
    "rfactor": [("chain", lambda s: s.rfactor("c", "k", 4))],
    "pad": [
        ("chain", lambda s: s.pad("c", "k", 4)),
        ("chain", lambda s: s.pad("h", "j", 8)),
        ("chain", lambda s: s.pad("c", "j", 8)),
        ("chain", lambda s: s.pad("c", "k", 3)),  # it is a multiple already
    ],
    "reciprocal": [("rows", lambda s: s.reciprocal("d"))],
    "set_scope": [("chain", lambda s: s.compute_at("h", "c", "i").set_scope("h", "register"))],
    "storage_align": [("chain", lambda s: s.storage_align("h", 17))],
    "fold": [("scan", lambda s: s.fold("s", 0, 2))],
    "outline": [("chain", lambda s: s.outline("c", "i"))],
    "prefetch": [
        ("chain", lambda s: s.prefetch("c", "w", "k")),
        ("chain", lambda s: s.prefetch("c", "w", "k", ahead=2, locality=1, along="i", spread="j", width=4)),
    ],
    "store_nt": [("chain", lambda s: s.store_nt("y"))],
    "annotate": [("chain", lambda s: s.annotate("c", "i", 'it says "here\\there"'))],
    "pipeline": [("chain", lambda s: shared(s).pipeline("c", "k.o", 2))],
}  # fmt: skip

#: primitive -> (program, a refused use, part of the text)
REFUSED: dict[str, list[tuple[str, Callable[[S], S], str]]] = {
    "split": [
        ("chain", lambda s: s.split("c", "q", 4), 'c has no loop "q"'),
        ("chain", lambda s: s.split("q", "i", 4), "there is no stage 'q'"),
        ("chain", lambda s: s.split("c", "j", 0), "factor=0 is not a positive integer"),
        ("chain", lambda s: s.split("c", "j", "4"), "factor='4' is not an integer or None"),
        ("chain", lambda s: s.split("c", "j", True), "factor=True is not an integer or None"),
        ("chain", lambda s: s.split("c", "j"), "give exactly one of factor=, factors=, most="),
        ("chain", lambda s: s.split("c", "j", factors=[2]), "at least two"),
        ("chain", lambda s: s.split("c", "j", factors=[2, 3]), "the product 6"),
        ("chain", lambda s: s.split("c", "j", 4, names=("a",)), "2 names are needed"),
        ("chain", lambda s: s.split("c", "j", 4, names=("a", "a")), "two loops would be named 'a'"),
        ("chain", lambda s: s.split("c", "j", 4, names=("k", "a")), 'a loop "k" stands around or inside "j" already'),
        ("chain", lambda s: s.split("c", "j", 4, names=("a b", "c")), "names='a b' is no name"),
        ("chain", lambda s: s.split("c", "j", 4, name="a"), "unexpected keyword argument"),
        ("chain", lambda s: s.split("c", "j", most=0), "most=0 is not a positive integer"),
        ("chain", lambda s: s.split("c", "i", Hole("mr")), "factor=<mr> is not an integer or None"),
    ],
    "tile": [
        ("chain", lambda s: s.tile("c", ["i", "j"], [4]), "2 loops and 1 factors"),
        ("chain", lambda s: s.tile("c", "ij", [4, 4]), "loops='ij' is not a list, each a text"),
        ("chain", lambda s: s.tile("c", ["i", "q"], [4, 3]), 'no loop "q"'),
    ],
    "fuse": [
        ("chain", lambda s: s.fuse("c", "i", "k"), "not directly inside"),
        ("chain", lambda s: s.fuse("c", "j", "k"), "not directly inside"),
        ("chain", lambda s: s.split("y", "j", 4).fuse("y", "j.o", "j.i"), "no constant number of iterations"),
        ("chain", lambda s: s.split("y", "i", 2).fuse("y", "i.i", "j", name="i.o"), 'a loop "i.o" stands around'),
    ],
    "reorder": [
        ("chain", lambda s: s.reorder("c", "i"), "at least two different loops"),
        ("chain", lambda s: s.reorder("c", "i", "i"), "at least two different loops"),
        ("chain", lambda s: s.reorder("c", "i", "q"), 'no loop "q"'),
        ("chain", lambda s: s.compute_at("c", "y", "i").reorder("c", "j", "c.j"), "name one loop twice"),
        ("chain", lambda s: s.reorder("c", "i", 3), "loops=('i', 3) is not a list, each a text"),
        ("scan", lambda s: s.skew("s", "i", "t", 2).reorder("s", "i", "t"), "with factor 2"),
    ],
    "skew": [("scan", lambda s: s.skew("s", "t", "i"), '"i" is not a loop around "t"')],
    "peel": [
        ("chain", lambda s: s.peel("c", "i", "middle"), "which='middle'"),
        ("chain", lambda s: s.split("c", "j", 4).peel("c", "j.i"), "several bounds"),
    ],
    "separate": [
        ("scan", lambda s: s.specialize("s", "i", "t >= 2").separate("s", "q"), 'no loop "q"'),
        ("chain", lambda s: s.split("c", "j", 4).separate("c", "j.i", suffix="a b"), "is no name"),
    ],
    "specialize": [
        ("chain", lambda s: s.specialize("c", "j"), "at least one condition"),
        ("chain", lambda s: s.specialize("c", "j", "k >= 1"), "uses 'k', which is no loop around"),
        ("chain", lambda s: s.specialize("c", "j", "i ! 1"), "cannot read"),
        ("chain", lambda s: s.specialize("c", "j", "i + >= 1"), "ends too early"),
        ("chain", lambda s: s.specialize("c", "j", "i + 1"), "needs one of"),
    ],
    "scatter": [
        ("counts", lambda s: s.scatter("h", "j"), 'no condition of h says what "j" equals'),
        ("counts", lambda s: s.scatter("g", "n"), 'no condition of g says what "n" equals'),
        ("chain", lambda s: s.scatter("c", "i"), "no axis of it"),
        ("counts", lambda s: s.reorder("h", "j", "i").scatter("h", "i"), "are already ordered"),
    ],
    "partition": [
        ("chain", lambda s: s.partition("c", "j", "k"), "uses 'k', which is no loop around"),
        ("chain", lambda s: s.partition("c", "j", "i ! 1"), "cannot read"),
        ("chain", lambda s: s.vectorize("y", "j").partition("y", "j", "4"), 'loop "j" is vector'),
    ],
    "scan": [
        ("scan", lambda s: s.scan("s", 3), "block=3 is not one of 2, 4, 8"),
        ("scan", lambda s: s.scan("z", 4), "z is not a recurrence along one axis"),
        ("scan", lambda s: s.split("s", "i", 2).scan("s", 4), "are already ordered"),
    ],
    "online": [
        ("chain", lambda s: s.online("h", 4), "h is not a reduction over one axis"),
        ("spread", lambda s: s.online("q", 0), "tile=0 is not a positive integer"),
        ("spread", lambda s: s.split("q", "i", 2).online("q", 4), "already arranged"),
    ],
    "winograd": [
        ("window", lambda s: s.winograd("y", 3), "m=3 results at a time"),
        ("window", lambda s: s.split("y", "i", 2).winograd("y", 2), "already arranged"),
        ("chain", lambda s: s.winograd("c", 2), "c is not a correlation with 3 taps"),
        ("chain", lambda s: s.winograd("h", 2), "h is not a sum of floats"),
    ],
    "fold_constants": [
        ("chain", lambda s: s.fold_constants(), "no definition follows from constants alone"),
        ("known", lambda s: s.split("y", "i", 2).fold_constants(), "already arranged"),
    ],
    "relayout": [
        ("chain", lambda s: s.relayout("c", "b", [0]), "c reads no 'b'"),
        ("chain", lambda s: s.relayout("c", "w", [0, 2]), "not an order of the dimensions of w"),
        ("chain", lambda s: s.relayout("c", "w", [1, 0], name="h"), "the name 'h' is taken"),
        ("chain", lambda s: s.split("c", "i", 2).relayout("c", "w", [1, 0]), "already ordered"),
        ("scan", lambda s: s.relayout("s", "x", [1, 0]), "belongs to a recurrence"),
    ],
    "store_at": [
        ("rows", lambda s: s.store_at("v", "q"), 'outside a loop "q"'),
        ("rows", lambda s: s.store_at("x", "i"), "the caller's memory"),
    ],
    "distribute": [("scan", lambda s: s.compute_at("s", "z", "i").distribute("z", "q"), 'no loop "q"')],
    "decompose_reduction": [("chain", lambda s: s.decompose_reduction("c", "k"), 'starts outside "k"')],
    "unroll": [("chain", lambda s: s.unroll("c", None), "loop=None is not a text")],
    "vectorize": [
        ("chain", lambda s: s.vectorize("y", "j", 0), "lanes=0 is not a positive integer"),
        ("scan", lambda s: s.vectorize("s", "t"), "share s"),
    ],
    "parallel": [
        ("scan", lambda s: s.parallel("s", "t"), "iterations of the parallel loop t share s"),
        ("chain", lambda s: s.parallel("c", "k"), "iterations of the parallel loop k share c"),
        ("counts", lambda s: s.scatter("h", "i").parallel("h", "k"), "iterations of the parallel loop k share h"),
    ],
    "bind": [
        ("chain", lambda s: s.bind("c", "i", "core"), "to='core'"),
        ("chain", lambda s: s.bind("c", "k", "thread"), "share c"),
    ],
    "compute_at": [
        ("chain", lambda s: s.compute_at("h", "y", "i"), "nothing in loop|reads h outside"),
        ("chain", lambda s: s.compute_at("q", "c", "i"), "there is no definition 'q'"),
        ("chain", lambda s: s.split("h", "i", 2).compute_at("h", "c", "i"), 'ordered by split("h", "i", 2)'),
        ("chain", lambda s: s.split(stage="h", loop="i", factor=2).compute_at("h", "c", "i"), "ordered by split"),
        ("chain", lambda s: s.vectorize("h", "j").compute_at("h", "c", "i"), 'ordered by vectorize("h", "j")'),
        ("rows", lambda s: s.compute_at("v", "d", "i").compute_at("h", "d", "j"), "no loop|outside|box|reads"),
    ],
    "reverse_compute_at": [
        ("chain", lambda s: s.reverse_compute_at("c", "h", "i"), "c is a reduction"),
        ("chain", lambda s: s.reverse_compute_at("y", "h", "i"), "y does not read h"),
        ("rows", lambda s: s.reverse_compute_at("v", "h", "i"), "does not hold"),
    ],
    "jam": [
        ("chain", lambda s: s.jam("h", "c", "j"), "different bounds|not in one sequence"),
        ("chain", lambda s: s.compute_at("h", "c", "i").jam("h", "c", "i"), "share the loop"),
        ("rows", lambda s: s.jam("h", "v", "i"), "different bounds"),
    ],
    "interleave": [
        ("fields", lambda s: s.interleave("e", "t", (0, 0)), "does not hold|holds no element|needs element"),
        ("fields", lambda s: s.interleave("e", "t", (0, 1, 1)), '3 delays for the 2 loops in "t"'),
        ("scan", lambda s: s.interleave("s", "i", (0,)), "does not consist of loops"),
    ],
    "project": [
        ("steady", lambda s: s.project("c", "j"), "may change along j"),
        ("steady", lambda s: s.project("c", "k"), "has no axis 'k'"),
        ("steady", lambda s: s.project("y", "t"), "may change along t"),
        ("steady", lambda s: s.project("z", "i"), "its shape is the caller's"),
        ("steady", lambda s: s.split("y", "j", 2).project("c", "t"), "already ordered"),
    ],
    "shear": [
        ("scan", lambda s: s.shear("s", 1, 1, 1), "two different ones of s's 2"),
        ("scan", lambda s: s.shear("s", 1, 0, 0), "factor=0 is not a positive integer"),
        ("scan", lambda s: s.fold("s", 0, 1).shear("s", 1, 0, 1), "folded or padded already"),
        ("scan", lambda s: s.shear("x", 1, 0, 1), "the caller's memory"),
    ],
    "permute": [
        ("chain", lambda s: s.permute("q", (1, 0)), "there is no buffer 'q'"),
        ("chain", lambda s: s.permute("y", (1, 0)), "the caller's memory"),
        ("chain", lambda s: s.permute("c", (0, 0)), "does not name each of c's 2 dimensions once"),
        ("chain", lambda s: s.storage_align("c", 16).permute("c", (1, 0)), "padded already"),
    ],
    "cache_read": [
        ("chain", lambda s: s.cache_read("c", "q", "i"), "there is no buffer 'q'"),
        ("chain", lambda s: s.cache_read("c", "w", "q"), 'no loop "q"'),
        ("chain", lambda s: s.cache_read("c", "w", "i", scope="heap"), "scope='heap'"),
        ("chain", lambda s: s.cache_read("c", "w", "i", name="x"), "the name 'x' is taken"),
        ("chain", lambda s: s.cache_read("c", "w", "i", name="a b"), "name='a b' is no name"),
        ("chain", lambda s: s.cache_read("c", "w", "i", pad=-1), "pad=-1 is less than 0"),
        ("chain", lambda s: s.cache_read("c", "w", "i", align=0), "align=0 is not a positive integer"),
        ("chain", lambda s: s.fuse("y", "i", "j").cache_read("y", "c", "i.j").cache_read("y", "x", "i.j", name=3), "name=3"),
    ],
    "cache_write": [
        ("chain", lambda s: s.cache_write("q", "i"), "there is no stage 'q'"),
        ("chain", lambda s: s.cache_write("c", "i", pad=-2), "pad=-2 is less than 0"),
        ("chain", lambda s: s.split("c", "k", 4).split("c", "k.i", 2).reorder("c", "k.o", "k.i.o", "i", "j", "k.i.i")
            .cache_write("c", "j"), "reduction loops"),
    ],
    "pack": [
        ("chain", lambda s: s.pack("c", "w"), "c is no copy of w"),
        ("chain", lambda s: s.reorder("c", "i", "k", "j").cache_read("c", "h", "k").pack("h_r", "h"), "nothing is read twice"),
    ],
    "slide": [
        ("rows", lambda s: s.compute_at("h", "v", "i").slide("h", "q"), 'no loop "q"'),
        ("rows", lambda s: s.slide("h", "i"), "no buffer h is filled inside"),
        ("chain", lambda s: s.compute_at("h", "c", "i").slide("h", "i"), "do not overlap"),
    ],
    "compute_inline": [
        ("counts", lambda s: s.compute_inline("g_index"), "elements of g_index are used as indices"),
        ("chain", lambda s: s.compute_inline("c"), "c is a reduction"),
        ("chain", lambda s: s.compute_inline("y"), "y is an output"),
        ("scan", lambda s: s.compute_inline("s"), "s is a recurrence"),
        ("chain", lambda s: s.compute_at("h", "c", "i").compute_inline("h"), "has been moved already"),
    ],
    "rfactor": [
        ("chain", lambda s: s.rfactor("h", "j", 4), "h is not a reduction"),
        ("chain", lambda s: s.rfactor("c", "j", 4), "c does not reduce over 'j'"),
        ("chain", lambda s: s.rfactor("c", "k", 0), "factor=0 is not a positive integer"),
        ("chain", lambda s: s.rfactor("c", "k", 4, name="x"), "the name 'x' is taken"),
        ("chain", lambda s: s.split("c", "k", 4).rfactor("c", "k", 4), "already ordered"),
    ],
    "pad": [
        ("chain", lambda s: s.pad("c", "q", 4), "c has no axis 'q'"),
        ("chain", lambda s: s.pad("c", "k", 0), "multiple=0 is not a positive integer"),
        ("chain", lambda s: s.pad("y", "j", 8), "y is an output"),
        ("scan", lambda s: s.pad("s", "i", 4), "s belongs to a recurrence"),
        ("chain", lambda s: s.split("c", "k", 4).pad("c", "k", 4), "already ordered"),
        ("chain", lambda s: s.storage_align("h", 17).pad("h", "j", 8), "has been moved already"),
    ],
    "reciprocal": [("chain", lambda s: s.reciprocal("y"), "divides by nothing")],
    "set_scope": [
        ("chain", lambda s: s.set_scope("x", "stack"), "x is the caller's memory"),
        ("chain", lambda s: s.set_scope("q", "stack"), "there is no buffer 'q'"),
        ("chain", lambda s: s.set_scope("h", "heap"), "scope='heap'"),
    ],
    "storage_align": [
        ("chain", lambda s: s.storage_align("h", 8), "pitch=8 is less than the 9 elements of a row"),
        ("chain", lambda s: s.storage_align("x", 32), "x is the caller's memory"),
        # peeled tiles have buffers of one name and different sizes
        ("chain", lambda s: s.split("c", "j", most=4).cache_read("c", "w", "j.o", scope="stack").storage_align("w_s", 3),
            "pitch=3 is less than the 4 elements of a row"),
    ],
    "fold": [
        ("rows", lambda s: s.fold("h", 0, 1), "does not hold the h it needs"),
        ("scan", lambda s: s.fold("s", 2, 2), "s has 2 dimensions"),
        ("scan", lambda s: s.fold("s", 0, 0), "modulus=0 is not a positive integer"),
    ],
    "outline": [("chain", lambda s: s.outline("c", "q"), 'no loop "q"')],
    "prefetch": [
        ("chain", lambda s: s.prefetch("c", "b", "k"), "c reads no b inside"),
        ("chain", lambda s: s.compute_at("h", "c", "i").prefetch("c", "h", "i"), 'h lives inside "i" only'),
        ("chain", lambda s: s.prefetch("c", "w", "k", along="q"), 'there is no loop "q" around'),
        ("chain", lambda s: s.prefetch("c", "w", "k", locality=7), "locality=7"),
        ("chain", lambda s: s.prefetch("c", "w", "k", spread="i", width=0), "width=0 is not a positive integer"),
    ],
    "store_nt": [
        ("chain", lambda s: s.store_nt("q"), "there is no stage 'q'"),
        ("chain", lambda s: s.store_nt("c"), "c accumulates"),
    ],
    "annotate": [("chain", lambda s: s.annotate("c", "i", 3), "note=3 is not a text")],
    "pipeline": [
        ("chain", lambda s: s.pipeline("c", "k", 1), "stages=1"),
        ("chain", lambda s: s.pipeline("c", "k"), "no shared buffer is filled"),
        ("chain", lambda s: shared(s).pipeline("c", "k.o", 9), "3 iterations, less than 9 stages"),
    ],
}  # fmt: skip


def test_the_tables_are_complete() -> None:
    assert sorted(LEGAL) == sorted(REFUSED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_docstring(name: str) -> None:
    """One sentence, what it requires, its rewrite, what it raises."""
    doc = inspect.cleandoc(PRIMITIVES[name].__doc__ or "")
    first = doc.split("\n\n")[0]
    assert first.endswith(".") and first.count(". ") == 0
    assert [doc.find(f"\n{word}: ") > 0 for word in ("Requires", "Rewrite", "Raises")] == [True] * 3
    assert doc.index("\nRequires: ") < doc.index("\nRewrite: ") < doc.index("\nRaises: ")


@pytest.mark.parametrize(("name", "n"), [(name, n) for name in NAMES for n in range(len(LEGAL[name]))])
def test_legal(name: str, n: int) -> None:
    """Proven, right when run, and repeated by its trace."""
    program_name, build = LEGAL[name][n]
    program = PROGRAMS[program_name]()
    s = build(td.Schedule(program))
    assert any(step.name == name for step in s.trace)
    assert find_violation(s.nest) is None
    inputs = small_integers(program, 1)
    wanted = td.interpret(program, inputs)
    for lockstep in (False, True):
        found = interpret(s.nest, inputs, lockstep=lockstep, lanes=4)
        for out, array in wanted.items():
            np.testing.assert_allclose(found[out], array, rtol=1e-12)
    through_json = Schedule.replay(program, Trace.from_json(json.loads(json.dumps(s.trace.to_json()))), checked=True)
    assert str(through_json) == str(s)
    scope = {"s": td.Schedule(program)}
    exec(s.trace.to_python(), scope)
    assert str(scope["s"]) == str(s)


@pytest.mark.parametrize(("name", "n"), [(name, n) for name in NAMES for n in range(len(REFUSED[name]))])
def test_refused(name: str, n: int) -> None:
    program_name, build, text = REFUSED[name][n]
    with pytest.raises(td.ScheduleError, match="|".join(map(_escaped, text.split("|")))) as caught:
        build(td.Schedule(PROGRAMS[program_name]()))
    assert caught.value.message.startswith(f"{name}(")


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() or c in " _=" else f"\\{c}" for c in text)


def test_a_trace_with_holes() -> None:
    """A sketch: filled, through JSON, and as Python where the holes are variables."""
    trace = Trace((Step("split", ("c", "j", Hole("c.nr"))), Step("tile", ("y", ("i", "j"), (Hole("rows"), 5)))))
    assert trace.holes() == ("c.nr", "rows")
    assert str(trace) == 'split("c", "j", <c.nr>)\ntile("y", ("i", "j"), (<rows>, 5))'
    assert Trace.from_json(json.loads(json.dumps(trace.to_json()))) == trace
    with pytest.raises(td.ScheduleError, match="no value for hole 'rows'"):
        trace.fill({"c.nr": 4})
    with pytest.raises(td.ScheduleError, match=r"unfilled holes c\.nr, rows"):
        Schedule.replay(chain(), trace)
    filled = Schedule.replay(chain(), trace.fill({"c.nr": 4, "rows": 2}), checked=True)
    scope = {"s": td.Schedule(chain()), "c_nr": 4, "rows": 2}
    exec(trace.to_python(), scope)
    assert str(scope["s"]) == str(filled)


@pytest.mark.parametrize(
    "data", [3, [3], [["split"]], [["split", 3, {}]], [["split", [{"q": 1}], {}]], [[3, [], {}]]], ids=str
)
def test_no_trace(data: object) -> None:
    with pytest.raises(td.ScheduleError):
        Trace.from_json(data)


@pytest.mark.parametrize(
    "step", [["erase", [], {}], ["split", [], {}], ["split", ["c", 3, 4], {}], ["__init__", [], {}], ["split", [None] * 9, {}]],
    ids=str,
)  # fmt: skip
def test_a_trace_of_wrong_steps(step: list[Any]) -> None:
    with pytest.raises(td.ScheduleError):
        Schedule.replay(chain(), Trace.from_json([step]))
