"""Scans: running sums, extremes and linear recurrences, computed a block of vectors at a time.

python examples/scans.py
"""

from __future__ import annotations

import numpy as np

import tensordsl as td

ROWS, STEPS = 4, 500


def running(kind: str, axis: int = 1, reverse: bool = False, exclusive: bool = False) -> td.Program:
    """td.cumsum, td.cumprod, td.cummax or td.cummin of a matrix."""
    x = td.placeholder((ROWS, STEPS), name="x")
    y = getattr(td, kind)(x, axis, reverse=reverse, exclusive=exclusive)
    return td.Program([x], [y], name=kind)


def gated() -> td.Program:
    """h = g h + x: the state of a gated linear layer after each step."""
    x, g = td.placeholder((ROWS, STEPS), name="x"), td.placeholder((ROWS, STEPS), name="g")

    def state(h: td.Tensor, b: td.Expr, t: td.Expr) -> td.Expr:
        return x[b, t] + td.select(t > 0, g[b, t] * h[b, t - 1], 0.0)

    return td.Program([x, g], [td.recurrence((ROWS, STEPS), state, name="h", order="t")], name="gated")


def decaying() -> td.Program:
    """h = max(h - d, x): the loudest of the past, forgotten at a steady rate."""
    x, d = td.placeholder((ROWS, STEPS), name="x"), td.placeholder((), name="d")

    def level(h: td.Tensor, b: td.Expr, t: td.Expr) -> td.Expr:
        return td.select(t > 0, td.maximum(h[b, t - 1] - d, x[b, t]), x[b, t])

    return td.Program([x, d], [td.recurrence((ROWS, STEPS), level, name="h", order="t")], name="decaying")


#: The default schedule scans these in blocks; the others by a step of their own, as `scanned` shows.
BY_DEFAULT = {
    "cumsum": running("cumsum"),
    "exclusive": running("cumsum", exclusive=True),
    "cummax": running("cummax"),
    "columns": running("cumsum", axis=0),
    "reverse": running("cumsum", reverse=True),
}
BY_STEP = {"gated": gated(), "decaying": decaying(), "cumprod": running("cumprod")}


def scanned(program: td.Program, block: int = 16) -> td.Schedule:
    """A schedule with the recurrence of a program in blocks."""
    return td.Schedule(program).scan(program.outputs[0].name, block)


def main() -> None:
    rng = np.random.default_rng(0)
    for name, program in {**BY_DEFAULT, **BY_STEP}.items():
        kernel = td.compile(program if name in BY_DEFAULT else scanned(program))
        inputs = [rng.uniform(0.5, 1, t.shape).astype(np.float32) for t in program.inputs]
        found = kernel(*inputs)
        exact = td.interpret(program, dict(zip([t.name for t in program.inputs], inputs)))
        print(f"{name}: largest difference {np.abs(found - next(iter(exact.values()))).max():.2g}")


if __name__ == "__main__":
    main()
