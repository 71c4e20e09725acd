"""Reducers of one's own: their meaning, their errors, the proof of what schedules do with them, the kernels."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from error_texts import check
from tensordsl.codegen.cuda.emulate import compile_emulation
from tensordsl.codegen.cuda.printer import to_cuda
from tensordsl.codegen.cuda.sync import insert_sync
from tensordsl.schedules.components import split_components
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import LoopNest, Store, rewrite
from tensordsl.schedules.polyhedral.validate import find_violation
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches import sketches
from tensordsl.schedules.trace import Trace

import tensordsl as td
from tensordsl import monoids, summaries
from tensordsl.combination import Combination
from tensordsl.expr import Const, Op
from tensordsl.targets import target
from tensordsl.targets.cuda import cuda_target

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import reducers

EXAMPLES = {n: p for n, p in vars(reducers).items() if isinstance(p, td.Program)}
Array = np.ndarray[Any, Any]


def both(program: td.Program, *arrays: Array) -> dict[str, Array]:
    """The results of the interpreter, after a comparison with the default kernel within the derived bound."""
    inputs = {t.name: a for t, a in zip(program.inputs, arrays)}
    exact, bound = td.interpret(program, inputs), td.error_bound(program, inputs)
    found = td.compile(program)(*arrays)
    for (name, e), f in zip(exact.items(), found if len(exact) > 1 else [found]):
        wide = np.asarray(f, np.float64)
        with np.errstate(invalid="ignore"):
            near = np.abs(wide - e.astype(np.float64)) <= bound[name]
        assert (near | (f == e) | (np.isnan(wide) & np.isnan(e.astype(np.float64)))).all(), (name, f, e)
    return exact


def small(shape: tuple[int, ...], seed: int = 0, dtype: str = "float32") -> Array:
    return np.asarray(np.random.default_rng(seed).integers(-4, 5, shape)).astype(dtype)


# ---------------------------------------------------------------- the library, against numpy

SHAPES = [
    ((5, 70), 1),
    ((70, 5), 0),
    ((3, 40, 6), 1),
    ((3, 4, 33), (1, 2)),
    ((2, 3, 33), None),
    ((4, 1), 1),
    ((17,), 0),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8", "bool"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_library_is_numpys(shape: tuple[int, ...], axis: Any, dtype: str) -> None:
    x = td.placeholder(shape, dtype, name="x")
    outputs = [x.any(axis), x.all(axis), td.mean(x, axis=axis), x.var(axis), x.std(axis), td.logsumexp(x, axis=axis)]
    data = small(shape, dtype=dtype)
    wide = data.astype(np.float64)
    wanted = [data.any(axis), data.all(axis), wide.mean(axis), wide.var(axis), wide.std(axis)]
    wanted.append(np.log(np.exp(wide).sum(axis)))
    if not isinstance(axis, tuple):
        outputs += [x.argmax(axis), x.argmin(axis)]
        wanted += [data.argmax(axis), data.argmin(axis)]
    exact = both(td.Program([x], outputs), data)
    for found, reference in zip(exact.values(), wanted):
        assert found.shape == np.shape(reference)
        np.testing.assert_allclose(found, reference, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "row",
    [
        [nan, 1, 5, nan], [1, nan, inf, 2], [-inf] * 40, [inf, nan] * 20, [inf] * 3, [3, 3, 3, 7, 7] * 9,
        [-inf, nan], [nan] * 33, [0.0, -0.0, 0.0], [inf, -inf, 1.0],
    ],
)  # fmt: skip
def test_ties_and_what_is_no_number(row: list[float]) -> None:
    data = np.array([row, row[::-1]], np.float32)
    x = td.placeholder(data.shape, name="x")
    exact = both(td.Program([x], [x.argmax(1), x.argmin(1), td.logsumexp(x, axis=1), x.var(1)]), data)
    with np.errstate(all="ignore"):
        wide = data.astype(np.float64)
        wanted = [data.argmax(1), data.argmin(1), np.log(np.exp(wide).sum(1)), wide.var(1)]
    for found, reference in zip(exact.values(), wanted):
        np.testing.assert_allclose(found, reference, rtol=1e-12)


def test_large_means_keep_the_variance() -> None:
    data = (small((3, 4096)) + 1e6).astype(np.float32)
    x = td.placeholder(data.shape, name="x")
    np.testing.assert_allclose(td.compile(td.Program([x], [x.var(1)]))(data), data.astype(np.float64).var(1), rtol=1e-6)


def test_conditions_leave_terms_out() -> None:
    x, k = td.placeholder((6, 50), name="x"), td.reduce_axis(50, "k")
    data = small((6, 50))

    def summary(f: Any) -> td.Tensor:
        return td.compute((6,), lambda i: f(x[i, k], axis=k, where=k < 9 * i))

    fs = [td.argmax, td.any, td.all, td.logsumexp, td.mean, td.var]
    exact = list(both(td.Program([x], [summary(f) for f in fs]), data).values())
    rows = [data[i, : 9 * i].astype(np.float64) for i in range(6)]
    assert exact[0].tolist() == [-1, *(int(r.argmax()) for r in rows[1:])]
    assert exact[1].tolist() == [bool(r.any()) for r in rows]
    assert exact[2].tolist() == [bool(r.all()) for r in rows]
    np.testing.assert_allclose(exact[3], [-inf, *(math.log(np.exp(r).sum()) for r in rows[1:])])
    np.testing.assert_allclose(exact[4][1:], [r.mean() for r in rows[1:]])
    np.testing.assert_allclose(exact[5][1:], [r.var() for r in rows[1:]], atol=1e-12)


def test_dimensions_of_size_zero() -> None:
    x = td.placeholder((0, 5), name="x")
    exact = both(
        td.Program([x], [x.argmax(1), x.any(0), x.all(0), td.logsumexp(x, axis=0)]), np.zeros((0, 5), np.float32)
    )
    assert [v.tolist() for v in exact.values()] == [[], [False] * 5, [True] * 5, [-inf] * 5]
    for f in (td.argmax, td.argmin, td.mean, td.var):
        with pytest.raises(td.ProgramError, match="there are no elements along i"):
            f(x, axis=0)


def test_positions_over_several_axes_count_in_order() -> None:
    x = td.placeholder((4, 5, 6), name="x")
    data = small((4, 5, 6))
    k, r = td.reduce_axis(5, "k"), td.reduce_axis(6, "r")
    here = td.compute((4,), lambda i: td.argmax(x[i, k, r], axis=(k, r)), name="here")
    exact = both(td.Program([x], [here, td.argmax(x)]), data)
    assert exact["here"].tolist() == data.reshape(4, 30).argmax(1).tolist()
    assert exact["x_argmax"] == data.argmax()


def test_the_librarys_reducers_pass_their_test() -> None:
    for r in (summaries.MOMENTS, summaries.LARGEST, summaries.SMALLEST):
        monoids._test(r)


# ---------------------------------------------------------------- index and array notation


def test_results_share_one_reduction() -> None:
    x, k = td.placeholder((4, 9), name="x"), td.reduce_axis(9, "k")
    p = td.Program([x], td.compute((4,), lambda i: reducers.largest((x[i, k], k), axis=k), name=["best", "where"]))
    assert [t.name for t in p.tensors] == ["best_largest", "best", "where"]
    assert [str(t.dtype) for t in p.tensors] == ["(float32, int32)", "float32", "int64"]
    data = small((4, 9))
    exact = both(p, data)
    assert exact["best"].tolist() == data.max(1).tolist()
    assert exact["where"].tolist() == data.argmax(1).tolist()


def test_tensors_and_tuples_of_tensors() -> None:
    x, v = td.placeholder((4, 9), name="x"), td.placeholder((4, 9), name="v")
    low, high = reducers.spread(x, axis=0)
    best, label = reducers.winner((x, v), axis=1, keepdims=True)
    data, other = small((4, 9)), small((4, 9), 1)
    found = list(both(td.Program([x, v], [low, high, best, label]), data, other).values())
    assert found[0].tolist() == data.min(0).tolist()
    assert found[1].tolist() == data.max(0).tolist()
    assert found[2].tolist() == data.max(1, keepdims=True).tolist()
    assert found[3][:, 0].tolist() == [max(b for a, b in zip(r, o) if a == max(r)) for r, o in zip(data, other)]


def test_several_reducers_in_one_definition() -> None:
    x, k = td.placeholder((5, 33), name="x"), td.reduce_axis(33, "k")

    def body(i: Any) -> Any:
        low, high = reducers.spread(x[i, k], axis=k)
        return td.select(td.any(x[i, k] > 3, axis=k), high - low, td.sum(x[i, k], axis=k))

    data = small((5, 33))
    exact = both(td.Program([x], [td.compute((5,), body, name="y")]), data)
    rows = data.astype(np.float64)
    assert exact["y"].tolist() == np.where((rows > 3).any(1), rows.max(1) - rows.min(1), rows.sum(1)).tolist()


def test_a_reduction_inside_a_recurrence() -> None:
    x, k = td.placeholder((6, 4), name="x"), td.reduce_axis(4, "k")

    def step(u: td.Tensor, t: Any, i: Any) -> Any:
        low, high = reducers.spread(td.select(t > 0, u[t - 1, k], 0.0), axis=k)
        return td.select(t > 0, low - high + x[t, i], x[t, i])

    u = td.recurrence((6, 4), step, name="u", order="t")
    data = small((6, 4))
    wanted = data.astype(np.float64)
    for t in range(1, 6):
        wanted[t] += wanted[t - 1].min() - wanted[t - 1].max()
    assert both(td.Program([x], [u]), data)["u"].tolist() == wanted.tolist()


def test_names_have_no_meaning() -> None:
    def text(name: str) -> str:
        x, k = td.placeholder((40, 50), name="x"), td.reduce_axis(50, "k")
        r = td.reducer(name, (-inf, inf), reducers.later)
        p = td.Program([x], [td.compute((40,), lambda i: r((x[i, k], k), axis=k)[1], name="y")])
        return str(default_schedule(p, target("avx2"))).replace(f"y_{name}", "y_").replace(f"{name}=", "r=")

    assert text("argmax") == text("nothing")


# ---------------------------------------------------------------- what a person sees who is wrong

CASES: list[Callable[[], object]] = []
X = td.placeholder((4, 5), name="x")


def case(f: Callable[[], object]) -> Callable[[], object]:
    CASES.append(f)
    return f


@case
def not_associative() -> object:
    """
    middle: combine is not associative
      --> here
    counterexample: a = -0.7037352358069926, b = -0.7037352358069926, c = 2.0: combine(combine(a, b), c) = 0.6481323820965037, combine(a, combine(b, c)) = -0.02780142685524445
    """
    nothing = -1e300
    half = lambda a, b: td.select(a < -9e99, b, td.select(b < -9e99, a, (a + b) / 2))  # noqa: E731
    return td.reducer("middle", nothing, half)  # here


@case
def not_commutative() -> object:
    """
    last: combine is not commutative
      --> here
    counterexample: a = (True, 2.0), b = (True, 0.0): combine(a, b) = (True, 0.0), combine(b, a) = (True, 2.0)
    hint: declare it: commutative=False keeps the terms in order
    """
    found = (lambda a, b: (a[0] | b[0], td.select(b[0], b[1], a[1])), lambda e: (True, e))
    return td.reducer("last", (False, 0.0), *found)  # here


@case
def an_identity_that_changes_states() -> object:
    """
    difference: the identity changes a state
      --> here
    counterexample: a = 3.0: combine(identity, a) = -3.0
    """
    return td.reducer("difference", 0.0, lambda a, b: a - b)  # here


@case
def reserved_name() -> object:
    """
    the name 'sum' is that of a reducer of the language
      --> here
    hint: call it otherwise
    """
    return td.reducer("sum", 0.0, lambda a, b: a + b)  # here


@case
def too_few_components() -> object:
    """
    pair: combine gives 1 values, the state has 2
      --> here
    """
    return td.reducer("pair", (0.0, 0.0), lambda a, b: a[0] + b[0])  # here


@case
def wrong_term() -> object:
    """
    spread: lift takes 1 values, a term has 2
      --> here
    """
    k = td.reduce_axis(5, "k")
    return td.compute((4,), lambda i: reducers.spread((X[i, k], k), axis=k)[0])  # here


@case
def wrong_state() -> object:
    """
    largest: a term has 1 components, the identity has 2
      --> here
    """
    k = td.reduce_axis(5, "k")
    return td.compute((4,), lambda i: reducers.largest(X[i, k], axis=k)[0])  # here


@case
def names_for_several() -> object:
    """
    compute: 2 expressions need as many names, got 'y'
      --> here
    """
    k = td.reduce_axis(5, "k")
    return td.compute((4,), lambda i: reducers.spread(X[i, k], axis=k), name="y")  # here


@case
def an_axis_of_index_notation_on_a_tensor() -> object:
    """
    argmax: axis of tensor x is a reduce_axis
      --> here
    hint: use a dimension, td.argmax(x, axis=0), or index the tensor
    """
    return td.argmax(X, axis=td.reduce_axis(5, "k"))  # type: ignore[call-overload]  # here


@case
def a_dimension_in_index_notation() -> object:
    """
    mean: axis=0 is not an axis to reduce over
      --> here
    hint: make it with td.reduce_axis
    """
    return td.compute((4,), lambda i: td.mean(X[i, 0], axis=0))  # type: ignore[call-overload]  # here


@pytest.mark.parametrize("wrong", CASES, ids=lambda f: f.__name__)
def test_errors(wrong: Callable[[], object]) -> None:
    check(wrong)


# ---------------------------------------------------------------- schedules


def argmax_program(rows: int = 6, size: int = 50) -> td.Program:
    x, k = td.placeholder((rows, size), name="x"), td.reduce_axis(size, "k")
    return td.Program([x], [td.compute((rows,), lambda i: reducers.largest((x[i, k], k), axis=k)[1], name="y")])


def ordered_program(rows: int = 6, size: int = 50) -> td.Program:
    x, k = td.placeholder((rows, size), name="x"), td.reduce_axis(size, "k")
    return td.Program([x], [td.compute((rows,), lambda i: reducers.first(x[i, k], axis=k)[1], name="y")])


STEPS: dict[str, Callable[[Schedule, str], Schedule]] = {
    "rfactor": lambda s, t: s.rfactor(t, "k", 8),
    "lanes": lambda s, t: s.rfactor(t, "k", 16).reorder(f"{t}_rf", "k.o", "k.l").vectorize(f"{t}_rf", "k.l"),
    "twice": lambda s, t: s.rfactor(t, "k", 8).rfactor(t, "k.l", 3),
    "tile": lambda s, t: s.split(t, "i", 4).split(t, "k", 7).unroll(t, "k.i"),
    "accumulator": lambda s, t: s.cache_write(t, "i"),
    "pad": lambda s, t: s.pad(t, "k", 16),
    "placed": lambda s, t: s.compute_at(t, "y", "i"),
    "parallel": lambda s, t: s.parallel(t, "i"),
    "decomposed": lambda s, t: s.decompose_reduction(t, "i"),
}


@pytest.mark.parametrize("program", [argmax_program(), ordered_program()], ids=["argmax", "ordered"])
@pytest.mark.parametrize("name", STEPS)
def test_primitives(name: str, program: td.Program) -> None:
    stage = program.tensors[0].name
    if name == "lanes" and stage == "y_first":
        pytest.skip("lanes of neighbours do not have equal lengths")
    s = STEPS[name](Schedule(program), stage).validate()
    data = {"x": small((6, 50))}
    wanted = td.interpret(program, data)["y"].tolist()
    assert interpret(s.nest, data, lockstep=True)["y"].tolist() == wanted
    plain = replace(s.nest, body=split_components(s.nest.body))
    assert interpret(plain, data, lockstep=True)["y"].tolist() == wanted
    again = Schedule.replay(program, Trace.from_json(json.loads(json.dumps(s.trace.to_json()))), checked=True)
    assert str(again) == str(s)


def test_terms_in_order_stay_in_order() -> None:
    p = ordered_program()
    stage = p.tensors[0].name
    with pytest.raises(td.ScheduleError, match="combine"):
        Schedule(p).split(stage, "k", 5).reorder(stage, "k.i", "k.o")
    assert Schedule(argmax_program()).split("y_largest", "k", 5).reorder("y_largest", "k.i", "k.o").validate()


def test_register_tiles_keep_terms_in_order() -> None:
    x = td.placeholder((3, 9, 40), name="x")
    k, r = td.reduce_axis(3, "k"), td.reduce_axis(9, "r")
    y = td.compute((40,), lambda i: reducers.first(x[k, r, i], axis=(k, r))[1], name="y")
    sketch = sketches(td.Program([x], [y]), target("avx2"))[0]
    assert "vector" in str(sketch.build(sketch.default).validate())
    both(td.Program([x], [y]), small((3, 9, 40)))


def test_a_choice_in_doubt_allows_both_results() -> None:
    """Rounding may decide between neighbours: then either position is right, and no other."""
    x = td.placeholder((1, 4), name="x")
    program = td.Program([x], [td.compute((1, 4), lambda i, j: td.exp(x[i, j] / 3), name="y").argmax(axis=1)])
    data = np.array([[0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.0, 0.0]], np.float32)
    [bound] = td.error_bound(program, {"x": data}).values()
    assert 1 <= bound[0] < 100
    [bound] = td.error_bound(program, {"x": small((1, 4)) + np.float32(np.arange(4) * 20)}).values()
    assert bound[0] == 0


def test_lanes_do_not_share_a_state() -> None:
    for kind in ("vectorize", "parallel"):
        with pytest.raises(td.ScheduleError, match="share y_largest"):
            getattr(Schedule(argmax_program()), kind)("y_largest", "k")


FAULTS: dict[str, Callable[[Store], object]] = {
    "no identity": lambda s: None if s.instance.kind == "init" else s,
    "no terms": lambda s: None if s.instance.kind == "update" else s,
    "overwrites": lambda s: replace(s, op="") if s.op else s,
    "another combination": lambda s: replace(s, op=replace(s.op)) if isinstance(s.op, Combination) else s,
    "an operation": lambda s: replace(s, op="max") if s.op else s,
    "another identity": lambda s: replace(s, value=changed(s.value)) if s.instance.kind == "init" else s,
    "another component": lambda s: replace(s, value=swapped(s.value)) if s.instance.kind == "compute" else s,
}


def changed(e: Any) -> Any:
    return replace(e, args=(e.args[0], Const(0, e.args[1].dtype)))


def swapped(e: Any) -> Any:
    return replace(e, args=(Op("part0", e.args[0].args, e.args[0].dtype),))


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_nests_are_refused(fault: str) -> None:
    from tensordsl.schedules.loopnest import Seq

    nest = Schedule(argmax_program()).rfactor("y_largest", "k", 8).nest
    assert find_violation(nest) is None

    def go(s: Any) -> Any:
        if not isinstance(s, Store):
            return None
        found = FAULTS[fault](s)
        return Seq(()) if found is None else found

    assert find_violation(LoopNest(nest.program, nest.parameters, rewrite(nest.body, go))) is not None


def test_states_in_shared_memory() -> None:
    """A row on a block: each thread a part of it, one thread the parts; emulated on the CPU."""
    s = Schedule(argmax_program(6, 64)).rfactor("y_largest", "k", 8)
    s = s.compute_at("y_largest", "y", "i").compute_at("y_largest_rf", "y", "i")
    s = s.set_scope("y_largest_rf", "shared").set_scope("y_largest", "shared")
    s = s.bind("y", "i", "block").bind("y_largest_rf", "k.l", "thread").validate()
    source = to_cuda(insert_sync(s.nest), cuda_target("sm_80"))
    x, y = small((6, 64)), np.zeros(6, np.int64)
    compile_emulation([source]).run(source, {"x": x, "y": y}, "reverse")
    assert y.tolist() == x.argmax(1).tolist()


# ---------------------------------------------------------------- the examples


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_compute_their_meaning(name: str) -> None:
    program = EXAMPLES[name]
    rng = np.random.default_rng(1)
    both(program, *[rng.standard_normal(t.shape).astype(np.float32) for t in program.inputs])


@pytest.mark.parametrize("machine", ["portable", "avx2", "neon"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_need_no_plain_loops(name: str, machine: str) -> None:
    """The first plan of the default schedule is proven; nothing falls back."""
    program = EXAMPLES[name]
    sketch = sketches(program, target(machine))[0]
    s = sketch.build(sketch.default).validate()
    data = {t.name: small(t.shape, n) for n, t in enumerate(program.inputs)}
    found, wanted = interpret(s.nest, data), td.interpret(program, data)
    for key in wanted:
        np.testing.assert_allclose(found[key].astype(np.float64), wanted[key].astype(np.float64), rtol=1e-9, atol=1e-12)
    if program.name != "first_large":
        assert "vector" in str(s)


def test_examples_against_numpy() -> None:
    rng = np.random.default_rng(2)
    x, v = (rng.standard_normal((reducers.M, reducers.N)).astype(np.float32) for _ in range(2))

    def value(name: str) -> list[Array]:
        return list(
            td.interpret(EXAMPLES[name], {t.name: {"x": x, "v": v}[t.name] for t in EXAMPLES[name].inputs}).values()
        )

    wide = x.astype(np.float64)
    weights = np.exp(wide) / np.exp(wide).sum(1, keepdims=True)
    rows = np.arange(reducers.M)
    assert value("argmax")[1].tolist() == x.argmax(1).tolist()
    np.testing.assert_allclose(value("top1")[0], v[rows, x.argmax(1)])
    np.testing.assert_allclose(value("limits"), [x.min(1), x.max(1)])
    assert [a.tolist() for a in value("conditions")] == [(x > 2).any(1).tolist(), (x > -3).all(1).tolist()]
    np.testing.assert_allclose(value("welford"), [wide.mean(1), wide.var(1)], atol=1e-12)
    np.testing.assert_allclose(value("logsumexp")[0], np.log(np.exp(wide).sum(1)))
    np.testing.assert_allclose(value("softmax_average")[0], (weights * v).sum(1), atol=1e-12)
    np.testing.assert_allclose(value("first_large")[0], [r[r > 1][0] if (r > 1).any() else 0 for r in x])
