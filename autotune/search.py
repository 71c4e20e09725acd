"""Which candidates to measure next.

Three sources: unseen random points, neighbours of the best, and what was built before and not
picked.  The analytical model throws out bad ones; once there are enough samples the learned model
ranks, with a share of random picks against its blind spots.  Everything is decided by the seed and
the reported times, so a search can be replayed from a log without a clock.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

from tensordsl.autotune.cost_model import ENOUGH, CostModel
from tensordsl.autotune.features import Cost
from tensordsl.autotune.space import DEFAULT, Candidate, Space

_EXPLORE = 0.2  # share of picks made at random once a model ranks
_FRESH = 1.5  # candidates built per candidate picked
_MUTATED = 0.5  # share of the new ones that come from neighbours of the best
_PARENTS = 6
_HOPELESS = 4.0  # the analytical model's ratio to the best of the pool past which nothing is tried
_RESERVE = 60  # built candidates that wait


class Search:
    """evaluate: builds a candidate and returns its cost by the analytical model, None where it
    cannot be built."""

    def __init__(self, space: Space, evaluate: Callable[[Candidate], Cost | None], seed: int = 0) -> None:
        self.space = space
        self.times: dict[Candidate, float] = {}
        self.model = CostModel(seed)
        self._evaluate = evaluate
        self._rng = random.Random(seed + 1)
        self._pool: dict[Candidate, Cost] = {}
        self._costs: dict[Candidate, Cost] = {}
        self._first: list[Candidate] = []
        self._fitted = 0
        self.exhausted = False

    def seed_with(self, candidates: Iterable[Candidate]) -> None:
        """Candidates to try before all others: the default, the best of nearby shapes."""
        for c in candidates:
            if (c == DEFAULT or self.space.allows(c)) and self.space.mark(c):
                self._first.append(c)

    def known(self, c: Candidate, time_us: float) -> None:
        """A result of an earlier run: it is not tried again, but it teaches."""
        self.space.mark(c)
        self.report(c, time_us)

    def report(self, c: Candidate, time_us: float) -> None:
        """A measured time; inf for a candidate that failed."""
        self.times[c] = time_us

    @property
    def best(self) -> tuple[Candidate, float] | None:
        """The fastest so far."""
        c = min(self.times, key=lambda x: (self.times[x], x), default=None)
        return None if c is None or math.isinf(self.times[c]) else (c, self.times[c])

    def leaders(self, count: int) -> list[Candidate]:
        """The fastest candidates, best first."""
        ordered = sorted((t, c) for c, t in self.times.items() if math.isfinite(t))
        return [c for _, c in ordered[:count]]

    def propose(self, count: int) -> list[Candidate]:
        """The next batch, empty when the space is exhausted."""
        chosen = self._first[:count]
        del self._first[:count]
        missing = count - len(chosen)
        if missing:
            self._fill(math.ceil(missing * _FRESH))
            chosen += self._pick(missing)
        self.exhausted = len(chosen) < count and not self._first
        return chosen

    def _fill(self, count: int) -> None:
        """Build new candidates into the pool."""
        parents = [c for c in self.leaders(_PARENTS) if c.params]
        weights = self._weights()
        failures = 0
        while count > 0 and failures < 50:
            c = self.space.mutate(parents) if parents and self._rng.random() < _MUTATED else None
            c = c or self.space.draw(weights)
            if c is None:
                return
            cost = self._evaluate(c)
            if cost is None:
                failures += 1
                continue
            self._pool[c] = self._costs[c] = cost
            count -= 1

    def _weights(self) -> dict[str, float]:
        """Sketches that did well are drawn from more often; a new one gets its turn."""
        best: dict[str, float] = {}
        tried: dict[str, int] = {}
        for c, t in self.times.items():
            best[c.sketch] = min(best.get(c.sketch, math.inf), t)
            tried[c.sketch] = tried.get(c.sketch, 0) + 1
        overall = min(best.values(), default=math.inf)
        weights: dict[str, float] = {}
        for name in self.space.sketches:
            if tried.get(name, 0) < 4 or not math.isfinite(overall):
                weights[name] = 1.0
            else:
                weights[name] = max(0.05, (overall / best[name]) ** 3)
        return weights

    def _pick(self, count: int) -> list[Candidate]:
        if not self._pool:
            return []
        self._learn()
        if self.model.trained:
            order = self._ranked()
            explore = sum(self._rng.random() < _EXPLORE for _ in range(min(count, len(order))))
            chosen = order[: count - explore]
            rest = order[count - explore :]
            chosen += self._rng.sample(rest, min(explore, len(rest)))
        else:
            order = sorted(self._pool, key=lambda c: (self._pool[c].cycles, c))
            limit = _HOPELESS * self._pool[order[0]].cycles
            good = [c for c in order if self._pool[c].cycles <= limit]
            better = good[: max(count, math.ceil(0.75 * len(good)))]
            chosen = sorted(self._rng.sample(better, min(count, len(better))), key=order.index)
            chosen += [c for c in order if c not in chosen][: count - len(chosen)]
        for c in chosen:
            del self._pool[c]
        for c in reversed(order):
            if len(self._pool) <= _RESERVE:
                break
            self._pool.pop(c, None)
        return chosen

    def _learn(self) -> None:
        """Fit the model again when a third more is known."""
        samples = [c for c in self.times if self._cost(c) is not None]
        if len(samples) >= max(ENOUGH, math.ceil(1.3 * self._fitted)):
            self.model.fit([self._costs[c].vector() for c in samples], [self.times[c] for c in samples])
            self._fitted = len(samples)

    def _ranked(self) -> list[Candidate]:
        pool = list(self._pool)
        predicted = self.model.predict([self._pool[c].vector() for c in pool])
        return [c for _, c in sorted(zip(predicted.tolist(), pool))]

    def _cost(self, c: Candidate) -> Cost | None:
        """Costs of results from earlier runs are computed when the model first asks."""
        if c not in self._costs:
            cost = self._evaluate(c)
            if cost is not None:
                self._costs[c] = cost
        return self._costs.get(c)
