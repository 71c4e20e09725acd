"""Which dimension of a recurrence's buffers is contiguous: the one along which most accesses make lanes."""

from __future__ import annotations

from collections import Counter

from tensordsl.schedules.locate import stage_of
from tensordsl.schedules.loopnest import Buffer, For, Store, buffers, stores
from tensordsl.schedules.schedule import Schedule

from tensordsl import expr
from tensordsl.affine import Affine


def orient(s: Schedule, stages: set[str]) -> Schedule:
    """The buffers of some stages stored so that the innermost loops run along their last dimensions."""
    votes: dict[str, Counter[int]] = {}
    for st, path in stores(s.nest.body):
        loops = [x for x in path if isinstance(x, For)]
        if stage_of(st, path) not in stages or not loops or st.op:
            continue
        reads = [(r.source, r.index) for r in expr.reads(st.value) if isinstance(r.source, Buffer)]
        for buffer, index in ((st.buffer, st.index), *reads):
            if buffer.name in stages and (d := _along(index, loops[-1].var)) is not None:
                votes.setdefault(buffer.name, Counter())[d] += 1
    known, turned = buffers(s.nest), s
    for name, count in votes.items():
        buffer = known[name]
        last = len(buffer.shape) - 1
        best = max(count, key=lambda d, count=count: (count[d], d))  # type: ignore[misc]
        if buffer.scope != "external" and count[best] > count[last]:
            turned = turned.permute(name, [*(d for d in range(last + 1) if d != best), best])
    return turned if _vectors(turned, stages) > _vectors(s, stages) else s


def _vectors(s: Schedule, stages: set[str]) -> int:
    """Statements whose innermost loop could be a vector's lanes."""
    count = 0
    for st, path in stores(s.nest.body):
        loops = [x for x in path if isinstance(x, For)]
        count += stage_of(st, path) in stages and bool(loops) and neighbours(st, loops[-1].var)
    return count


def _along(index: tuple[Affine, ...], var: str) -> int | None:
    """The one dimension that a loop moves along, element by element."""
    found = [d for d, i in enumerate(index) if var in i.names()]
    return found[0] if len(found) == 1 and index[found[0]].coefficient(var) == 1 else None


def neighbours(st: Store, var: str) -> bool:
    """Do the lanes of a statement write neighbouring cells, and read neighbouring or equal ones?"""

    def step(buffer: Buffer, index: tuple[Affine, ...]) -> int | None:
        total = 0
        for i, width in zip(index, buffer.strides()):
            if any(var in atom.names() for atom, _ in i.terms if not isinstance(atom, str)):
                return None
            total += i.coefficient(var) * width
        return total

    reads = [step(r.source, r.index) for r in expr.reads(st.value) if isinstance(r.source, Buffer)]
    return step(st.buffer, st.index) == 1 and all(r in (0, 1) for r in reads)
