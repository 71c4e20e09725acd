"""Whether affine conditions can hold together: at any size, and against enumeration."""

from __future__ import annotations

import itertools
import random

import pytest

import tensordsl as td
from tensordsl.affine import Affine, Interval
from tensordsl.bounds import satisfiable


def test_conditions_that_only_exclude_each_other_together() -> None:
    """i < j < k < i, with an equation beside them, on a domain that is too large to enumerate."""
    i, j, k, m = (Affine.of(n) for n in "ijkm")
    ranges: dict[str, Interval] = dict.fromkeys("ijkm", (0, 10**6))
    found = satisfiable([m - i, i - m, j - i - 1, k - j - 1, i - k - 1], ranges)
    assert found.possible is False
    assert satisfiable([2 * i - 2 * j - 1, 2 * j - 2 * i + 1, k - 5], ranges).possible is False, "no integer"


@pytest.mark.parametrize("n", [40, 400, 4000])
def test_a_large_recurrence_is_well_founded(n: int) -> None:
    """Elimination: a sum within the step that both conditions around it make well founded."""
    A, k = td.placeholder((n, n), name="A"), td.reduce_axis(n, "k")

    def element(U: td.Tensor, i: td.Expr, j: td.Expr) -> td.Expr:
        left = td.sum(U[i, k] * U[k, j], axis=k, where=k < j)
        right = td.sum(U[i, k] * U[k, j], axis=k, where=k < i)
        return A[i, j] - td.select(j < i, left, right)

    assert len(td.recurrence((n, n), element, "U", order=("i", "j")).shape) == 2
    with pytest.raises(td.ProgramError, match="of a later step"):
        td.recurrence((n, n), lambda U, i, j: td.sum(U[i, k] * U[k, j], axis=k, where=k <= i), order=("i", "j"))


@pytest.mark.parametrize("seed", range(300))
def test_answers_are_those_of_enumeration(seed: int) -> None:
    rng = random.Random(seed)
    names = "abc"[: rng.randint(1, 3)]
    ranges: dict[str, Interval] = {n: (lo := rng.randint(-2, 2), lo + rng.randint(0, 4)) for n in names}

    def drawn() -> Affine:
        total = Affine((), rng.randint(-4, 4))
        for n in names:
            total += Affine.of(n) * rng.randint(-3, 3)
        return (total // rng.choice((2, 3))) - 1 if rng.random() < 0.2 else total

    conditions = [drawn() for _ in range(rng.randint(1, 5))]
    points = itertools.product(*(range(lo or 0, (hi or 0) + 1) for lo, hi in ranges.values()))
    holds = any(all(c.evaluate(dict(zip(names, p))) >= 0 for c in conditions) for p in points)
    assert satisfiable(conditions, ranges).possible is holds
