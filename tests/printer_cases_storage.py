"""More cases for the C printer: storage, outlining, threads: every operation, access and kind, for every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
from printer_cases import (
    Case,
    V,
    array,
    case,
    kinds,
    nest,
    put,
    values,
)
from tensordsl.schedules.loopnest import (
    Alloc,
    If,
    LoopNest,
    Outline,
    Prefetch,
    Stmt,
    loop,
    seq,
)  # fmt: skip
from tensordsl.schedules.lower import lower

import tensordsl as td
from tensordsl import expr
from tensordsl.expr import Index


@case
def transpose_in_registers() -> Case:
    """A read along the other dimension of a square group; stores between reads end the copy."""
    x, y, z = array("x", 3, 16, 32), array("y", 3, 32, 16), array("z", 3, 16)
    g = array("g", 16, 32, scope="register")
    t, r, l = V("t"), V("r"), V("l")
    body = seq(
        loop("r", 0, 16, loop("l", 0, 32, put(g, (r, l), x.at(t, r, l)), kind="vector"), kind="unroll"),
        loop("r", 0, 32, loop("l", 0, 16, put(y, (t, r, l), g.at(l, r)), kind="vector"), kind="unroll"),
        loop("l", 0, 32, put(g, (2, l), 7.0), kind="vector"),
        loop("l", 0, 16, put(z, (t, l), g.at(l, 3)), kind="vector"),
    )
    return nest([x], [y, z], loop("t", 0, 3, Alloc(g, body))), {"x": values("float32", 3, 16, 32)}


@case
def transpose_changed_in_a_loop() -> Case:
    """The transposed copy taken before a loop is stale in it."""
    y = array("y", 4, 16)
    g = array("g", 16, 16, scope="register")
    k, r, l = V("k"), V("r"), V("l")
    first = td.cast(Index(r * 3 + l), "float32")
    body = seq(
        loop("r", 0, 16, loop("l", 0, 16, put(g, (r, l), first), kind="vector"), kind="unroll"),
        loop("l", 0, 16, put(y, (3, l), g.at(l, 1)), kind="vector"),
        loop("k", 0, 3, loop("l", 0, 16, put(y, (k, l), g.at(l, 1)), kind="vector"),
             loop("r", 0, 16, loop("l", 0, 16, put(g, (r, l), 1.0, "add"), kind="vector"), kind="unroll")),
    )  # fmt: skip
    return nest([], [y], Alloc(g, body)), {}


@case
def odd_register_patterns() -> Case:
    """Strided, scalar and unaligned cells of register vectors."""
    x, y = array("x", 48), array("y", 5, 16)
    g, s = array("g", 48, scope="register"), array("s", 3, scope="register")
    l, u = V("l"), V("u")
    body = seq(
        loop("l", 0, 48, put(g, (l,), x.at(l)), kind="vector"),
        loop("u", 0, 3, put(s, (u,), g.at(u * 7 + 1)), kind="unroll"),
        loop("l", 0, 16, put(y, (0, l), g.at(l * 2 + 1)), kind="vector"),
        loop("l", 0, 16, put(y, (1, l), g.at(l * 3)), kind="vector"),
        loop("l", 0, 16, put(y, (2, l), g.at(20 - l) + s.at(2)), kind="vector"),
        loop("l", 0, 16, put(g, (l + 5,), x.at(l), "add"), kind="vector"),
        loop("l", 0, 16, put(y, (3, l), g.at(l + 5) * s.at(0)), kind="vector"),
        loop("l", 0, 16, put(y, (4, l), g.at(l // 4 + 5) + s.at(1)), kind="vector"),
    )
    return nest([x], [y], Alloc(g, Alloc(s, body))), {"x": values("float32", 48)}


@case
def masked_register_lanes_survive() -> Case:
    """What a mask leaves out of a register vector keeps its value where it is read."""
    x, y = array("x", 6, 16), array("y", 6, 16)
    g = array("g", 16, scope="register")
    i, l = V("i"), V("l")
    body = Alloc(g, seq(
        loop("l", 0, 16, put(g, (l,), 5.0), kind="vector"),
        loop("l", 0, 11, put(g, (l,), x.at(i, l)), kind="vector"),
        loop("l", 0, 16, If((i * 2 - l,), put(g, (l,), 1.0, "add")), kind="vector"),
        loop("l", 0, 16, put(y, (i, l), g.at(l)), kind="vector"),
    ))  # fmt: skip
    return nest([x], [y], loop("i", 0, 6, body)), {"x": values("float32", 6, 16)}


@case
def registers_with_run_time_indices() -> Case:
    """They become an array."""
    x, y = array("x", 24), array("y", 24)
    g = array("g", 24, scope="register")
    i, l = V("i"), V("l")
    body = seq(loop("l", 0, 24, put(g, (l,), x.at(l)), kind="vector"), loop("i", 0, 24, put(y, (i,), g.at(23 - i))))
    return nest([x], [y], Alloc(g, body)), {"x": values("float32", 24)}


# ---------------------------------------------------------------- loops and guards


@case
def triangular_vector_loop() -> Case:
    x, y = array("x", 40, 40), array("y", 40)
    i, j = V("i"), V("j")
    body = loop("i", 0, 40, put(y, (i,), 0.0), loop("j", 0, i + 1, put(y, (i,), x.at(i, j), "add"), kind="vector"))
    return nest([x], [y], body), {"x": values("float32", 40, 40)}


@case
def triangular_copy_from_below() -> Case:
    x, y = array("x", 30, 30), array("y", 30, 30)
    i, j = V("i"), V("j")
    body = loop(
        "i", 0, 30,
        loop("j", 0, 30, put(y, (i, j), -1.0)),
        loop("j", i, (i + 20, 30), put(y, (i, j), x.at(i, j) * 2.0), kind="vector"),
    )  # fmt: skip
    return nest([x], [y], body), {"x": values("float32", 30, 30)}


@case
def inner_bounds_depend_on_the_lane() -> Case:
    x, y = array("x", 20, 20), array("y", 20)
    i, j = V("i"), V("j")
    body = loop("i", 0, 20, put(y, (i,), 0.0), loop("j", 0, i + 1, put(y, (i,), x.at(i, j), "add")), kind="vector")
    return nest([x], [y], body), {"x": values("float32", 20, 20)}


@case
def lane_guards() -> Case:
    """Literal and run-time masks, both branches, nested, and strided conditions."""
    x, y = array("x", 9, 40), array("y", 9, 40)
    i, j = V("i"), V("j")
    body = seq(
        If((j - 3, 36 - j), put(y, (i, j), x.at(i, j)), put(y, (i, j), -2.0)),
        If((i * 5 - j,), put(y, (i, j), 10.0, "add"), If((j - 20,), put(y, (i, j), 100.0, "add"))),
        If((j * 2 - i * 7, i - 1), put(y, (i, j), 1000.0, "add")),
        If((40 - i * 3 - j * 3,), put(y, (i, j), 0.5, "add")),
        If((V("j") % 4 - 2,), put(y, (i, j), 0.25, "add")),
    )
    return nest([x], [y], loop("i", 0, 9, loop("j", 0, 40, body, kind="vector"))), {"x": values("float32", 9, 40)}


@case
def steps_and_bounds() -> Case:
    y = array("y", 50)
    i, j = V("i"), V("j")
    body = seq(
        loop("j", 0, 50, put(y, (j,), 0.0)),
        loop("i", 0, 50, loop("j", (i, 3), (i + 7, 47, 50), put(y, (j,), 1.0, "add")), step=7),
        loop("j", 1, 50, put(y, (j,), 10.0, "add"), kind="vector", step=2),
        loop("j", 2, 45, put(y, (j,), 100.0, "add"), kind="unroll", step=9),
    )
    return nest([], [y], body), {}


@case
def negative_quotients() -> Case:
    y = array("y", 40, t="int32")
    i = V("i")
    value = Index((i - 20) // 3 * 100 + (i - 20) % 7 + (i - 9) // 4 + (i - 20) % 8)
    return nest([], [y], loop("i", 0, 40, put(y, (i,), td.cast(value, "int32")))), {}


@case
def private_storage_of_lanes() -> Case:
    """A buffer allocated in the body of a vector loop is one of each lane."""
    x, y = array("x", 5, 21), array("y", 21)
    t, s = array("t", scope="register"), array("s", 4, scope="stack")
    i, j = V("i"), V("j")
    body = Alloc(t, Alloc(s, seq(
        put(t, (), 0.0), loop("i", 0, 5, put(t, (), x.at(i, j), "add")),
        loop("i", 0, 4, put(s, (i,), t.at() * x.at(i, j))), put(y, (j,), s.at(1) + s.at(3)),
    )))  # fmt: skip
    return nest([x], [y], loop("j", 0, 21, body, kind="vector")), {"x": values("float32", 5, 21)}


# ---------------------------------------------------------------- storage


@case
def folded_rows_with_pitch() -> Case:
    """A ring of three rows with a padded row."""
    x, y = array("x", 12, 20), array("y", 10, 20)
    ring = array("ring", 12, 20, scope="stack", fold=(3,), pitch=24)
    i, j = V("i"), V("j")
    rows = ring.at(i, j) + ring.at(i - 1, j) + ring.at(i - 2, j)
    body = loop(
        "i", 0, 12,
        loop("j", 0, 20, put(ring, (i, j), x.at(i, j) * 2.0), kind="vector"),
        If((i - 2,), loop("j", 0, 20, put(y, (i - 2, j), rows), kind="vector")),
    )  # fmt: skip
    return nest([x], [y], Alloc(ring, body)), {"x": values("float32", 12, 20)}


@case
def ping_pong_in_stack_rows() -> Case:
    """Two external arrays by the parity of time."""
    a, b, y = array("a", 18), array("b", 18), array("y", 18)
    x = array("X", 6, 18, fold=(2,), banks=("a", "b"))
    t, j = V("t"), V("j")
    body = seq(
        loop("j", 0, 18, put(x, (0, j), y.at(j)), kind="vector"),
        loop("t", 0, 5, put(x, (t + 1, 0), x.at(t, 0)), put(x, (t + 1, 17), x.at(t, 17)),
             loop("j", 1, 17, put(x, (t + 1, j), x.at(t, j - 1) + x.at(t, j + 1)), kind="vector")),
    )  # fmt: skip
    n = nest([y], [a, b], body)
    return LoopNest(n.program, (*n.parameters, x), n.body), {"y": values("float32", 18)}


@case
def workspace_stack_and_streams() -> Case:
    x, y = array("x", 8, 64), array("y", 8, 64)
    w, s = array("w", 8, 64, scope="workspace"), array("s", 64, scope="stack")
    w2 = array("w2", 3, 5, t="float64", scope="workspace")
    i, j = V("i"), V("j")
    body = seq(
        loop("i", 0, 8, loop("j", 0, 64, put(w, (i, j), x.at(i, j) + 1.0), kind="vector")),
        Alloc(w2, seq(
            loop("i", 0, 3, loop("j", 0, 5, put(w2, (i, j), td.cast(w.at(i, j), "float64")))),
            loop("i", 0, 3, loop("j", 0, 5, put(w, (i, j), td.cast(w2.at(i, j), "float32") * 3.0))),
        )),
        loop("i", 0, 8, Prefetch(x, (V("i") + 3, V(0))),
             Alloc(s, seq(loop("j", 0, 64, put(s, (j,), w.at(7 - i, j)), kind="vector"),
                          loop("j", 0, 64, put(y, (i, j), s.at(63 - j), nt=True), kind="vector")))),
    )  # fmt: skip
    return nest([x], [y], Alloc(w, body)), {"x": values("float32", 8, 64)}


@case
def parallel_rows_with_scratch() -> Case:
    """Each trip of a parallel loop has workspace of its own; inner parallel loops are serial."""
    x, s, y = array("x", 9, 40), array("s"), array("y", 9, 40)
    w = array("w", 40, scope="workspace")
    v = array("v", 40, scope="workspace")
    i, j = V("i"), V("j")
    row = Alloc(w, seq(
        loop("j", 0, 40, put(w, (j,), x.at(i, j) * s.at()), kind="vector"),
        Outline("reverse", loop("j", 0, 40, put(y, (i, 39 - j), w.at(j) + v.at(j)), kind="parallel")),
    ))  # fmt: skip
    body = Alloc(v, seq(
        loop("j", 0, 40, put(v, (j,), td.cast(Index(V("j")), "float32")), kind="parallel"),
        loop("i", 0, 9, row, kind="parallel"),
    ))  # fmt: skip
    return nest([x, s], [y], body), {"x": values("float32", 9, 40), "s": np.float32(3)}


@case
def parallel_inside_a_loop() -> Case:
    x, y = array("x", 6, 30), array("y", 6, 30)
    i, j = V("i"), V("j")
    body = loop("i", 0, 6, loop("j", i, (V("i") + 25, 30), put(y, (i, j), x.at(i, j) * 2.0), kind="parallel", step=1))
    first = loop("i", 0, 6, loop("j", 0, 30, put(y, (i, j), 0.0)))
    return nest([x], [y], seq(first, body)), {"x": values("float32", 6, 30)}


@case
def outlined_bodies_share_text() -> Case:
    x, y = array("x", 12, 32), array("y", 12, 32)
    r, j = V("r"), V("j")

    def part(i: Any) -> Stmt:
        row = V(i)
        return Outline(
            "part", loop("r", 0, 3, loop("j", 0, 32, put(y, (row + r, j), x.at(row + r, j) + 1.0), kind="vector"))
        )

    body = seq(part(0), loop("i", 3, 9, part("i"), step=3), part(9))
    return nest([x], [y], body), {"x": values("float32", 12, 32)}


@case
def outlined_with_outer_variables() -> Case:
    """Bounds, guards, values and folded addresses of an outlined body depend on loops around it."""
    x, y = array("x", 10, 20), array("y", 10, 20)
    ring = array("ring", 10, 20, scope="stack", fold=(2,))
    s = array("s")
    i, j = V("i"), V("j")
    inner = seq(
        loop("j", 0, 20, put(ring, (i, j), x.at(i, j)), kind="vector"),
        loop("j", 0, 20, put(y, (i, j), s.at() * 1.0)),
        loop("j", 0, i + 3, put(y, (i, j), ring.at(i, j) + td.cast(Index(i), "float32"))),
        If((i - 1,), loop("j", i, 20, put(y, (i, j), ring.at(i - 1, j), "add"), kind="vector")),
    )
    body = Alloc(ring, loop("i", 0, 10, Outline("row", inner)))
    return nest([x, s], [y], body), {"x": values("float32", 10, 20), "s": np.float32(2)}


# ---------------------------------------------------------------- reductions into one cell, mixed types


@case
def mixed_precision_sum() -> Case:
    x = td.placeholder((4, 41), name="x")
    r = td.reduce_axis(41, name="r")
    y = td.compute((4,), lambda i: td.sum(td.cast(x[i, r], "float64") * 2.0, axis=r), name="y")
    return kinds(lower(td.Program([x], [y])), r="vector"), {"x": values("float32", 4, 41)}


@case
def functions_of_half_a_register() -> Case:
    """exp2 of float32 beside float64: fewer lanes than the function is written for."""
    x = td.placeholder((3, 21), name="x")
    y = td.compute((3, 21), lambda i, j: td.cast(expr.unary("exp2", x[i, j]), "float64") * 3.0, name="y")
    return kinds(lower(td.Program([x], [y])), j="vector"), {"x": values("float32", 3, 21)}


@case
def mixed_precision_register_tile() -> Case:
    """float32 registers beside a float64 accumulator have the lanes of the wider type."""
    x, y = array("x", 5, 24), array("y", 24, t="float64")
    a, b = array("a", 24, scope="register"), array("b", 24, t="float64", scope="register")
    i, l = V("i"), V("l")
    body = Alloc(a, Alloc(b, seq(
        loop("l", 0, 24, put(b, (l,), 0.0), kind="vector"),
        loop("i", 0, 5, loop("l", 0, 24, put(a, (l,), x.at(i, l)), kind="vector"),
             loop("l", 0, 24, put(b, (l,), td.cast(a.at(l), "float64"), "add"), kind="vector")),
        loop("l", 0, 24, put(y, (l,), b.at(l)), kind="vector"),
    )))  # fmt: skip
    return nest([x], [y], body), {"x": values("float32", 5, 24)}


@case
def last_lane_stays() -> Case:
    """A cell without a lane holds what the last active iteration left."""
    x, y, z = array("x", 7, 20), array("y", 7), array("z", 7)
    i, j = V("i"), V("j")
    body = loop(
        "i", 0, 7, put(z, (i,), -1.0),
        loop("j", 0, 20, put(y, (i,), x.at(i, j)), If((i * 3 - j - 2,), put(z, (i,), x.at(i, j) + 1.0)), kind="vector"),
    )  # fmt: skip
    return nest([x], [y, z], body), {"x": values("float32", 7, 20)}


@case
def scalar_sums_in_a_vector_loop() -> Case:
    """A value without a lane is added once for every active lane."""
    s, y = array("s"), array("y", 2)
    j = V("j")
    some = If((17 - j,), put(y, (1,), 2.0, "add"))
    body = seq(
        put(y, (0,), 0.0), put(y, (1,), 0.0), loop("j", 0, 21, put(y, (0,), s.at(), "add"), some, kind="vector")
    )  # fmt: skip
    return nest([s], [y], body), {"s": np.float32(3)}


@case
def one_name_for_several_buffers() -> Case:
    """Allocations of one name with other types, shapes and scopes, one after the other."""
    x, y, z = array("x", 6, 20), array("y", 6, 20), array("z", 6, 20, t="float64")
    a, b = array("t", 20, scope="register"), array("t", 3, 20, scope="stack", pitch=32, t="float64")
    c, d = array("t", 20, scope="workspace"), array("t", 24, scope="register")
    i, j = V("i"), V("j")
    at = (V(1), j)
    body = seq(
        Alloc(a, seq(
            loop("j", 0, 20, put(a, (j,), x.at(i, j) * 2.0), kind="vector"),
            loop("j", 0, 20, put(y, (i, j), a.at(j)), kind="vector"),
        )),
        Alloc(b, Outline("double", seq(
            loop("j", 0, 20, put(b, at, td.cast(x.at(i, j), "float64")), kind="vector"),
            loop("j", 0, 20, put(z, (i, j), b.at(*at) + 1.0), kind="vector"),
        ))),
        Alloc(c, seq(
            loop("j", 0, 20, put(c, (j,), x.at(i, 19 - j)), kind="vector"),
            loop("j", 0, 20, put(y, (i, j), c.at(j), "add")),
        )),
        Alloc(d, seq(
            loop("j", 0, 20, put(d, (j,), x.at(i, j)), kind="vector"),
            loop("j", 0, 20, put(y, (i, j), d.at(19 - j), "add")),
        )),
    )  # fmt: skip
    return nest([x], [y, z], loop("i", 0, 6, body)), {"x": values("float32", 6, 20)}


@case
def needless_bounds_that_are_the_static_ones() -> Case:
    """Two registers' worth of columns, of which the last few are copied: 16 lanes by bounds that a guard makes needless."""
    x, y = array("x", 9, 24), array("y", 9)
    r = array("r", 16, scope="register")
    i, k, l = V("i"), V("k"), V("l")
    body = Alloc(r, seq(
        loop("l", (0, 12 - i), 16, put(r, (l,), x.at(i, i + l)), kind="vector"),
        loop("k", (0, 13 - i), 1, put(r, (k,), 0.0)),
        put(y, (i,), r.at(15) + r.at(14)),
    ))  # fmt: skip
    return nest([x], [y], loop("i", 0, 9, body)), {"x": values("float32", 9, 24)}
