"""Stencils and time loops, each from its formula: one to three dimensions, borders, coupled fields, integers.

Time is one more axis of a recurrence; nothing here says in which order the grid is walked or how many
steps are stored.  Where a grid is larger than the caches, the default schedule computes several steps
for a part of it at a time (docs/scheduling.md, "Time loops").
"""

from __future__ import annotations

from collections.abc import Callable

from polybench import adi, fdtd_2d, heat_3d, jacobi_1d, jacobi_2d, seidel_2d

import tensordsl as td


def life(steps: int, n: int) -> td.Program:
    """Conway's game of life on n x n cells; those outside are dead"""
    start = td.placeholder((n, n), name="start", dtype="int32")

    def alive(x: td.Tensor, t: td.Expr, i: td.Expr, j: td.Expr) -> td.Expr:
        around = [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]

        def cell(p: td.Expr, q: td.Expr) -> td.Expr:
            return td.select((p >= 0) & (p < n) & (q >= 0) & (q < n), x[t - 1, p, q], 0)

        count = sum((cell(p, q) for p, q in around[1:]), cell(*around[0]))
        born = td.select(count == 3, 1, td.select(count == 2, x[t - 1, i, j], 0))
        return td.select(t > 0, born, start[i, j])

    x = td.recurrence((steps + 1, n, n), alive, name="x", order="t", dtype="int32")
    out = td.compute((n, n), lambda i, j: x[steps, i, j], name="out")
    return td.Program([start], [out], "life")


def wave_2d(steps: int, n: int, c: float = 0.3) -> td.Program:
    """The wave equation with a fixed border, at rest at first: second order in time, three slices of it in use"""
    start = td.placeholder((n, n), name="start", dtype="float64")

    def wave(u: td.Tensor, t: td.Expr, i: td.Expr, j: td.Expr) -> td.Expr:
        here = u[t - 1, i, j]
        around = u[t - 1, i - 1, j] + u[t - 1, i + 1, j] + u[t - 1, i, j - 1] + u[t - 1, i, j + 1]
        new = 2.0 * here - u[t - 2, i, j] + c * (around - 4.0 * here)
        inside = (i > 0) & (i < n - 1) & (j > 0) & (j < n - 1)
        return td.select(t > 1, td.select(inside, new, here), start[i, j])

    u = td.recurrence((steps + 2, n, n), wave, name="u", order="t", dtype="float64")
    out = td.compute((n, n), lambda i, j: u[steps + 1, i, j], name="out")
    return td.Program([start], [out], "wave_2d")


def reaction_2d(steps: int, n: int) -> td.Program:
    """Gray and Scott's reaction of two substances that diffuse: coupled fields that read each other's last step"""
    u0, v0 = td.placeholder((n, n), name="u0"), td.placeholder((n, n), name="v0")

    def field(which: int, rate: float, react: Callable[[td.Expr, td.Expr], td.Expr]) -> Callable[..., td.Expr]:
        def new(u: td.Tensor, v: td.Tensor, t: td.Expr, i: td.Expr, j: td.Expr) -> td.Expr:
            x, first = ((u, u0), (v, v0))[which]
            here = x[t - 1, i, j]
            around = x[t - 1, i - 1, j] + x[t - 1, i + 1, j] + x[t - 1, i, j - 1] + x[t - 1, i, j + 1]
            changed = here + rate * (around - 4.0 * here) + react(u[t - 1, i, j], v[t - 1, i, j])
            inside = (i > 0) & (i < n - 1) & (j > 0) & (j < n - 1)
            return td.select(t > 0, td.select(inside, changed, here), first[i, j])

        return new

    def eaten(u: td.Expr, v: td.Expr) -> td.Expr:
        return 0.04 * (1.0 - u) - u * v * v

    def grown(u: td.Expr, v: td.Expr) -> td.Expr:
        return u * v * v - 0.1 * v

    shape = (steps + 1, n, n)
    u, v = td.recurrences([shape] * 2, [field(0, 0.16, eaten), field(1, 0.08, grown)], ["u", "v"], order="t")
    u_out = td.compute((n, n), lambda i, j: u[steps, i, j], name="u_out")
    v_out = td.compute((n, n), lambda i, j: v[steps, i, j], name="v_out")
    return td.Program([u0, v0], [u_out, v_out], "reaction_2d")


#: The stencils by name.
STENCILS: dict[str, Callable[..., td.Program]] = {
    f.__name__: f for f in (jacobi_1d, jacobi_2d, heat_3d, seidel_2d, fdtd_2d, adi, life, wave_2d, reaction_2d)
}
