"""Reads whose lanes lie at fixed distances (strides, reversals, repetitions): whole loads and shuffles.

The elements of one vector lie in few vectors of memory, which are loaded whole and combined by
shuffles with constant picks, one less than there are vectors: no element is loaded alone.
"""

from __future__ import annotations

from bisect import bisect_right

from tensordsl.codegen.c.addresses import at_lane
from tensordsl.codegen.c.types import signed
from tensordsl.codegen.c.writer import Writer

from tensordsl.affine import Affine
from tensordsl.dtypes import DType

#: More loads than this are no better than one load a lane.
MOST_LOADS = 4


def offsets(address: Affine, lanes: int, bits: int) -> dict[int, int] | None:
    """Active lane -> its distance in elements from the lowest one, or None where distances vary."""
    active = [i for i in range(lanes) if bits >> i & 1]
    first = at_lane(address, active[0])
    found: dict[int, int] = {}
    for lane in active:
        distance = at_lane(address, lane) - first
        if not distance.is_constant:
            return None
        found[lane] = distance.const
    least = min(found.values())
    return {lane: d - least for lane, d in found.items()}


def starts(found: dict[int, int], lanes: int) -> list[int] | None:
    """Where to load whole vectors that cover the elements, none of them past the last; None: too many."""
    distances = sorted(set(found.values()))
    begins: list[int] = []
    for d in distances:
        if not begins or d >= begins[-1] + lanes:
            begins.append(d)
    begins[-1] = max(0, min(begins[-1], distances[-1] + 1 - lanes))
    return begins if len(begins) <= min(MOST_LOADS, lanes // 2) else None


def combined(w: Writer, t: DType, lanes: int, vectors: list[str], begins: list[int], found: dict[int, int]) -> str:
    """The text of the vector whose lane i is element ``found[i]``; lanes that are not active hold any of them."""
    w.prelude.shuffle()
    m = w.prelude.vector(signed(t.bits), lanes)
    place = {lane: bisect_right(begins, d) - 1 for lane, d in found.items()}
    text = vectors[0]
    for n in range(1, len(vectors)) if len(vectors) > 1 else (0,):
        picks = []
        for lane in range(lanes):
            home = place.get(lane, -1)
            inside = found.get(lane, 0) - begins[max(home, 0)]
            if home == n and n:
                picks.append(lanes + inside)
            elif home == 0 and n <= 1:
                picks.append(inside)
            else:
                picks.append(lane)  # what earlier shuffles put there, or what a later one will replace
        text = f"td_shuffle({m}, {text}, {vectors[n]}, {', '.join(map(str, picks))})"
    return text
