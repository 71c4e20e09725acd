"""Barriers and waits: the happens-before check against an enumeration, and where insert_sync puts them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from tensordsl.codegen.cuda.sync import cheapest, check_sync, insert_sync
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    If,
    Instance,
    LoopNest,
    Seq,
    Stmt,
    Store,
    Sync,
    children,
    loop,
    rewrite,
    seq,
    stores,
    walk,
    with_children,
)  # fmt: skip
from tensordsl.schedules.polyhedral.happens_before import find_hazards
from tensordsl.schedules.threads import Digits, distinct, phases

import tensordsl as td
from tensordsl.affine import Affine
from tensordsl.dtypes import float32
from tensordsl.errors import ScheduleError
from tensordsl.expr import Expr, reads

THREADS, STEPS = 4, 4
ROWS = STEPS + 3  # what a copy three steps ahead may touch
k, t, r = Affine.of("k"), Affine.of("t"), Affine.of("r")

# ---------------------------------------------------------------- small nests by hand


def program() -> td.Program:
    x = td.placeholder((ROWS, THREADS), name="x")
    return td.Program([x], [td.compute((ROWS, THREADS), lambda i, j: x[i, j], name="y")], name="p")


P = program()
X, Y = (Buffer(n, (ROWS, THREADS), float32) for n in "xy")
ANY = Instance("copy", "x", (k, t))  # the meaning of a store plays no role for syncs


def tile(fold: int) -> Buffer:
    return Buffer("S", (ROWS, THREADS), float32, "shared", fold=(fold, 0))


def put(b: Buffer, step: Affine, lane: Affine, value: Expr, n: int = THREADS, notes: tuple[str, ...] = ()) -> Stmt:
    return replace(loop("t", 0, n, Store(b, (step, lane), value, ANY), kind="thread"), notes=notes)


def nest(s: Buffer, *parts: Stmt) -> LoopNest:
    return LoopNest(P, (X, Y), Alloc(s, seq(*parts)))


def pipelined(fold: int, async_copy: bool, ahead: int = 1) -> LoopNest:
    """Copy `ahead` steps before use; each thread reads what its neighbour wrote."""
    s = tile(fold)
    notes = ("async",) if async_copy else ()
    fill = [put(s, Affine.of(i), t, X.at(i, t), notes=notes) for i in range(ahead)]
    use = put(Y, k, t, s.at(k, (t + 1) % THREADS))
    return nest(s, *fill, loop("k", 0, STEPS, put(s, k + ahead, t, X.at(k + ahead, t), notes=notes), use))


def syncs(n: LoopNest) -> list[str]:
    """The syncs of a nest in the order of the text, those inside a loop in brackets."""
    found = []
    for s, path in walk(n.body):
        if isinstance(s, Sync):
            word = f"{s.kind} {s.count}" if s.kind == "wait" else s.kind
            found.append(f"[{word}]" if any(isinstance(f, For) for f in path) else word)
    return found


# ---------------------------------------------------------------- the oracle


@dataclass(frozen=True)
class Access:
    thread: int
    cell: tuple[object, ...]
    writes: bool
    in_flight: bool


Event = Sync | tuple[Access, ...]


def trace(n: LoopNest) -> dict[int, list[Event]]:
    """What the threads do in order: syncs and phases with their accesses, by block."""
    by_stmt = {id(p.stmt): p for p in phases(n)}
    followed = {st.buffer.name for st, _ in stores(n.body)}
    blocks: dict[int, list[Event]] = {}

    def within(s: Stmt, env: dict[str, int], path: tuple[Stmt, ...]) -> Iterator[Access]:
        if isinstance(s, Store):
            chain = tuple(f for f in path if isinstance(f, For) and f.kind == "thread")
            number = Digits(chain, tuple(f.hi[0].const - f.lo[0].const for f in chain)).number().evaluate(env)
            in_flight = any(isinstance(f, For) and "async" in f.notes for f in path)
            used = [(r.source, r.index, False) for r in reads(s.value)]
            if s.op:
                used.append((s.buffer, s.index, False))
            for b, index, writes in [*used, (s.buffer, s.index, True)]:
                if b.name in followed:
                    values = [i.evaluate(env) for i in index]
                    folds = b.fold or (0,) * len(values)
                    cell = (b.name, *(v % m if m else v for v, m in zip(values, folds)))
                    yield Access(number, cell, writes, in_flight)
        elif isinstance(s, For):
            for v in range(max(b.evaluate(env) for b in s.lo), min(b.evaluate(env) for b in s.hi), s.step):
                yield from within(s.body, {**env, s.var: v}, (*path, s))
        elif isinstance(s, Seq):
            for x in s.items:
                yield from within(x, env, path)
        elif isinstance(s, If) and all(c.evaluate(env) >= 0 for c in s.conditions):
            yield from within(s.then, env, path)

    def go(s: Stmt, env: dict[str, int], path: tuple[Stmt, ...], out: list[Event]) -> None:
        if id(s) in by_stmt:
            out.append(tuple(within(s, env, path)))
        elif isinstance(s, Sync):
            out.append(s)
        elif isinstance(s, Seq):
            for x in s.items:
                go(x, env, path, out)
        elif isinstance(s, Alloc):
            go(s.body, env, path, out)
        elif isinstance(s, If):
            go(s.then if all(c.evaluate(env) >= 0 for c in s.conditions) else s.otherwise or Seq(()), env, path, out)
        elif isinstance(s, For):
            for v in range(max(b.evaluate(env) for b in s.lo), min(b.evaluate(env) for b in s.hi), s.step):
                here = blocks.setdefault(len(blocks), []) if s.kind == "block" else out
                go(s.body, {**env, s.var: v}, (*path, s), here)

    if isinstance(n.body, For) and n.body.kind == "block":
        go(n.body, {}, (), [])
    else:
        go(n.body, {}, (), blocks.setdefault(0, []))
    return blocks


def has_hazard(n: LoopNest) -> bool:
    """Point by point: do two accesses conflict with nothing to order them?"""
    blocks = trace(n)
    everything = {b: [a for e in events if not isinstance(e, Sync) for a in e] for b, events in blocks.items()}
    for b in blocks:
        for c in blocks:
            if b < c and any(
                x.cell == y.cell and (x.writes or y.writes) and x.cell[0] != "S"
                for x in everything[b]
                for y in everything[c]
            ):
                return True
    return any(_block_hazard(events) for events in blocks.values())


def _block_hazard(events: list[Event]) -> bool:
    for i, first in enumerate(events):
        if isinstance(first, Sync):
            continue
        for at, x in enumerate(first):  # a thread's own accesses are in its order
            for later, y in enumerate(first):
                unordered = x.thread != y.thread or (x.in_flight and at < later)
                if x.cell == y.cell and (x.writes or y.writes) and unordered:
                    return True
        commits, arrived, handed, barrier = 0, False, False, False
        for e in events[i + 1 :]:
            if isinstance(e, Sync):
                barrier |= e.kind == "barrier"
                handed |= e.kind == "barrier" and arrived
                commits += e.kind == "commit"
                arrived |= e.kind == "wait" and commits > e.count
                continue
            for x in first:
                for y in e:
                    if x.cell == y.cell and (x.writes or y.writes):
                        if x.thread != y.thread and not (handed if x.in_flight else barrier):
                            return True
                        if x.thread == y.thread and x.in_flight and not arrived:
                            return True
    return False


def random_nest(rng: random.Random) -> LoopNest:
    """Phases that write and read a folded tile, with syncs thrown in; mostly wrong."""
    s = tile(rng.choice([1, 2, 3]))
    lanes = [t, (t + 1) % THREADS, t // 2, 3 - t]

    def phase(step: Affine) -> Stmt:
        kind = rng.random()
        if kind < 0.1:  # thread 0 alone, in a loop
            return loop("r", 0, 3, Store(Y, (step, r), s.at(step, r + 1), ANY))
        if kind < 0.25:  # a loop within each thread, over cells or over steps
            notes = ("async",) if rng.random() < 0.5 else ()
            write = Store(s, rng.choice([(step, t), (step + r, t)]), X.at(step, t), ANY)
            read = Store(Y, (step + r, t), s.at(step + rng.choice([Affine(), r]), t), ANY)
            wrapped = replace(loop("c", 0, 1, write), notes=notes)
            parts = rng.choice([(wrapped,), (wrapped, read), (read, wrapped)])
            return loop("t", 0, THREADS, loop("r", 0, 2, *parts), kind="thread")
        n = rng.choice([THREADS, THREADS, 2])
        if rng.random() < 0.5:
            d = step + rng.choice([0, 1])
            notes = ("async",) if rng.random() < 0.4 else ()
            return put(s, d, rng.choice(lanes[:2] if n == THREADS else lanes[:1]), X.at(d, t), n, notes)
        return put(Y, step, t, s.at(step + rng.choice([0, 1]), rng.choice(lanes)), n)

    def some(step: Affine, n: int) -> list[Stmt]:
        parts: list[Stmt] = []
        for _ in range(n):
            if rng.random() < 0.7:
                parts.append(
                    rng.choice([Sync("barrier"), Sync("barrier"), Sync("commit"), Sync("wait", rng.choice([0, 0, 1]))])
                )
            part = phase(step)
            parts.append(If((step - 1,), part) if step.terms and rng.random() < 0.2 else part)
        if rng.random() < 0.5:
            parts += [Sync("commit"), Sync("wait", 0), Sync("barrier")][rng.choice([0, 1, 2]) :]
        return parts

    body = [*some(Affine(), rng.choice([0, 1])), loop("k", 0, STEPS, *some(k, rng.choice([1, 2, 3])))]
    whole = seq(*body, *some(Affine.of(STEPS), rng.choice([0, 1])))
    n = LoopNest(P, (X, Y), Alloc(s, whole))
    return replace(n, body=loop("b", 0, 2, n.body, kind="block")) if rng.random() < 0.2 else n


def test_the_check_agrees_with_an_enumeration() -> None:
    verdicts = []
    for seed in range(250):
        n = distinct(random_nest(random.Random(seed)))
        found = next(find_hazards(n), None)
        assert (found is not None) == has_hazard(n), f"seed {seed}: {found and found.example}\n{n}"
        verdicts.append(found is not None)
    assert 20 < sum(verdicts) < 230  # both verdicts occur


def test_inserted_syncs_suffice_and_none_is_superfluous() -> None:
    """For random nests without syncs: the result is right by enumeration, and dropping any barrier or wait is not."""
    served = 0
    for seed in range(60):
        bare = random_nest(random.Random(1000 + seed))
        n = without(bare, lambda s: True)
        try:
            done = insert_sync(n)
        except ScheduleError:
            assert any(h.hopeless for h in find_hazards(distinct(n)))
            continue
        assert not has_hazard(distinct(done))
        for i, s in enumerate([s for s, _ in walk(done.body) if isinstance(s, Sync) and s.kind != "commit"]):
            served += 1
            less = without(done, lambda x, s=s: x is s)
            assert has_hazard(distinct(less)), f"seed {seed}: sync {i} is superfluous\n{done}"
    assert served > 30


def without(n: LoopNest, drop: Callable[[Sync], bool]) -> LoopNest:
    """The nest with some of its syncs dropped."""

    def go(s: Stmt) -> Stmt:
        if isinstance(s, Sync) and drop(s):
            return Seq(())
        return with_children(s, tuple(go(c) for c in children(s)))

    return replace(n, body=go(n.body))


# ---------------------------------------------------------------- the classical forms


def test_two_stages_need_one_barrier_a_step() -> None:
    assert syncs(insert_sync(pipelined(2, False))) == ["[barrier]"]


def test_one_stage_needs_two() -> None:
    s = tile(1)
    n = nest(s, loop("k", 0, STEPS, put(s, k, t, X.at(k, t)), put(Y, k, t, s.at(k, (t + 1) % THREADS))))
    assert syncs(insert_sync(n)) == ["[barrier]", "[barrier]"]


def test_own_cells_need_none() -> None:
    s = tile(1)
    n = nest(s, loop("k", 0, STEPS, put(s, k, t, X.at(k, t)), put(Y, k, t, s.at(k, t))))
    assert syncs(insert_sync(n)) == []


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (2, ["commit", "[wait 0]", "[barrier]", "[commit]"]),
        (3, ["commit", "commit", "[wait 1]", "[barrier]", "[commit]"]),
        (4, ["commit", "commit", "commit", "[wait 2]", "[barrier]", "[commit]"]),
    ],
)
def test_asynchronous_copies_wait_as_late_as_the_stages_allow(stages: int, expected: list[str]) -> None:
    n = insert_sync(pipelined(stages, True, ahead=stages - 1))
    assert syncs(n) == expected
    check_sync(n)


def test_a_tile_reused_too_early_is_refused_with_a_counterexample() -> None:
    good = insert_sync(pipelined(2, False))
    check_sync(good)
    with pytest.raises(ScheduleError) as refused:
        check_sync(without(good, lambda s: s.kind == "barrier"))
    text = str(refused.value)
    assert "a barrier is missing" in text and "hint: insert_sync" in text
    assert "counterexample: thread 0 writes S[0, 0]; thread 3 reads S[0, 0] at k = 0" in text
    assert "->  " in text  # both stores are marked in the nest


def test_a_weaker_wait_is_refused() -> None:
    good = insert_sync(pipelined(3, True, ahead=2))
    waits = [s for s, _ in walk(good.body) if isinstance(s, Sync) and s.kind == "wait"]
    weak = replace(good, body=rewrite(good.body, lambda s: Sync("wait", 2) if s is waits[0] else None))
    with pytest.raises(ScheduleError, match="a wait and a barrier is missing"):
        check_sync(weak)


def test_no_barrier_helps_within_a_phase_or_between_blocks() -> None:
    s = tile(1)
    racing = nest(s, put(s, Affine(), Affine(), X.at(0, t)))
    with pytest.raises(ScheduleError, match="threads of one phase share a cell"):
        insert_sync(racing)
    crossing = LoopNest(P, (X, Y), loop("b", 0, 2, put(Y, Affine(), t, X.at(0, t)), kind="block"))
    with pytest.raises(ScheduleError, match="blocks share a cell"):
        insert_sync(crossing)


def test_global_memory_within_a_block_needs_barriers_too() -> None:
    n = LoopNest(P, (X, Y), seq(put(Y, Affine(), t, X.at(0, t)), put(Y, Affine.of(1), t, Y.at(0, 3 - t))))
    assert syncs(insert_sync(n)) == ["barrier"]


def test_misplaced_loops_are_refused() -> None:
    inside = loop("b", 0, 2, put(Y, Affine.of("b"), t, X.at(0, t)), kind="block")
    with pytest.raises(ScheduleError, match="block loop b is not outermost"):
        insert_sync(LoopNest(P, (X, Y), seq(put(Y, Affine(), t, X.at(0, t)), inside)))
    uneven = loop(
        "t",
        0,
        2,
        put(Y, Affine(), t, X.at(0, 0)).body,
        loop("u", 0, 2, Store(Y, (t, Affine.of("u")), X.at(0, 0), ANY), kind="thread"),
        kind="thread",
    )  # type: ignore[attr-defined]
    with pytest.raises(ScheduleError, match="in thread loops of 2 and of 2 x 2"):
        insert_sync(LoopNest(P, (X, Y), uneven))


def test_cheapest_slots_are_found() -> None:
    a, b, c = (1, 0), (1, 1), (2, 0)
    costs = {a: 10, b: 10, c: 1}
    assert cheapest([frozenset({a, b}), frozenset({b}), frozenset({b, c})], costs) == {b}
    assert cheapest([frozenset({a, c}), frozenset({b, c})], costs) == {c}
    assert cheapest([], costs) == frozenset()
