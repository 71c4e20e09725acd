"""The search: deterministic, within its space, and better than chance on a known landscape."""

from __future__ import annotations

import math
import random

import pytest
from tensordsl.autotune.search import Search
from tensordsl.autotune.space import DEFAULT, Candidate, Space, candidate
from tuner_fakes import FakeSketch, cost, time_us


def search_of(*sketches, seed=0) -> Search:
    space = Space(list(sketches) or [FakeSketch()], seed)
    return Search(space, cost, seed)


def run(search: Search, trials: int) -> list[Candidate]:
    tried: list[Candidate] = []
    search.seed_with(search.space.defaults())
    while len(tried) < trials:
        batch = search.propose(min(10, trials - len(tried)))
        if not batch:
            break
        for c in batch:
            search.report(c, time_us(c))
        tried += batch
    return tried


def test_a_seed_decides_everything():
    first, second, other = (run(search_of(seed=s), 60) for s in (3, 3, 4))
    assert first == second
    assert first != other


def test_candidates_are_allowed_and_never_repeated():
    sketch = FakeSketch()
    tried = run(search_of(sketch), 100)
    assert tried[0] == DEFAULT
    assert len(set(tried)) == len(tried) == 100
    assert all(sketch.allowed(dict(c.params)) and dict(c.params)["m"] != 13 for c in tried[1:])
    assert candidate("tiles", sketch.default) not in tried  # the default itself


def test_a_small_space_is_exhausted():
    small = FakeSketch(holes={"m": (1, 2, 3), "n": (1, 2), "k": (1, 2)})
    search = search_of(small)
    tried = run(search, 100)
    assert len(tried) == 12  # 3 * 2 * 2, the default among them
    assert search.exhausted


def test_a_sampled_space(monkeypatch):
    monkeypatch.setattr("tensordsl.autotune.space._ENUMERATED", 10)
    sketch = FakeSketch()
    tried = run(search_of(sketch), 60)
    assert len(set(tried)) == 60
    assert all(sketch.allowed(dict(c.params)) for c in tried[1:])


def test_learning_beats_chance():
    """Over seeds: the best of 70 proposed candidates against the best of 70 random ones."""
    learned, chance = [], []
    for seed in range(3):
        learned.append(min(time_us(c) for c in run(search_of(seed=seed), 70)))
        rng = random.Random(seed)
        everything = [c for c in Space([FakeSketch()])._queues["tiles"]]
        chance.append(min(time_us(c) for c in rng.sample(everything, 70)))
    assert sum(learned) < sum(chance)
    assert max(learned) <= 112  # 100 is the best of the space


def test_the_model_is_asked_once_it_knows_enough():
    search = search_of()
    run(search, 30)
    assert not search.model.trained
    run(search, 30)
    assert search.model.trained


def test_good_sketches_get_more_trials():
    search = search_of(FakeSketch("worse"), FakeSketch("better"))
    tried = run(search, 80)
    assert sum(c.sketch == "better" for c in tried) > sum(c.sketch == "worse" for c in tried)


def test_known_results_are_not_tried_again():
    first = search_of()
    tried = run(first, 40)
    resumed = search_of()
    for c in tried:
        resumed.known(c, first.times[c])
    more = run(resumed, 40)
    assert not set(more) & set(tried)
    assert resumed.best[1] <= first.best[1]


def test_failures_are_never_the_best():
    search = search_of()
    batch = search.propose(5)
    for c in batch:
        search.report(c, math.inf)
    assert search.best is None
    assert search.leaders(3) == []


def test_seeds_outside_of_the_space_are_ignored():
    search = search_of()
    search.seed_with([Candidate("other"), candidate("tiles", {"m": 99, "n": 1, "k": 1}), candidate("tiles", {"m": 2})])
    good = candidate("tiles", {"m": 7, "n": 4, "k": 4})
    search.seed_with([good, good])
    assert search.propose(3)[0] == good
    assert good not in search.propose(10)


def test_model_survives_a_round_trip(tmp_path):
    from tensordsl.autotune.cost_model import CostModel

    search = search_of()
    run(search, 60)
    path = tmp_path / "models" / "m.json"
    search.model.save(path)
    loaded = CostModel.load(path)
    vectors = [cost(c).vector() for c in list(search.times)[:5] if cost(c)]
    assert loaded is not None
    assert loaded.predict(vectors) == pytest.approx(search.model.predict(vectors), abs=1e-5)
    assert CostModel.load(tmp_path / "none.json") is None
    path.write_text("{}")
    assert CostModel.load(path) is None
