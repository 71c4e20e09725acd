"""Which part of a register or stack buffer belongs to one thread.

Such a buffer may be allocated outside the thread loops and live through several phases (an
accumulator does).  Each access then splits into a thread part and a rest: in ``acc[4*ty + i]`` the
threads own blocks of 4 cells, in ``acc[16*i + ty]`` every 16th cell.  A thread keeps just its own
cells, indexed by the rest, if every access gives a cell to the same thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import gcd

from tensordsl.schedules.loopnest import Alloc, Buffer, For, LoopNest, Stmt, stores, walk
from tensordsl.schedules.simplify import Context, context
from tensordsl.schedules.threads import Phase

from tensordsl.affine import Affine
from tensordsl.errors import BuildError
from tensordsl.expr import reads

#: The thread number as a variable of index expressions.
THREAD = "thread number"


@dataclass(frozen=True, slots=True, eq=False)
class Private:
    """One thread's share of a buffer: per dimension the first rest, the step of rests and their count."""

    buffer: Buffer
    origins: tuple[int, ...]
    steps: tuple[int, ...]
    extents: tuple[int, ...]

    @property
    def size(self) -> int:
        n = 1
        for e in self.extents:
            n *= e
        return n

    def offset(self, rest: tuple[Affine, ...]) -> Affine:
        total, stride = Affine(), 1
        for r, first, step, extent in reversed(list(zip(rest, self.origins, self.steps, self.extents))):
            total += (r - first) // step * stride
            stride *= extent
        return total


@dataclass(frozen=True, slots=True, eq=False)
class _Access:
    thread: tuple[Affine, ...]
    rest: tuple[Affine, ...]
    context: Context
    phase: Phase


def cell_index(buffer: Buffer, index: tuple[Affine, ...]) -> tuple[Affine, ...]:
    """The physical index: folded dimensions taken by their modulus."""
    folds = buffer.fold + (0,) * (len(index) - len(buffer.fold))
    return tuple(i % m if m else i for i, m in zip(index, folds))


def rest(buffer: Buffer, index: tuple[Affine, ...], phase: Phase) -> tuple[Affine, ...]:
    """The part of a physical index that does not depend on the thread."""
    return tuple(_split(i, phase, buffer)[1] for i in cell_index(buffer, index))


def _split(index: Affine, phase: Phase, buffer: Buffer) -> tuple[Affine, Affine]:
    number = Affine.of(THREAD)
    by_thread = index.substitute(phase.digits.values(number))
    thread = Affine(tuple(t for t in by_thread.terms if _uses_thread(t[0])), 0)
    for atom, _ in thread.terms:
        if not isinstance(atom, str) and atom.names() != {THREAD}:
            raise BuildError(
                f"{buffer.scope} buffer {buffer.name}: the thread is not a summand of index {index}",
                hint="split the loop so that threads and their own elements are different loops",
            )
    return thread, by_thread - thread


def _uses_thread(atom: object) -> bool:
    return atom == THREAD if isinstance(atom, str) else THREAD in atom.names()  # type: ignore[attr-defined]


def private_buffers(nest: LoopNest, found: list[Phase]) -> dict[str, Private]:
    """The share of each register and stack buffer that is allocated outside the phases.

    Raises BuildError where a cell belongs to several threads.
    """
    inside = {id(p.stmt) for p in found}
    outer: dict[str, Buffer] = {}
    for x, path in walk(nest.body):
        if isinstance(x, Alloc) and x.buffer.scope in ("register", "stack") and not any(id(s) in inside for s in path):
            outer[x.buffer.name] = x.buffer
    accesses: dict[str, list[_Access]] = {name: [] for name in outer}
    for p in found:
        for store, path in stores(p.stmt):
            around: tuple[Stmt, ...] = (*p.path, *path)
            used = [(store.buffer, store.index)] + [(r.source, r.index) for r in reads(store.value)]
            for source, index in used:
                buffer = outer.get(source.name)
                if buffer is None:
                    continue
                parts = [_split(i, p, buffer) for i in cell_index(buffer, index)]
                accesses[buffer.name].append(
                    _Access(tuple(t for t, _ in parts), tuple(r for _, r in parts), context(around), p)
                )
    return {name: _share(outer[name], found) for name, found in accesses.items() if found}


def _share(buffer: Buffer, accesses: list[_Access]) -> Private:
    first = accesses[0]
    for a in accesses:
        if a.thread != first.thread:
            raise BuildError(
                f"{buffer.scope} buffer {buffer.name} is not private: its cells belong to threads by "
                f"{_by(first.thread)} in one place and by {_by(a.thread)} in another",
                hint="divide the threads alike in both places, or keep the buffer in shared memory",
            )
    count = max(a.phase.digits.count for a in accesses)
    owners = [tuple(t.evaluate({THREAD: n}) for t in first.thread) for n in range(count)]
    if len(set(owners)) != count:
        raise BuildError(
            f"{buffer.scope} buffer {buffer.name} is not private: threads {_same(owners)} own the same cells",
            hint="keep the buffer in shared memory",
        )
    origins, steps, extents = [], [], []
    for d in range(len(buffer.shape)):
        values = sorted({o[d] for o in owners})
        rests = [(a.context.minimum(a.rest[d]), a.context.maximum(a.rest[d]), a.rest[d]) for a in accesses]
        if any(lo is None or hi is None for lo, hi, _ in rests):
            raise BuildError(f"{buffer.scope} buffer {buffer.name}: no constant bounds {rests[0][2]}")
        low, high = min(lo for lo, _, _ in rests if lo is not None), max(hi for _, hi, _ in rests if hi is not None)
        gap = min((b - a for a, b in pairwise(values)), default=high - low + 1)
        step = 1
        if gap <= high - low:  # threads own interleaved cells, or not at all
            step = gcd(*[k for *_, r in rests for _, k in r.terms], *[r.const - low for *_, r in rests])
            if values[-1] - values[0] >= step:
                raise BuildError(
                    f"{buffer.scope} buffer {buffer.name} is not private: in dimension {d} one cell belongs to "
                    "several threads",
                    hint="keep the buffer in shared memory",
                )
        origins.append(low)
        steps.append(step)
        extents.append((high - low) // step + 1)
    return Private(buffer, tuple(origins), tuple(steps), tuple(extents))


def _by(thread: tuple[Affine, ...]) -> str:
    return f"({', '.join(map(str, thread))})"


def _same(owners: list[tuple[int, ...]]) -> str:
    seen: dict[tuple[int, ...], int] = {}
    for n, o in enumerate(owners):
        if o in seen:
            return f"{seen[o]} and {n}"
        seen[o] = n
    raise AssertionError("owners are distinct")


def check_registers(buffer: Buffer, index: Affine, loops: tuple[For, ...]) -> None:
    """A register has no address: its index must be a number once loops are unrolled.  Raises BuildError."""
    fixed = {f.var for f in loops if f.kind in ("unroll", "vector")}
    for name in sorted(index.names() - fixed):
        raise BuildError(
            f"register buffer {buffer.name} is indexed by {name}, which is not an unrolled loop",
            hint=f"unroll {name}, or set the scope of {buffer.name} to stack",
        )
