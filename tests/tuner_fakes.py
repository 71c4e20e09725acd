"""A space of tiles whose times are known in closed form: searches without a compiler or a clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tensordsl.autotune.features import Cost
from tensordsl.autotune.instructions import Instructions
from tensordsl.autotune.space import DEFAULT, Candidate
from tensordsl.autotune.traffic import Traffic


@dataclass
class FakeSketch:
    name: str = "tiles"
    holes: dict = field(default_factory=lambda: {"m": tuple(range(1, 17)), "n": tuple(range(1, 9)), "k": (1, 2, 4, 8)})
    default: dict = field(default_factory=lambda: {"m": 1, "n": 1, "k": 1})
    limit: int = 30

    def allowed(self, p):
        return p["m"] * p["n"] <= self.limit

    def build(self, p):
        return p


def time_us(c: Candidate) -> float:
    if c == DEFAULT:
        return 400.0
    p = dict(c.params)
    base = 100 + 6 * abs(p["m"] - 7) + 11 * abs(p["n"] - 4) + 9 * abs(math.log2(p["k"]) - 2)
    return base * (0.9 if c.sketch == "better" else 1.0)


def cost(c: Candidate) -> Cost | None:
    if c == DEFAULT:
        return Cost(Instructions(flops=1e6, vector_ops=1e6), Traffic((0.0, 0.0, 0.0), 0.0, []))
    p = dict(c.params)
    if p["m"] == 13:
        return None  # cannot be built
    tile = float(p["m"] * p["n"])
    instructions = Instructions(
        flops=1e6,
        vector_ops=1e6 / 16 + 5e4 / tile,
        body=tile,
        registers=tile + p["n"],
        chains=tile,
        loads=1e6 / p["m"] / 64 + 1e6 / p["n"] / 64,
        iterations=1e6 / p["k"] / tile,
    )
    return Cost(instructions, Traffic((0.0, 0.0, 0.0), 0.0, [p["k"] * tile]))
