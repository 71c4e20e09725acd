"""Validation by value: legal nests are proven, wrong ones refused with a counterexample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    If,
    LoopNest,
    Outline,
    Seq,
    Stmt,
    Store,
    loop,
    rewrite,
    seq,
    stores,
    substitute,
)  # fmt: skip
from tensordsl.schedules.lower import lower
from tensordsl.schedules.polyhedral.isl_build import CONTEXT
from tensordsl.schedules.polyhedral.validate import find_violation, validate
from validation_nests import NESTS, all_variants, store
from validation_oracle import verdict

import tensordsl as td
from tensordsl.affine import Affine
from tensordsl.dtypes import float32, float64
from tensordsl.expr import REDUCERS, Expr, Index, Reduce

CASES = all_variants()
NAMES = [f"{n}: {v or 'plain'}" for n, v, _ in CASES]
V = Affine.of


@pytest.mark.parametrize(("name", "variant", "correct"), CASES, ids=NAMES)
def test_named_nests(name: str, variant: str | None, correct: bool) -> None:
    violation = find_violation(NESTS[name].build(variant))
    assert (violation is None) == correct, violation


@pytest.mark.parametrize(("name", "variant", "correct"), CASES, ids=NAMES)
def test_named_nests_run(name: str, variant: str | None, correct: bool) -> None:
    """At small sizes, running the nest gives the same verdict."""
    nest = NESTS[name].build(variant, **NESTS[name].small)
    assert (verdict(nest) is None) == correct
    assert (find_violation(nest) is None) == correct


KINDS = {
    ("gemm", "wrong panel"): ("value", "reads cell Bp[1, 0, 0], needs element B[0, 16], finds B[0, 0] from copy B at"),
    ("gemm", "panel never packed"): ("value", "finds it uninitialised"),
    ("gemm", "epilogue one chunk early"): ("reduction", "needs element C[0, 0], point (192) is not in it"),
    ("gemm", "epilogue adds b twice"): ("expression", "where the definition has C[i + 48*io + 6*ir, j + 128*jo"),
    ("gemm", "no ragged guard"): ("bounds", "i + 48*io + 6*ir = 250 is outside 0..249"),
    ("gemm", "parallel k"): ("race", "at jo = 0, ko = 1, io = 0"),
    ("gemm", "update by max"): ("structure", None),
    ("strided", "overlapping split"): ("reduction", "s combines point (16) in update s at k = 0, ki = 16 and in"),
    ("halves", "halves overlap"): ("reduction", "q also holds point (127) from update s at i = 0, k = 127"),
    ("inplace", "read after writing"): ("value", "reads cell x[1], needs element x[1], finds y[1] from compute y"),
    ("padded", "left edge only"): ("expression", "h = 0, i = 251"),
    ("heat", "unskewed"): ("value", "finds u[14, 63] from compute u at to = 0, so = 0, t = 14, s = 63"),
}


@pytest.mark.parametrize("case", KINDS, ids=lambda c: ": ".join(c))
def test_counterexamples(case: tuple[str, str]) -> None:
    violation = find_violation(NESTS[case[0]].build(case[1]))
    kind, text = KINDS[case]
    assert violation is not None and violation.kind == kind
    assert text is None or text in (violation.counterexample or ""), violation


def test_error_shows_the_statement() -> None:
    nest = NESTS["ring"].build("fold by 2")
    with pytest.raises(td.ScheduleError) as caught:
        validate(nest)
    text = str(caught.value)
    assert "reads cell ring[0, 0], needs element h[0, 0], finds h[2, 0] from compute h" in text
    marked = [line for line in text.splitlines() if line.strip().startswith("->")]
    assert len(marked) == 2 and any("v[y, xi + 16*xo] =" in line for line in marked)


def _product(n: int, k: int) -> td.Program:
    a, b = td.placeholder((n, k), name="a"), td.placeholder((k, n), name="b")
    r = td.reduce_axis(k, "r")
    return td.Program([a, b], [td.compute((n, n), lambda i, j: td.sum(a[i, r] * b[r, j], axis=r), name="c")])


@pytest.mark.parametrize(("n", "k"), [(0, 3), (3, 0), (0, 0), (1, 1), (4000, 5000)])
def test_empty_and_large_sizes(n: int, k: int) -> None:
    validate(lower(_product(n, k)))


def test_rank_zero_inputs_and_outputs() -> None:
    a, x = td.placeholder((), name="a"), td.placeholder((8,), name="x")
    k = td.reduce_axis(8, "k")
    s = td.compute((), lambda: td.sum(x[k] * a[()], axis=k), name="s")
    validate(lower(td.Program([a, x], [s])))


@pytest.mark.parametrize("reducer", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "float64"])
def test_reducers_and_types(reducer: str, dtype: str) -> None:
    x = td.placeholder((4, 5), dtype, name="x")
    k = td.reduce_axis(5, "k")
    nest = lower(td.Program([x], [td.compute((4,), lambda i: Reduce(REDUCERS[reducer], (k.axis,), x[i, k]), name="s")]))
    validate(nest)
    init = next(s for s, _ in stores(nest.body) if s.instance.kind == "init")
    other = replace(init, value=td.cast(7, dtype))
    violation = find_violation(replace(nest, body=_swap(nest.body, init, other)))
    assert violation is not None and violation.kind == "expression"


def _swap(body: Stmt, old: Store, new: Store) -> Stmt:
    return rewrite(body, lambda s: new if s is old else None)


def _copy_nest(value_of: Callable[..., Expr], defined: Callable[..., Expr]) -> LoopNest:
    """One pointwise definition and a nest whose stored value is given."""
    x, y = td.placeholder((8,), name="x"), td.placeholder((8,), name="y")
    z = td.compute((8,), lambda i: defined(x, y, i), name="z")
    bx, by, bz = (Buffer(t.name, t.shape, float32) for t in (x, y, z))
    i = V("i")
    body = store(bz, (i,), value_of(bx, by, i), "compute", "z", (i,))
    return LoopNest(td.Program([x, y], [z]), (bx, by, bz), loop("i", 0, 8, body))


DEFINED = lambda x, y, i: td.select(x[i] > 1.0, x[i] * y[i], x[i] - 3.0)  # noqa: E731
STORED = {
    "the definition": (True, lambda x, y, i: td.select(x.at(i) > 1.0, x.at(i) * y.at(i), x.at(i) - 3.0)),
    "operands swapped": (False, lambda x, y, i: td.select(x.at(i) > 1.0, y.at(i) * x.at(i), x.at(i) - 3.0)),
    "other operation": (False, lambda x, y, i: td.select(x.at(i) > 1.0, x.at(i) + y.at(i), x.at(i) - 3.0)),
    "other constant": (False, lambda x, y, i: td.select(x.at(i) > 1.0, x.at(i) * y.at(i), x.at(i) - 3.5)),
    "other comparison": (False, lambda x, y, i: td.select(x.at(i) >= 1.0, x.at(i) * y.at(i), x.at(i) - 3.0)),
    "cases swapped": (False, lambda x, y, i: td.select(x.at(i) > 1.0, x.at(i) - 3.0, x.at(i) * y.at(i))),
    "one case": (False, lambda x, y, i: x.at(i) * y.at(i)),
    "other input": (False, lambda x, y, i: td.select(x.at(i) > 1.0, x.at(i) * x.at(i), x.at(i) - 3.0)),
    "other element": (False, lambda x, y, i: td.select(x.at(7 - i) > 1.0, x.at(i) * y.at(i), x.at(i) - 3.0)),
    "through another type": (
        False,
        lambda x, y, i: td.select(
            x.at(i) > 1.0, td.cast(td.cast(x.at(i) * y.at(i), "float64"), "float32"), x.at(i) - 3.0
        ),
    ),
    "same index, written otherwise": (
        True,
        lambda x, y, i: td.select(x.at((2 * i) // 2) > 1.0, x.at(i % 8) * y.at(i), x.at(i) - 3.0),
    ),
}


@pytest.mark.parametrize("stored", STORED)
def test_expressions_are_verified(stored: str) -> None:
    correct, value = STORED[stored]
    nest = _copy_nest(value, DEFINED)
    assert (find_violation(nest) is None) == correct
    assert (verdict(nest) is None) == correct


CHOICES = {
    "nested otherwise": (
        True,
        lambda x, y, i: td.select(
            Index(i) < 5, td.select(Index(i) >= 3, td.select(Index(i) > 3, y.at(i), x.at(i)), x.at(i)), x.at(i)
        ),
    ),
    "wrong at 5": (False, lambda x, y, i: td.select(Index(i) >= 4, td.select(Index(i) < 6, y.at(i), x.at(i)), x.at(i))),
}


@pytest.mark.parametrize("stored", CHOICES)
def test_choices_by_index_may_be_written_otherwise(stored: str) -> None:
    correct, value = CHOICES[stored]

    def defined(x: td.Tensor, y: td.Tensor, i: Expr) -> Expr:
        return td.select((i < 3) | (i >= 6), x[i], td.select(~((i < 4) | (i > 4)), y[i], x[i]))

    nest = _copy_nest(value, defined)
    assert (verdict(nest) is None) == correct
    assert (find_violation(nest) is None) == correct


def test_index_values_are_compared() -> None:
    defined = lambda x, y, i: x[i] * td.cast(i, "float32")  # noqa: E731
    right = _copy_nest(lambda x, y, i: x.at(i) * td.cast(Index((i * 4 + 3) // 4), "float32"), defined)
    wrong = _copy_nest(lambda x, y, i: x.at(i) * td.cast(Index(i + 1), "float32"), defined)
    assert find_violation(right) is None
    assert getattr(find_violation(wrong), "kind", None) == "expression"


def _replace_store(nest: LoopNest, **changes: object) -> LoopNest:
    s = next(s for s, _ in stores(nest.body))
    return replace(nest, body=_swap(nest.body, s, replace(s, **changes)))  # type: ignore[arg-type]


def test_structure_is_checked() -> None:
    same = lambda x, y, i: x.at(i)  # noqa: E731
    nest = _copy_nest(same, lambda x, y, i: x[i])
    assert find_violation(nest) is None
    s = next(s for s, _ in stores(nest.body))
    elsewhere = Buffer("w", (8,), float32, "stack")
    wide = Buffer("z", (8,), float64)
    wrong = [
        _replace_store(nest, buffer=elsewhere),
        _replace_store(nest, op="add"),
        _replace_store(nest, index=(V("q"),)),
        _replace_store(nest, index=(V("i"), V("i"))),
        _replace_store(nest, value=elsewhere.at(V("i"))),
        _replace_store(nest, value=Buffer("x", (8,), float32).at(V("q"))),
        _replace_store(nest, instance=replace(s.instance, tensor="nothing")),
        _replace_store(nest, instance=replace(s.instance, tensor="x")),
        _replace_store(nest, instance=replace(s.instance, kind="init")),
        _replace_store(nest, instance=replace(s.instance, kind="update")),
        _replace_store(nest, instance=replace(s.instance, index=())),
        _replace_store(nest, instance=replace(s.instance, index=(V("q"),))),
        replace(nest, body=loop("i", 0, 8, nest.body)),
        replace(nest, body=loop("j", 0, V("q"), nest.body)),
        replace(nest, body=If((V("q"),), nest.body)),
        replace(nest, parameters=nest.parameters[:2]),
        replace(nest, parameters=(*nest.parameters[:2], wide)),
        replace(nest, parameters=(*nest.parameters[:2], replace(nest.parameters[2], fold=(4,)))),
    ]
    for w in wrong:
        violation = find_violation(w)
        assert violation is not None and violation.kind == "structure", violation


def test_a_statement_that_never_runs_is_not_judged() -> None:
    nest = _copy_nest(lambda x, y, i: x.at(i), lambda x, y, i: x[i])
    s = next(s for s, _ in stores(nest.body))
    dead = loop("j", 5, 3, replace(s, index=(V("j"),), value=td.cast(1.0, "float32")))
    assert find_violation(replace(nest, body=seq(nest.body, dead))) is None


def test_transparent_statements() -> None:
    nest = _copy_nest(lambda x, y, i: x.at(i), lambda x, y, i: x[i])
    assert find_violation(replace(nest, body=Outline("f", nest.body))) is None
    assert find_violation(replace(nest, body=Seq(()))) is not None


def test_one_statement_may_stand_at_two_places() -> None:
    nest = _copy_nest(lambda x, y, i: x.at(i), lambda x, y, i: x[i])
    assert find_violation(replace(nest, body=seq(nest.body, nest.body))) is None


def test_siblings_may_allocate_one_name() -> None:
    nest = _copy_nest(lambda x, y, i: x.at(i), lambda x, y, i: x[i])
    bx, _, bz = nest.parameters
    t = Buffer("t", (8,), float32, "stack")
    i = V("i")
    fill = loop("i", 0, 8, store(t, (i,), bx.at(i), "copy", "x", (i,)))
    use = loop("i", 0, 8, store(bz, (i,), t.at(i), "compute", "z", (i,)))
    assert find_violation(replace(nest, body=Alloc(t, seq(fill, use)))) is None
    lost = seq(Alloc(t, fill), Alloc(t, use))  # the second allocation starts undefined
    violation = find_violation(replace(nest, body=lost))
    assert violation is not None and "uninitialised" in (violation.counterexample or "")


def test_undecided_within_few_operations() -> None:
    nest = NESTS["heat"].build()
    violation = find_violation(nest, limit=200)
    assert violation is not None and violation.kind == "undecided"
    assert CONTEXT.get_max_operations() == 0
    with pytest.raises(td.ScheduleError):
        validate(nest, limit=200)
    assert find_violation(nest) is None  # the context is as good as before


def test_any_allowance_ends_in_a_verdict() -> None:
    """Wherever isl runs out of operations, the answer is undecided, never another error."""
    nest = NESTS["ring"].build(None, H=37, W=41)
    kinds = [getattr(find_violation(nest, limit=n), "kind", None) for n in (1, 2, 5, 10, 30, 70, 150, 500, 1500, 3000)]
    assert set(kinds) <= {"undecided", None} and kinds[0] == "undecided"
    wrong = NESTS["ring"].build("fold by 2", H=37, W=41)
    kinds = [getattr(find_violation(wrong, limit=n), "kind", None) for n in range(1, 9000, 450)]
    assert set(kinds) <= {"undecided", "value"}


def test_outputs_keep_their_memory_as_declared() -> None:
    nest = NESTS["inplace"].build(None, N=8)
    p = nest.program
    violation = find_violation(replace(nest, program=td.Program(p.inputs, p.outputs, p.name)))
    assert violation is not None and violation.kind == "structure"


ORDERED = {
    ("gemm", None): True,
    ("gemm", "k descending"): False,
    ("gemm", "spill into the output"): True,
    ("pipeline", None): True,
    ("pipeline", "copy after use"): True,
    ("halves", None): False,
    ("dot", None): False,
    ("dot", "lanes summed serially"): True,
    ("strided", None): True,
    ("strided", "reversed"): False,
    ("padded", None): True,
}


@pytest.mark.parametrize("case", ORDERED, ids=str)
def test_written_order_of_float_sums(case: tuple[str, str | None]) -> None:
    """With exact=True, a reassociated float sum is refused."""
    nest = NESTS[case[0]].build(case[1])
    violation = find_violation(nest, exact=True)
    assert (violation is None) == ORDERED[case], violation
    assert violation is None or violation.kind in ("order", "race")


def test_order_of_integers_and_maxima_is_free() -> None:
    for dtype, reducer, free in (("int32", "sum", True), ("float32", "max", True), ("float32", "sum", False)):
        x = td.placeholder((6,), dtype, name="x")
        k = td.reduce_axis(6, "k")
        nest = lower(td.Program([x], [td.compute((), lambda: Reduce(REDUCERS[reducer], (k.axis,), x[k]), name="s")]))
        update = next(s for s, _ in stores(nest.body) if s.op)
        backwards = rewrite(nest.body, lambda s: substitute(s, {"k": 5 - V("k")}) if s is update else None)
        assert find_violation(replace(nest, body=backwards)) is None
        assert (find_violation(replace(nest, body=backwards), exact=True) is None) == free


def test_counterexample_of_the_order() -> None:
    violation = find_violation(NESTS["strided"].build("reversed"), exact=True)
    assert violation is not None
    assert violation.counterexample == (
        "s combines point (249) in update s at k = 0, and later point (248) in update s at k = 1"
    )
