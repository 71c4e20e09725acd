"""Footprints of accesses over tiles, against visiting every point of the tile."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
from tensordsl.schedules.polyhedral.footprint import Footprint, _sums

from tensordsl.affine import Affine

AXES = ("a", "b", "c", "d")
A, B, C, D = (Affine.of(n) for n in AXES)


def visited(index: tuple[Affine, ...], extents: dict[str, int]) -> int:
    """The number of different elements, point by point."""
    points = product(*(range(e) for e in extents.values()))
    return len({tuple(e.evaluate(dict(zip(extents, p))) for e in index) for p in points})


PATTERNS = {
    "plain": (A, B),
    "transposed with an offset": (B + 3, A - 1, Affine.of(5)),
    "window": (A + B, C),
    "strided window": (A * 2 + B, C * 2 + D),
    "wide stride": (A * 4 + B, C * 3 + D * 2),
    "digits": (A * 8 + B, C),
    "gaps that meet": (A * 6 + B * 4 + C,),
    "downwards": (A - B * 2, C),
    "diagonal": (A, A + B, C),
    "shared, not injective": (A + B, A + B + C),
    "shared over three rows": (A + B, B + C, C + D),
    "blocks": (A // 3, B),
    "ring": ((A + B) % 3, C),
    "block and lane": (A // 4, A % 4, B),
    "mixed": (A * 2 + B // 2, C),
    "constant over the tile": (Affine.of("outer") * 7 + A, Affine.of("outer")),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_agrees_with_visiting(name: str) -> None:
    rng = random.Random(name)
    index = PATTERNS[name]
    footprint = Footprint(index, AXES)
    here = tuple(e.substitute({"outer": Affine()}) for e in index)
    for _ in range(60):
        extents = {a: rng.randint(1, 7) for a in AXES}
        assert footprint.exact(extents)
        assert footprint(extents) == visited(here, extents), extents


def test_random_accesses() -> None:
    rng = random.Random(5)
    for _ in range(300):
        rows = []
        for _ in range(rng.randint(1, 3)):
            e = Affine.of(rng.randint(-2, 2))
            for v in rng.sample((A, B, C), rng.randint(0, 3)):
                e = e + v * rng.choice((-3, -1, 1, 1, 2, 4))
            if rng.random() < 0.2:
                e = e // rng.randint(2, 4) if rng.random() < 0.5 else e % rng.randint(2, 4)
            rows.append(e)
        extents = {a: rng.randint(1, 5) for a in AXES}
        assert Footprint(rows, AXES)(extents) == visited(tuple(rows), extents), (list(map(str, rows)), extents)


def test_sums_of_progressions() -> None:
    rng = random.Random(6)
    for _ in range(500):
        n = rng.randint(1, 4)
        steps = tuple(rng.randint(1, 40) for _ in range(n))
        extents = tuple(rng.randint(1, 9) for _ in range(n))
        sums = {sum(c * x for c, x in zip(steps, p)) for p in product(*map(range, extents))}
        assert _sums(steps, extents) == len(sums), (steps, extents)


def test_large_tiles_are_closed_forms() -> None:
    assert Footprint((A * 4096 + B, C), AXES)((4096, 4096, 4096, 1)) == 4096**3
    assert Footprint((A * 2 + B, C * 2 + D), AXES)((100_000, 3, 100_000, 3)) == 200_001**2
    assert Footprint((A * 3 + B * 1_000_000_007,), AXES)((1000, 1000, 1, 1)) == 10**6
    assert Footprint((A, A + B), AXES)((10**6, 10**6, 1, 1)) == 10**12


def test_beyond_enumeration_the_count_is_a_bound() -> None:
    index = (A + B, (A + C) // 2)
    footprint = Footprint(index, AXES)
    extents = (200, 200, 200, 1)
    assert not footprint.exact(extents)
    assert visited(index, {"a": 20, "b": 20, "c": 20}) < footprint(extents) <= 200**3
    assert footprint(extents) >= 399 * 200


def test_empty_tiles_and_scalars() -> None:
    footprint = Footprint((A, B), AXES)
    assert footprint((0, 5, 1, 1)) == 0 and footprint((3, 5, 0, 1)) == 0
    assert Footprint((), AXES)((3, 4, 5, 6)) == 1
    assert Footprint((), ())(()) == 1


def test_many_tiles_at_once() -> None:
    rng = np.random.default_rng(7)
    tiles = rng.integers(0, 9, (50, 4, 4))
    for index in PATTERNS.values():
        footprint = Footprint(index, AXES)
        counts = footprint.counts(tiles)
        assert counts.shape == (50, 4)
        assert counts.ravel().tolist() == [footprint(t) for t in tiles.reshape(-1, 4).tolist()]
    with pytest.raises(ValueError, match="4 axes"):
        Footprint((A,), AXES).counts(tiles[..., :3])
