"""Selects by any condition on indices: they guard reads, and mean what they say."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.lower import lower
from tensordsl.schedules.polyhedral.validate import find_violation

import tensordsl as td
from tensordsl import bounds, expr, guards
from tensordsl.affine import Affine
from tensordsl.expr import Const, Expr, Index, Op
from tensordsl.targets import target
from tensordsl.tensor import Tensor

RNG = np.random.default_rng(0)


def agree(t: Tensor, wanted: Callable[..., np.ndarray]) -> None:
    """Interpreter, proof and kernel agree with numpy.  wanted: of the inputs in float64."""
    inputs: list[Tensor] = []
    todo, seen = [t], set[int]()
    while todo:
        x = todo.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if x.definition is None:
            inputs.append(x)
        else:
            todo += [r.source for r in x.definition.reads]  # type: ignore[misc]
    inputs.sort(key=lambda i: i.name)
    program = td.Program(inputs, [t])
    data = {i.name: RNG.standard_normal(i.shape).astype(np.float32) for i in inputs}
    exact = td.interpret(program, data)[program.outputs[0].name]
    np.testing.assert_allclose(exact, wanted(*(data[i.name].astype(np.float64) for i in inputs)), 1e-12, 1e-12)
    for machine in ("avx2", "avx512", "portable"):
        assert find_violation(default_schedule(program, target(machine)).nest) is None
    assert find_violation(lower(program)) is None
    bound = td.error_bound(program, data)[program.outputs[0].name]
    assert (np.abs(td.compile(program)(*data.values()) - exact) <= bound).all()


x = td.placeholder((37,), name="x")
m = td.placeholder((8, 8), name="m")
SHIFTED = {
    "or": lambda i: td.select((i < 1) | (i > 37), 0.0, x[i - 1]),
    "not and": lambda i: td.select(~((i >= 1) & (i <= 37)), 0.0, x[i - 1]),
    "nots": lambda i: td.select(~(i < 1) & ~(i > 37), x[i - 1], 0.0),
    "not equal": lambda i: td.select(td.not_equal(i, 0) & td.not_equal(i, 38), x[i - 1], 0.0),
    "equal": lambda i: td.select(td.equal(i, 0) | (i == 38), 0.0, x[i - 1]),
    "a choice of conditions": lambda i: td.select(td.select(i > 20, i < 38, i > 0), x[i - 1], 0.0),
    "a float": lambda i: td.select((i > 0.5) & (i < 37.25), x[i - 1], 0.0),
    "else of a conjunction": lambda i: td.select(
        (i >= 1) & (i <= 37), x[i - 1], td.select(i > 5, 0.0 * x[i - 2], 0.0 * x[i])
    ),
}


@pytest.mark.parametrize("how", SHIFTED)
def test_every_condition_on_indices_guards(how: str) -> None:
    agree(td.compute((39,), SHIFTED[how], name="y"), lambda a: np.pad(a, 1))


def test_conditions_on_data_beside_those_on_indices() -> None:
    def wanted(a: np.ndarray) -> np.ndarray:
        return np.where(a > 0, np.concatenate([[0], a[:-1]]), 0)

    agree(td.compute((37,), lambda i: td.select((i > 0) & (x[i] > 0), x[i - 1], 0.0), name="y"), wanted)
    agree(td.compute((37,), lambda i: td.select((x[i] > 0) & (i > 0), x[i - 1], 0.0), name="y"), wanted)
    agree(td.compute((37,), lambda i: td.select((i < 1) | ~(x[i] > 0), 0.0, x[i - 1]), name="y"), wanted)


def test_a_condition_on_data_may_read_where_the_one_on_indices_holds() -> None:
    y = td.compute((37,), lambda i: td.select((i > 0) & (x[i - 1] > 0), x[i - 1], 0.0), name="y")
    agree(y, lambda a: np.concatenate([[0], np.maximum(a[:-1], 0)]))


def test_a_checkerboard() -> None:
    def even(i: Expr) -> Expr:
        return td.equal(i % 2, 0)

    y = td.compute(
        (8, 8), lambda i, j: td.select((even(i) & even(j)) | (~even(i) & ~even(j)), m[i, j], -m[i, j]), name="y"
    )
    sign = np.where(np.add.outer(np.arange(8), np.arange(8)) % 2, -1, 1)
    agree(y, lambda a: a * sign)


def test_a_border_leaves_no_condition_inside() -> None:
    """A border written with == is the conjunction that cuts the loops."""
    y = td.compute(
        (10, 10),
        lambda i, j: td.select(td.equal(i, 0) | td.equal(j, 0) | td.equal(i, 9) | td.equal(j, 9), 0.0, m[i - 1, j - 1]),
        name="y",
    )
    assert "select(i > 0 & j > 0 & i < 9 & j < 9, m[i - 1, j - 1], 0)" in str(td.Program([m], [y]))
    agree(y, lambda a: np.pad(a, 1))


def test_a_guard_around_a_reduction() -> None:
    k = td.reduce_axis(8)
    y = td.compute((10,), lambda i: td.select((i < 1) | (i > 8), 0.0, td.sum(m[i - 1, k], axis=k)), name="y")
    agree(y, lambda a: np.pad(a.sum(axis=1), 1))
    both = td.compute(
        (10,),
        lambda i: td.select(
            (i > 1) & (i < 4), td.max(m[i - 2, k], axis=k), td.select(i > 4, td.max(m[i - 5, k], axis=k), 0.0)
        ),
        name="y",
    )
    top = [0, 0, 0, 1, None, 0, 1, 2, 3, 4]
    agree(both, lambda a: np.array([0, 0, *(0 if t is None else a[t].max() for t in top[2:])]))


def test_one_reduction_in_two_cases() -> None:
    """The terms are those of either case, and no others: both guards together keep it in bounds."""
    k = td.reduce_axis(8)

    def f(i: Expr) -> Expr:
        total = td.sum(m[i - 1, k], axis=k)
        return td.select((i > 0) & (i < 3), total, td.select((i > 5) & (i < 9), 2 * total, 0.0))

    def wanted(a: np.ndarray) -> np.ndarray:
        s = np.pad(a.sum(axis=1), (1, 3))
        at = np.arange(12)
        return np.where((at > 0) & (at < 3), s, np.where((at > 5) & (at < 9), 2 * s, 0))

    agree(td.compute((12,), f, name="y"), wanted)


def test_recurrences_by_any_condition() -> None:
    y = td.recurrence((37,), lambda y, i: x[i] + td.select(td.not_equal(i, 0), y[i - 1], 0.0), name="y", order="i")
    agree(y, np.cumsum)
    k = td.reduce_axis(8)
    z = td.recurrence(
        (8,),
        lambda z, i: td.select(
            (i < 1) | (i > 6), m[i, i], td.sum(m[i, k] * z[k], axis=k, where=~((k > i) | td.equal(k, i)))
        ),
        name="z",
        order="i",
    )

    def wanted(a: np.ndarray) -> np.ndarray:
        found = np.zeros(8)
        for i in range(8):
            found[i] = a[i, i] if i in (0, 7) else a[i, :i] @ found[:i]
        return found

    agree(z, wanted)


def test_what_is_out_of_bounds_in_one_case_is_refused() -> None:
    for condition in (lambda i: (i > 1) | (i < 1), lambda i: ~td.equal(i, 3), lambda i: (i > 0) | (x[i] > 0)):
        with pytest.raises(td.ProgramError, match="out of bounds") as caught:
            td.compute((37,), lambda i: td.select(condition(i), x[i - 1], 0.0), name="y")
        assert caught.value.counterexample == "when i = 0"


def test_axes_without_names_do_not_collide() -> None:
    a, b = td.reduce_axis(8), td.reduce_axis(8)
    y = td.compute((8,), lambda k: td.sum(m[k, a] * m[a, b], axis=(a, b)), name="y")
    assert str(y.definition and y.definition.body) == "m[k, k1] * m[k1, k2]"
    agree(y, lambda v: (v @ v).sum(axis=1))
    agree(td.compute((8,), lambda i: td.sum(td.max(m[i, a] * m[a, b], axis=a), axis=b), name="y"), _row_maxima)
    named = td.reduce_axis(8, name="k")
    agree(td.compute((), lambda: td.sum(td.sum(m[named, a], axis=named) * m[a, a], axis=a), name="y"), _columns)
    with pytest.raises(td.ProgramError, match="'k' is not an axis") as caught:
        td.compute((8,), lambda i: td.sum(m[i, a], axis=b), name="y")
    assert caught.value.hint == "this k is another td.reduce_axis than the one in axis="


def _row_maxima(v: np.ndarray) -> np.ndarray:
    return (v[:, :, None] * v[None]).max(axis=1).sum(axis=1)


def _columns(v: np.ndarray) -> np.ndarray:
    return np.asarray((v.sum(axis=0) * np.diag(v)).sum())


# ---------------------------------------------------------------- the rewriting itself


def evaluate(e: Expr, at: Mapping[str, int]) -> float:
    """The value of an expression without reads, sides of selects on demand."""
    if isinstance(e, Const):
        return e.value
    if isinstance(e, Index):
        return e.affine.evaluate(at)
    assert isinstance(e, Op)
    if e.name == "select":
        return evaluate(e.args[1 if evaluate(e.args[0], at) else 2], at)
    a, *b = (evaluate(x, at) for x in e.args)
    match e.name:
        case "not":
            return not a
        case "and" | "or":
            return bool(a and b[0]) if e.name == "and" else bool(a or b[0])
        case "cast":
            return float(a)
        case _:
            return {"lt": a < b[0], "le": a <= b[0], "gt": a > b[0], "ge": a >= b[0], "eq": a == b[0], "ne": a != b[0]}[
                e.name
            ]


def random_condition(rng: random.Random, depth: int) -> Expr:
    i, j = Index(Affine.of("i")), Index(Affine.of("j"))
    if depth and rng.random() < 0.8:
        name = rng.choice(["and", "or", "not", "select"])
        parts = [random_condition(rng, depth - 1) for _ in range(3)]
        if name == "not":
            return ~parts[0]
        return expr.select(*parts) if name == "select" else expr.binary(name, *parts[:2])
    left = rng.choice([i, j, i + j, i - j, i % 3, 2 * i - 1])
    right = rng.choice([rng.randint(-1, 6), j, i, rng.randint(-1, 6) + 0.5, float(rng.randint(0, 5))])
    return expr.binary(rng.choice(["lt", "le", "gt", "ge", "eq", "ne"]), left, right)


@pytest.mark.parametrize("seed", range(150))
def test_a_select_keeps_its_meaning(seed: int) -> None:
    rng = random.Random(seed)
    c = random_condition(rng, 3)
    e = expr.select(c, Index(Affine.of("i")), -1 - Index(Affine.of("j")))
    sizes = {"i": rng.randint(1, 6), "j": rng.randint(1, 6)}
    ranges = {n: (0, size - 1) for n, size in sizes.items()}
    new = guards.normalised(e, ranges)
    points = [dict(zip(sizes, at)) for at in itertools.product(*map(range, sizes.values()))]
    assert [evaluate(new, at) for at in points] == [evaluate(e, at) for at in points]
    if new is not e:  # every condition left is a conjunction of comparisons
        for x in expr.walk(new):
            assert not isinstance(x, Op) or x.name != "select" or expr.conditions(x.args[0]) is not None


@pytest.mark.parametrize("seed", range(60))
def test_the_cases_of_a_read_are_those_where_it_is_needed(seed: int) -> None:
    rng = random.Random(seed)
    t = td.placeholder((1, 1), name="t")
    read = expr.Read(t, (Affine.of("i"), Affine.of("j")))
    body = expr.select(random_condition(rng, 2), expr.select(random_condition(rng, 2), 0.0, read), 1.0)
    sizes = {"i": 5, "j": 4}
    cases = [
        given for _, given in bounds.guarded_reads(guards.normalised(body, {n: (0, s - 1) for n, s in sizes.items()}))
    ]

    def needed(e: Expr, at: Mapping[str, int]) -> bool:
        while isinstance(e, Op) and e.name == "select":
            e = e.args[1 if evaluate(e.args[0], at) else 2]
        return isinstance(e, expr.Read)

    for at in (dict(zip(sizes, p)) for p in itertools.product(*map(range, sizes.values()))):
        said = any(all(f.evaluate(at) >= 0 for f in given) for given in cases)
        assert said == needed(body, at)
        joined = any(all(f.evaluate(at) >= 0 for f in given) for given in guards.merged(cases)) if cases else False
        assert joined == said
