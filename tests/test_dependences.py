"""Dependences, free loops and permutable bands, compared with runs of the nests; certificates."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    If,
    LoopNest,
    Outline,
    Seq,
    Stmt,
    Store,
    loop,
    seq,
    stores,
    substitute,
    walk,
)  # fmt: skip
from tensordsl.schedules.lower import lower
from tensordsl.schedules.polyhedral.certificate import Certificate, certify
from tensordsl.schedules.polyhedral.dependences import Analysis, dependences, parallel_loops, permutable
from tensordsl.schedules.polyhedral.validate import find_violation
from validation_mutations import mutate
from validation_nests import NESTS, store

import tensordsl as td
from tensordsl import conditions, expr
from tensordsl.affine import Affine
from tensordsl.dtypes import float32
from tensordsl.expr import Expr, Read

V = Affine.of


# ---------------------------------------------------------------- an oracle that runs the nest


class Accesses:
    """Every access of a run: cell -> [(loop entries and values around it, writes, combined element)]."""

    def __init__(self, nest: LoopNest) -> None:
        self.cells: dict[Any, list[tuple[list[tuple[int, int, int]], bool, Any]]] = defaultdict(list)
        self.storage = 0
        self.entries = 0
        self.time = 0
        places = {}
        for b in nest.parameters:
            self.storage += 1
            places[b.name] = self.storage
        self.go(nest.body, {}, places, [])

    def go(self, s: Stmt, env: dict[str, int], places: dict[str, int], around: list[tuple[int, int, int]]) -> None:
        if isinstance(s, Seq):
            for item in s.items:
                self.go(item, env, places, around)
        elif isinstance(s, For):
            self.entries += 1
            entry = self.entries
            lo, hi = max(x.evaluate(env) for x in s.lo), min(x.evaluate(env) for x in s.hi)
            for v in range(lo, hi, s.step):
                self.go(s.body, {**env, s.var: v}, places, [*around, (id(s), entry, v)])
        elif isinstance(s, If):
            if all(c.evaluate(env) >= 0 for c in s.conditions):
                self.go(s.then, env, places, around)
            elif s.otherwise is not None:
                self.go(s.otherwise, env, places, around)
        elif isinstance(s, Alloc):
            self.storage += 1
            self.go(s.body, env, {**places, s.buffer.name: self.storage}, around)
        elif isinstance(s, Outline):
            self.go(s.body, env, places, around)
        elif isinstance(s, Store):
            for r in self.reads(s.value, env):
                self.touch(r.source, r.index, env, places, around, False, None)  # type: ignore[arg-type]
            i = s.instance
            element = (i.tensor, *(x.evaluate(env) for x in i.index)) if s.op else None
            self.touch(s.buffer, s.index, env, places, around, True, element)

    def reads(self, e: Expr, env: dict[str, int]) -> list[Read]:
        if isinstance(e, expr.Op) and e.name == "select":
            known = conditions.conditions(e.args[0])
            if known is not None:
                return self.reads(e.args[1 if all(c.evaluate(env) >= 0 for c in known) else 2], env)
        own = [e] if isinstance(e, Read) else []
        return own + [r for child in expr.children(e) for r in self.reads(child, env)]

    def touch(
        self,
        b: Buffer,
        index: Any,
        env: dict[str, int],
        places: dict[str, int],
        around: Any,
        writes: bool,
        element: Any,
    ) -> None:
        folds = b.fold + (0,) * len(index)
        cell = tuple(x.evaluate(env) % f if f else x.evaluate(env) for x, f in zip(index, folds))
        at = (places[b.name], cell)
        if b.banks:
            at = (places[b.banks[cell[0]]], cell[1:])
        self.cells[at].append((around, writes, element))

    def pairs(self) -> Any:
        """(first, second, relaxable) for every dependence, in the order of the run."""
        for uses in self.cells.values():
            for n, (b, second, to) in enumerate(uses):
                for a, first, of in uses[:n]:
                    if first or second:
                        yield a, b, of is not None and of == to


def _freedom(nest: LoopNest) -> dict[int, tuple[bool, bool]]:
    """Loop node -> (free exactly, free up to reassociation)."""
    exact, relaxed = set(), set()
    for a, b, relaxable in Accesses(nest).pairs():
        for x, y in zip(a, b):
            if x[:2] != y[:2]:
                break
            if x[2] != y[2]:
                exact.add(x[0])
                if not relaxable:
                    relaxed.add(x[0])
                break
    return {id(f): (id(f) not in exact, id(f) not in relaxed) for f, _ in walk(nest.body) if isinstance(f, For)}


def _reaches(nest: LoopNest) -> set[int]:
    """Loops that contain a statement which runs."""
    return {x[0] for uses in Accesses(nest).cells.values() for around, _, _ in uses for x in around}


@pytest.mark.parametrize("name", NESTS)
def test_free_loops_agree_with_a_run(name: str) -> None:
    nest = NESTS[name]
    rng = random.Random(f"loops of {name}")
    seen = 0
    for n in range(20):
        one = nest.build(rng.choice([None, *nest.legal, *nest.wrong]), **nest.small)
        if n > 3:
            one = mutate(one, rng)
        try:
            found = parallel_loops(one)
        except td.ScheduleError:  # a statement that is no instance of the program
            continue
        truth = _freedom(one)
        shared = [id(x) for x, _ in walk(one.body)]
        if len(set(shared)) < len(shared):
            continue  # one node at two places: the oracle cannot tell them apart
        seen += 1
        for f in found:
            assert (f.exact, f.reassociated) == truth[id(f.loop)], f"{f.loop.var}\n{one}"
        assert {id(f.loop) for f in found} == _reaches(one)
    assert seen > 3


def _bands(nest: LoopNest) -> list[list[For]]:
    """Every run of consecutive loops around a store."""
    found: dict[tuple[int, ...], list[For]] = {}
    for _, path in stores(nest.body):
        loops = [s for s in path if isinstance(s, For)]
        for a, b in product(range(len(loops)), repeat=2):
            if b > a:
                band = loops[a : b + 1]
                found[tuple(map(id, band))] = band
    return list(found.values())


def _permutes(nest: LoopNest, band: list[For], skew: list[int], relax: bool) -> bool:
    run = Accesses(nest)
    want = [id(f) for f in band]
    for uses in run.cells.values():
        for around, _, _ in uses:
            ids = [x[0] for x in around]
            if want[0] in ids and ids[ids.index(want[0]) :][: len(want)] != want:
                return False
    for a, b, relaxable in run.pairs():
        if relaxable and relax:
            continue
        ids = [x[0] for x in a]
        if want[0] not in ids:
            continue
        first = ids.index(want[0])
        if [x[:2] for x in a[: first + 1]] != [x[:2] for x in b[: first + 1]]:
            continue
        if any(x[2] != y[2] for x, y in zip(a[:first], b[:first])):
            continue
        delta = [y[2] - x[2] for x, y in zip(a[first : first + len(band)], b[first : first + len(band)])]
        if any(d + s * delta[0] < 0 for d, s in zip(delta, skew)):
            return False
    return True


@pytest.mark.parametrize("name", ["gemm", "heat", "ring", "scan", "padded", "strided", "dot"])
def test_permutable_bands_agree_with_a_run(name: str) -> None:
    nest = NESTS[name]
    rng = random.Random(f"bands of {name}")
    for variant in (None, *nest.legal):
        one = nest.build(variant, **nest.small)
        bands = _bands(one)
        for band in rng.sample(bands, min(len(bands), 8)):
            skew = [0] + [rng.choice((0, 0, 1)) for _ in band[1:]]
            relax = rng.random() < 0.5
            assert permutable(one, band, skew, reassociate=relax) == _permutes(one, band, skew, relax), (
                [f.var for f in band], skew, relax, variant,
            )  # fmt: skip


# ---------------------------------------------------------------- what must never be relaxed


def test_the_use_of_an_accumulator_stays_behind_its_updates() -> None:
    """Relaxing reductions must not let the epilogue run before the last chunk."""
    nest = NESTS["gemm"].build("spill into the output")
    ko = next(f for f, _ in walk(nest.body) if isinstance(f, For) and f.var == "ko")
    assert not Analysis(nest).freedom(ko).reassociated
    kinds = {(d.source.label, d.sink.label) for d in dependences(nest) if not d.reduction}
    assert ("update C", "compute D") in kinds


def test_two_elements_in_one_cell_do_not_commute() -> None:
    """Updates of different elements in one cell are no reduction."""
    x = td.placeholder((4, 5), name="x")
    k = td.reduce_axis(5, "k")
    s = td.compute((4,), lambda i: td.sum(x[i, k], axis=k), name="s")
    program = td.Program([x], [s])
    bx, bs, a = Buffer("x", x.shape, float32), Buffer("s", s.shape, float32), Buffer("a", (), float32, "register")
    i = V("i")
    update = store(a, (), bx.at(i, V("k")), "update", "s", (i,), (V("k"),), op="add")
    nest = LoopNest(program, (bx, bs), Alloc(a, loop("k", 0, 5, loop("i", 0, 4, update))))
    free = {f.loop.var: f.reassociated for f in parallel_loops(nest)}
    assert free == {"i": False, "k": False}


def test_merges_of_partial_sums_commute() -> None:
    x = td.placeholder((4, 6), name="x")
    k = td.reduce_axis(6, "k")
    s = td.compute((4,), lambda i: td.sum(x[i, k], axis=k), name="s")
    bx, bs = Buffer("x", x.shape, float32), Buffer("s", s.shape, float32)
    part = Buffer("part", (3,), float32, "stack")
    i, p, q = V("i"), V("p"), V("q")
    zero = td.cast(0.0, "float32")
    sweep = loop("p", 0, 3, store(part, (p,), zero, "init", "s", (i,)), loop(
        "q", 0, 2, store(part, (p,), bx.at(i, p * 2 + q), "update", "s", (i,), (p * 2 + q,), op="add")))  # fmt: skip
    merge = loop(
        "p", 0, 3, store(bs, (i,), part.at(p), "merge", "s", (i,), ("m",), [("m", p * 2, p * 2 + 2)], op="add")
    )
    body = loop("i", 0, 4, Alloc(part, seq(sweep, store(bs, (i,), zero, "init", "s", (i,)), merge)))
    nest = LoopNest(td.Program([x], [s]), (bx, bs), body)
    assert find_violation(nest) is None
    assert [(f.loop.var, f.exact, f.reassociated) for f in parallel_loops(nest)] == [
        ("i", True, True), ("p", True, True), ("q", False, True), ("p", False, True),
    ]  # fmt: skip


def test_a_nest_that_is_no_instance_of_its_program_is_refused() -> None:
    with pytest.raises(td.ScheduleError):
        parallel_loops(NESTS["gemm"].build("init with 1"))


# ---------------------------------------------------------------- certificates


def _jacobi(t: int, n: int, name: str = "u", axis: str = "x") -> td.Program:
    x = td.placeholder((n, n), name=axis)

    def step(u: td.Tensor, t: Expr, i: Expr, j: Expr) -> Expr:
        inner = (i >= 1) & (i < n - 1) & (j >= 1) & (j < n - 1)
        near = u[t - 1, i, j] + u[t - 1, i - 1, j] + u[t - 1, i + 1, j] + u[t - 1, i, j - 1] + u[t - 1, i, j + 1]
        return td.select(t < 1, x[i, j], td.select(inner, near, u[t - 1, i, j]))

    return td.Program([x], [td.recurrence((t, n, n), step, name=name, order="t")])


def test_certificates_of_known_programs() -> None:
    gemm = certify(NESTS["gemm"].build().program)
    assert gemm.definitions[0].order == ("parallel", "parallel", "reassociate")
    assert gemm.definitions[0].bands == ((0, 1, 2),) and gemm.definitions[1].order == ("parallel", "parallel")
    jacobi = certify(_jacobi(8, 20)).definitions[0]
    assert (jacobi.order, jacobi.bands, jacobi.skew) == (("serial", "parallel", "parallel"), ((0, 1, 2),), (0, 1, 1))
    scan = certify(NESTS["scan"].build().program).definitions[0]
    assert (scan.order, scan.skew) == (("serial", "parallel"), (0, 0))


def test_a_recurrence_that_reaches_backwards_without_bound_has_no_band() -> None:
    x = td.placeholder((6, 9), name="x")
    s = td.recurrence((6, 9), lambda s, i, j: td.select(i > 0, s[i - 1, 8 - j] + x[i, j], x[i, j]), name="s", order="i")
    axes = certify(td.Program([x], [s])).definitions[0]
    assert axes.order == ("serial", "parallel")
    assert axes.bands == ((0, 1),) and axes.skew == (0, 8)  # from column 8 to column 0 in one step
    x = td.placeholder((6, 99), name="x")
    s = td.recurrence((6, 99), lambda s, i, j: td.select(i > 0, s[i - 1, 98 - j], x[i, j]), name="s", order="i")
    assert certify(td.Program([x], [s])).definitions[0].bands == ((0,), (1,))


def test_mutual_recurrences_share_their_steps() -> None:
    """Two fields that step in turn: the time loop holds both, so it is no part of a band."""
    x = td.placeholder((9,), name="x")
    e, h = td.recurrences(
        [(6, 9), (6, 9)],
        [
            lambda e, h, t, i: td.select(
                t < 1, x[i], td.select(i >= 1, e[t - 1, i] + h[t - 1, i] - h[t - 1, i - 1], 0.0)
            ),
            lambda e, h, t, i: td.select(t < 1, 0.0, td.select(i < 8, h[t - 1, i] + e[t, i + 1] - e[t, i], 0.0)),
        ],
        ["e", "h"],
        order="t",
    )
    program = td.Program([x], [e, h])
    for axes in certify(program).definitions:
        assert (axes.order, axes.bands, axes.skew) == (("serial", "parallel"), ((0,), (1,)), (0, 0))
    assert find_violation(lower(program)) is None


def test_nothing_is_claimed_without_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensordsl.schedules.polyhedral import certificate

    monkeypatch.setattr(certificate, "LIMIT", 100)
    axes = certify(_jacobi(7, 31)).definitions[0]
    assert (axes.order, axes.bands) == (("serial",) * 3, ((0,), (1,), (2,)))


def test_names_do_not_matter_and_sizes_do() -> None:
    assert certify(_jacobi(8, 20)) is certify(_jacobi(8, 20, "v", "start"))
    assert certify(_jacobi(8, 20)) is not certify(_jacobi(8, 21))
    by_name = certify(_jacobi(8, 20, "v", "start")).by_name(_jacobi(8, 20, "v", "start"))
    assert list(by_name) == ["v"]


def test_certificates_survive_json() -> None:
    c = certify(_jacobi(8, 20))
    assert Certificate.from_json(json.loads(json.dumps(c.to_json()))) == c
    for wrong in ({}, {"definitions": [{}]}, {"definitions": [{"order": ["maybe"], "bands": [], "skew": []}]}):
        with pytest.raises(td.RecordError):
            Certificate.from_json(wrong)


@pytest.mark.parametrize("seed", range(6))
def test_certified_bands_may_be_tiled(seed: int) -> None:
    """Any tile sizes of the skewed band are proven by value, and the unskewed band is refused."""
    rng = random.Random(seed)
    t, n = 7, 9
    program = _jacobi(t, n)
    axes = certify(program).definitions[0]
    assert find_violation(_tiled(program, axes.skew, [rng.randrange(2, 6) for _ in range(3)])) is None
    wrong = find_violation(_tiled(program, (0, 0, 0), [3, 3, 3]))
    assert wrong is not None and wrong.kind == "value"


def _tiled(program: td.Program, skew: tuple[int, ...], sizes: list[int]) -> LoopNest:
    """The loops of one definition skewed by the first axis, then all tiled."""
    plain = lower(program)
    s, path = next(stores(plain.body))
    loops = [x for x in path if isinstance(x, For)]
    first = V(loops[0].var)
    env = {f.var: V(f.var) - (first * k if n else 0) for n, (f, k) in enumerate(zip(loops, skew))}
    body: Stmt = substitute(s, env)
    for f, k, size in reversed(list(zip(loops, skew, sizes))):
        shift = first * k if f is not loops[0] else Affine()
        o = V(f.var + "o")
        lows = (o * size, f.lo[0] + shift)
        body = loop(f.var, lows, (o * size + size, f.hi[0] + shift), body)
    for f, k, size in reversed(list(zip(loops, skew, sizes))):
        last = f.hi[0].const + k * loops[0].hi[0].const
        body = loop(f.var + "o", 0, -(-last // size), body)
    return replace(plain, body=body)
