"""Validation against an oracle that runs the nest: no verdict may differ on randomly damaged nests."""

from __future__ import annotations

import random

import pytest
from tensordsl.schedules.polyhedral.validate import find_violation
from validation_mutations import mutate
from validation_nests import NESTS
from validation_oracle import verdict

EACH = 60  # damaged nests per nest; all of them together stay under 20 s


@pytest.mark.parametrize("name", NESTS)
def test_verdicts_agree_with_running_the_nest(name: str) -> None:
    rng = random.Random(f"damage to {name}")
    nest = NESTS[name]
    verdicts: list[bool] = []
    for _ in range(EACH):
        variant = rng.choice([None, *nest.legal])
        damaged = nest.build(variant, **nest.small)
        for _ in range(rng.choice((1, 1, 2))):
            damaged = mutate(damaged, rng)
        exact = rng.random() < 0.3
        proven, run = find_violation(damaged, exact=exact), verdict(damaged, exact)
        assert (proven is None) == (run is None), f"proof: {proven}; run: {run}; exact: {exact}\n{damaged}"
        verdicts.append(run is None)
    assert 0 < sum(verdicts) < EACH  # both kinds were seen
