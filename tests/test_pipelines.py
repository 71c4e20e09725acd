"""The pipelines of examples/pipelines.py against numpy, by their default schedule and by random ones."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule

import tensordsl as td
from tests.random_schedules import Steps, apply, too_large

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import pipelines

Array = np.ndarray[Any, Any]
SIZES = {"blur": (30, 41), "unsharp": (19, 50), "harris": (22, 35), "pyramid": (3, 5), "bilateral_grid": (24, 40)}
AMOUNT = 0.75


def smooth(x: Array) -> Array:
    taps = np.array([1, 4, 6, 4, 1]) / 16
    x = sum(t * x[:, k : x.shape[1] - 4 + k] for k, t in enumerate(taps))
    return sum(t * x[k : x.shape[0] - 4 + k] for k, t in enumerate(taps))


def blur(x: Array) -> list[Array]:
    return [smooth(x)]


def unsharp(x: Array) -> list[Array]:
    here = x[2:-2, 2:-2]
    return [np.clip(here + AMOUNT * (here - smooth(x)), 0, 1)]


def harris(x: Array) -> list[Array]:
    def window(f: Array, weights: Array) -> Array:
        h, w = f.shape[0] - 2, f.shape[1] - 2
        return sum(weights[r, s] * f[r : r + h, s : s + w] for r in range(3) for s in range(3))

    sobel = np.outer([1, 2, 1], [-1, 0, 1]) / 8
    dx, dy = window(x, sobel), window(x, sobel.T)
    xx, xy, yy = (window(f, np.ones((3, 3))) for f in (dx * dx, dx * dy, dy * dy))
    return [xx * yy - xy**2 - 0.04 * (xx + yy) ** 2]


def pyramid(x: Array) -> list[Array]:
    found = []
    for _ in range(3):
        rows = (x[:, :-2:2] + 2 * x[:, 1:-1:2] + x[:, 2::2]) / 4
        half = (rows[:-2:2] + 2 * rows[1:-1:2] + rows[2::2]) / 4
        up = half
        for d in (0, 1):
            up = np.moveaxis(up, d, 0)
            wide = np.zeros((2 * len(up) - 1, *up.shape[1:]))
            wide[::2], wide[1::2] = up, (up[:-1] + up[1:]) / 2
            up = np.moveaxis(wide, 0, d)
        found.append(x[1:-1, 1:-1] - up)
        x = half
    return [*found, x]


def bilateral_grid(x: Array, cell: int = 8, bins: int = 8) -> list[Array]:
    h, w = x.shape
    tents = np.maximum(1 - np.abs(x[None] * (bins - 1) - np.arange(bins)[:, None, None]), 0)

    def grid(f: Array) -> Array:
        g = np.pad(f.reshape(bins, h // cell, cell, w // cell, cell).sum(axis=(2, 4)), 1)
        n = [size - 2 for size in g.shape]
        around = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
        g = sum(g[a : a + n[0], b : b + n[1], c : c + n[2]] for a, b, c in around)
        return (tents * g.repeat(cell, axis=1).repeat(cell, axis=2)).sum(axis=0)

    return [grid(tents * x) / np.maximum(grid(tents), 1e-6)]


def given(program: td.Program) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {t.name: rng.random(t.shape, np.float32) for t in program.inputs}


@pytest.mark.parametrize("name", pipelines.PIPELINES)
def test_the_meaning_is_that_of_numpy(name: str) -> None:
    program = pipelines.PIPELINES[name](*SIZES[name])
    inputs = given(program)
    wanted = globals()[name](inputs["image"].astype(np.float64))
    for found, array in zip(td.interpret(program, inputs).values(), wanted):
        np.testing.assert_allclose(found, array, rtol=1e-12, atol=1e-12)


@pytest.mark.compiler
@pytest.mark.parametrize("name", pipelines.PIPELINES)
def test_the_default_schedule(name: str) -> None:
    program = pipelines.PIPELINES[name](*SIZES[name])
    inputs = given(program)
    bound, exact = td.error_bound(program, inputs), td.interpret(program, inputs)
    found = td.compile(program)(*inputs.values())
    for t, array in zip(program.outputs, found if isinstance(found, tuple) else (found,)):
        assert (np.abs(array - exact[t.name]) <= bound[t.name]).all()


@pytest.mark.compiler
@pytest.mark.parametrize("name", pipelines.PIPELINES)
def test_random_schedules(name: str) -> None:
    program = pipelines.PIPELINES[name](*SIZES[name])
    inputs = given(program)
    bound, exact = td.error_bound(program, inputs), td.interpret(program, inputs)
    s, draw = Schedule(program, checked=False), Steps(random.Random(len(name)))
    for k in range(14):
        try:
            new = apply(s, draw.draw(s, k / 14))
        except td.ScheduleError:
            continue
        if find_violation(new.nest) is None and not too_large(new.nest):
            s = new
    found = td.compile(s)(*inputs.values())
    for t, array in zip(program.outputs, found if isinstance(found, tuple) else (found,)):
        assert (np.abs(array - exact[t.name]) <= bound[t.name]).all()
