"""The space of candidates: the sketches of a program and the assignments of their holes."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tensordsl.schedules.schedule import Schedule

#: Spaces up to this many assignments are enumerated, larger ones are sampled.
_ENUMERATED = 20_000
_TRIES = 200  # draws before a sampled sketch counts as exhausted


class SketchLike(Protocol):
    """What a search needs of a sketch (see `tensordsl.schedules.sketches`)."""

    @property
    def name(self) -> str: ...
    @property
    def holes(self) -> Mapping[str, Sequence[int]]: ...
    @property
    def default(self) -> Mapping[str, int]: ...
    @property
    def allowed(self) -> Callable[[Mapping[str, int]], bool]: ...
    @property
    def build(self) -> Callable[[Mapping[str, int]], Schedule]: ...


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A sketch with its holes filled; `DEFAULT` stands for the default schedule."""

    sketch: str
    params: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return f"{self.sketch}({', '.join(f'{k}={v}' for k, v in self.params)})"


#: The default schedule: the first sketch with its default assignment.
DEFAULT = Candidate("default")


class Space:
    """Candidates nobody has seen yet, in an order fixed by the seed."""

    def __init__(self, sketches: Sequence[SketchLike], seed: int = 0) -> None:
        self.sketches = {s.name: s for s in sketches}
        self._rng = random.Random(seed)
        self._seen: set[Candidate] = set()
        self._queues: dict[str, list[Candidate] | None] = {}
        for s in sketches:
            self._queues[s.name] = self._enumerate(s) if self.combinations(s) <= _ENUMERATED else None
        self._dry: set[str] = set()

    def defaults(self) -> list[Candidate]:
        """What each sketch would choose without measuring; that of the first is `DEFAULT` itself."""
        first, *others = self.sketches.values()
        self._seen.add(candidate(first.name, first.default))
        return [DEFAULT, *(candidate(s.name, s.default) for s in others)]

    @staticmethod
    def combinations(sketch: SketchLike) -> int:
        """Assignments of a sketch, refused ones included."""
        return math.prod(len(values) for values in sketch.holes.values())

    def _enumerate(self, sketch: SketchLike) -> list[Candidate]:
        names = list(sketch.holes)
        found = [
            candidate(sketch.name, params)
            for values in itertools.product(*sketch.holes.values())
            if sketch.allowed(params := dict(zip(names, values)))
        ]
        self._rng.shuffle(found)
        return found

    def allows(self, c: Candidate) -> bool:
        """Whether a candidate (of an older log, say) belongs to this space."""
        sketch = self.sketches.get(c.sketch)
        if sketch is None or {k for k, _ in c.params} != set(sketch.holes):
            return False
        params = dict(c.params)
        return all(v in sketch.holes[k] for k, v in params.items()) and bool(sketch.allowed(params))

    def mark(self, c: Candidate) -> bool:
        """Count a candidate as seen; False where it was."""
        if c in self._seen:
            return False
        self._seen.add(c)
        return True

    def draw(self, weights: Mapping[str, float]) -> Candidate | None:
        """A random unseen candidate (None: there is none left), its sketch chosen by weight."""
        while True:
            names = [n for n in self.sketches if n not in self._dry]
            if not names:
                return None
            [name] = self._rng.choices(names, [weights.get(n, 1.0) for n in names])
            found = self._next(name)
            if found is not None:
                self._seen.add(found)
                return found
            self._dry.add(name)

    def _next(self, name: str) -> Candidate | None:
        queue = self._queues[name]
        if queue is not None:
            while queue:
                c = queue.pop()
                if c not in self._seen:
                    return c
            return None
        sketch = self.sketches[name]
        for _ in range(_TRIES):
            params = {k: self._rng.choice(list(values)) for k, values in sketch.holes.items()}
            c = candidate(name, params)
            if c not in self._seen and sketch.allowed(params):
                return c
        return None

    def mutate(self, parents: Sequence[Candidate]) -> Candidate | None:
        """An unseen neighbour of good candidates: one or two holes moved, or two parents mixed."""
        for _ in range(8):
            parent = self._rng.choice(parents)
            sketch = self.sketches.get(parent.sketch)
            if sketch is None or not parent.params:
                continue
            params = dict(parent.params)
            mates = [p for p in parents if p.sketch == parent.sketch and p != parent]
            if mates and self._rng.random() < 0.25:
                other = dict(self._rng.choice(mates).params)
                params = {k: self._rng.choice((v, other[k])) for k, v in params.items()}
            for name in self._rng.sample(sorted(params), min(len(params), self._rng.choice((1, 1, 2)))):
                params[name] = self._move(list(sketch.holes[name]), params[name])
            c = candidate(parent.sketch, params)
            if c not in self._seen and sketch.allowed(params):
                self._seen.add(c)
                return c
        return None

    def _move(self, values: list[int], value: int) -> int:
        if len(values) < 2 or value not in values or self._rng.random() < 0.3:
            return self._rng.choice(values)
        place = values.index(value) + self._rng.choice((-1, 1))
        return values[min(max(place, 0), len(values) - 1)]


def candidate(sketch: str, params: Mapping[str, int]) -> Candidate:
    return Candidate(sketch, tuple(sorted(params.items())))
