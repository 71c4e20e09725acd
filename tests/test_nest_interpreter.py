"""The meaning of loop nests: arithmetic, storage, poison, bounds, lockstep."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensordsl.schedules.interpreter import Meaning, interpret
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    If,
    Instance,
    LoopNest,
    Outline,
    Prefetch,
    Stmt,
    Store,
    Sync,
    loop,
    seq,
)
from tensordsl.schedules.lower import lower

import tensordsl as td
from tensordsl import dtypes
from tensordsl.affine import Affine
from tensordsl.expr import Const, Expr, Index, Op, Read, binary, cast, select, unary

V = Affine.of


def store(b: Buffer, index: Any, value: Expr | float, op: str = "") -> Store:
    """A store whose logical meaning does not matter here."""
    at = tuple(Affine.of(i) for i in (index if isinstance(index, tuple) else (index,)))
    value = value if isinstance(value, Expr) else Const(value, b.dtype)
    return Store(b, at, value, Instance("compute", b.name, at), op)


def nest(inputs: dict[str, Any], outputs: dict[str, Any], body: Callable[..., Stmt], **fields: Any) -> LoopNest:
    """A nest over external buffers given as name -> shape or (shape, dtype); body takes the buffers."""

    def split(x: Any) -> tuple[Any, str]:
        return x if len(x) == 2 and isinstance(x[1], str) else (x, "float32")

    ins = [td.placeholder(*split(s), name=n) for n, s in inputs.items()]

    def zero(shape: Any, dtype: str, name: str) -> Any:
        return td.compute(shape, lambda *i: cast(0.0, dtype), name=name)

    outs = [zero(*split(s), n) for n, s in outputs.items()]
    program = td.Program(ins, outs, "test", **fields)
    buffers = [Buffer(t.name, t.shape, t.dtype) for t in (*program.inputs, *program.outputs)]
    return LoopNest(program, tuple(buffers), body(*buffers))


def scalar(e: Callable[..., Any], *values: Any, dtype: str = "float64") -> Any:
    """The value of an expression of inputs, through a nest of one store."""
    kinds = [np.asarray(v).dtype.name for v in values]
    sources = [Buffer(f"x{i}", (), dtypes.dtype(k)) for i, k in enumerate(kinds)]
    value = e(*[s.at() for s in sources])
    n = nest(
        {s.name: ((), s.dtype.name) for s in sources},
        {"y": ((), value.dtype.name)},
        lambda *b: store(b[-1], (), value),
    )
    return interpret(n, {f"x{i}": v for i, v in enumerate(values)}, dtype=dtype)["y"][()]  # type: ignore[arg-type]


FUNCTIONS = [
    "sqrt", "rsqrt", "exp", "exp2", "log", "log2", "tanh", "erf", "sin", "cos", "floor", "ceil", "round", "neg", "abs"
]  # fmt: skip


def f32(*xs: float) -> list[np.float32]:
    return [np.float32(x) for x in xs]


# ---------------------------------------------------------------- programs


def test_matmul_and_stencil_match_numpy() -> None:
    a, b = td.placeholder((5, 7), name="A"), td.placeholder((7, 6), name="B")
    k = td.reduce_axis(7, "k")
    c = td.compute((5, 6), lambda i, j: td.sum(a[i, k] * b[k, j], axis=k), name="C")
    d = td.compute((5, 6), lambda i, j: td.select(i > 0, c[i, j] + c[i - 1, j], c[i, j] * 2) + 1.0, name="D")
    rng = np.random.default_rng(1)
    x, y = rng.random((5, 7)), rng.random((7, 6))
    product = x @ y
    expected = product * 2 + 1
    expected[1:] = product[1:] + product[:-1] + 1
    program = td.Program([a, b], [d], "mm")
    np.testing.assert_allclose(interpret(lower(program), {"A": x, "B": y})["D"], expected, rtol=1e-14)


def test_reducers_start_from_their_identity() -> None:
    x = td.placeholder((3, 4), "int32", name="x")
    k = td.reduce_axis(4, "k")
    from tensordsl import tensor
    from tensordsl.expr import REDUCERS, Reduce

    data = np.array([[1, -2, 3, 4], [-5, -6, -7, -8], [0, 0, 9, 1]], np.int32)
    for name, expected in [("sum", data.sum(1)), ("prod", data.prod(1)), ("max", data.max(1)), ("min", data.min(1))]:
        i = tensor.Axis("i", 3)
        y = tensor.define((i,), Reduce(REDUCERS[name], (k.axis,), x[Index(V("i")), k]), "y")
        assert (interpret(lower(td.Program([x], [y])), {"x": data})["y"] == expected).all()


def test_recurrence_runs_in_order() -> None:
    x = td.placeholder((6,), name="x")
    s = td.recurrence((6,), lambda s, t: td.select(t > 0, s[t - 1] * 0.5, 0.0) + x[t], name="s", order="t")
    data = np.arange(6.0)
    out = interpret(lower(td.Program([x], [s])), {"x": data})["s"]
    total, expected = 0.0, []
    for v in data:
        total = total * 0.5 + v
        expected.append(total)
    assert out.tolist() == expected


def test_sizes_of_zero_and_one() -> None:
    x = td.placeholder((0, 3), name="x")
    y = td.compute((0, 3), lambda i, j: x[i, j] + 1.0, name="y")
    assert interpret(lower(td.Program([x], [y])), {"x": np.zeros((0, 3))})["y"].shape == (0, 3)
    s = td.placeholder((), "int64", name="s")
    z = td.compute((1,), lambda i: s[()] * 2 + i, name="z")
    assert interpret(lower(td.Program([s], [z])), {"s": np.int64(21)})["z"].tolist() == [42]


# ---------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("a,b", [(7, 3), (-7, 3), (7, -3), (-7, -3), (0, 5)])
def test_integer_division_is_pythons(a: int, b: int) -> None:
    x, y = np.int32(a), np.int32(b)
    assert scalar(operator.floordiv, x, y) == a // b
    assert scalar(operator.mod, x, y) == a % b


@pytest.mark.parametrize("a,b", [(7.5, 2.0), (-7.5, 2.0), (7.5, -2.0)])
def test_real_remainder_has_the_sign_of_the_divisor(a: float, b: float) -> None:
    assert scalar(operator.floordiv, *f32(a, b)) == a // b
    assert scalar(operator.mod, *f32(a, b)) == a % b


def test_integers_wrap_around_as_in_their_type() -> None:
    big = np.int8(100)
    assert scalar(operator.add, big, big) == -56
    assert scalar(operator.mul, big, big) == 16
    assert scalar(operator.sub, np.uint8(3), np.uint8(5)) == 254
    assert scalar(lambda x: (x + x) // 2, big) == -28, "an operand of // has wrapped already"
    assert scalar(lambda x: (x + x) < x, big), "so has an operand of a comparison"
    assert scalar(lambda x: -x, np.int8(-128)) == -128
    assert scalar(lambda x: abs(x), np.int8(-128)) == -128
    assert scalar(operator.floordiv, np.int8(-128), np.int8(-1)) == -128
    assert scalar(lambda x: cast(x, "uint8"), np.int32(-1)) == 255
    assert scalar(lambda x: cast(x, "int8"), np.int32(200)) == -56
    assert scalar(lambda x: ~x, np.uint8(1)) == 254


def test_updates_wrap_around() -> None:
    n = nest({}, {"y": ((), "int8")}, lambda y: seq(store(y, (), 1), loop("i", 0, 9, store(y, (), 2, "mul"))))
    assert interpret(n, {})["y"] == 0
    n = nest({}, {"y": ((), "int8")}, lambda y: seq(store(y, (), 100), store(y, (), 100, "add")))
    assert interpret(n, {})["y"] == -56


def test_casts() -> None:
    assert scalar(lambda x: cast(x, "int32"), np.float32(-2.9)) == -2, "towards zero"
    assert scalar(lambda x: cast(x, "bool"), np.float32(0.5)) == True  # noqa: E712
    assert scalar(lambda x: cast(x, "float32"), np.bool_(True)) == 1.0
    assert scalar(lambda x: cast(x, "int64"), np.uint32(2**32 - 1)) == 2**32 - 1
    with pytest.raises(td.ScheduleError, match="nan has no value of type int32"):
        scalar(lambda x: cast(x, "int32"), np.float32("nan"))


def test_division_by_zero() -> None:
    assert scalar(operator.truediv, *f32(1, 0)) == math.inf
    assert scalar(operator.truediv, *f32(-1, 0)) == -math.inf
    assert math.isnan(scalar(operator.truediv, *f32(0, 0)))
    with pytest.raises(td.ScheduleError, match="integer division by zero"):
        scalar(operator.mod, np.int32(1), np.int32(0))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_reals(name: str) -> None:
    reference = {"rsqrt": lambda x: 1 / np.sqrt(x), "erf": np.vectorize(math.erf), "neg": np.negative}
    f = reference.get(name) or getattr(np, name)
    for x in (0.0, 0.25, -1.75, 2.0, 800.0, -800.0, math.inf, -math.inf, math.nan):
        with np.errstate(all="ignore"):
            expected = f(np.float64(x))
        np.testing.assert_allclose(scalar(lambda v: unary(name, v), np.float32(x)), expected, rtol=1e-14)


def test_power_and_extremes() -> None:
    assert scalar(operator.pow, *f32(2, 10)) == 1024
    assert math.isnan(scalar(operator.pow, *f32(-2, 0.5)))
    assert scalar(operator.pow, *f32(0, -1)) == math.inf
    assert scalar(lambda a, b: binary("max", a, b), *f32(1, 2)) == 2
    assert scalar(lambda a, b: binary("min", a, b), np.int32(1), np.int32(-2)) == -2
    assert math.isnan(scalar(lambda a, b: binary("max", a, b), *f32(math.nan, 2)))


def test_logic() -> None:
    t, f = np.bool_(True), np.bool_(False)
    assert not scalar(operator.and_, t, f)
    assert scalar(operator.or_, t, f)
    assert scalar(lambda a: ~a, f)
    assert scalar(operator.and_, np.int32(6), np.int32(3)) == 2


def test_float32_rounds_every_operation() -> None:
    a, b = np.float32(1.0), np.float32(2**-25)
    assert scalar(lambda x, y: (x + y) - x, a, b) == 2**-25
    assert scalar(lambda x, y: (x + y) - x, a, b, dtype="float32") == 0
    assert scalar(lambda x: x * 0.1, a, dtype="float32") == np.float32(0.1)
    assert scalar(lambda x: x * 0.1, a) == 0.1


def test_only_the_chosen_side_is_evaluated() -> None:
    x = Buffer("x", (4,), dtypes.float32)
    i = Index(V("i"))
    guarded = select(i >= 1, x.at(V("i") - 1), 0.0)
    out = nest({"x": (4,)}, {"y": (4,)}, lambda x, y: loop("i", 0, 4, store(y, V("i"), guarded)))
    assert interpret(out, {"x": np.arange(4.0)})["y"].tolist() == [0, 0, 1, 2]


def test_a_node_shared_by_arms_only_is_lazy_and_computed_once() -> None:
    x = Buffer("x", (4,), dtypes.float32)
    i = Index(V("i"))
    heavy = unary("sqrt", x.at(V("i") - 1)) * 2.0  # out of bounds at i = 0
    value = select(i == 0, 0.0, select(i == 1, heavy + 1.0, heavy - 1.0))
    both = value + select(i == 0, 0.0, heavy)
    out = nest({"x": (4,)}, {"y": (4,)}, lambda x, y: loop("i", 0, 4, store(y, V("i"), both)))
    meaning = Meaning(out)
    assert meaning.text.count("r_sqrt") == 1
    assert meaning({"x": np.array([4.0, 9.0, 16.0, 25.0])})["y"].tolist() == [0, 9, 11, 15]


def test_shared_chains_and_deep_expressions_stay_small() -> None:
    x = Buffer("x", (), dtypes.float32)
    e: Expr = x.at()
    for _ in range(60):
        e = e + e  # 2**60 additions if sharing were lost
    deep: Expr = x.at()
    for _ in range(300):
        deep = Op("add", (Const(1.0, dtypes.float32), deep), dtypes.float32)
    n = nest({"x": ()}, {"y": (), "z": ()}, lambda x, y, z: seq(store(y, (), e), store(z, (), deep)))
    out = interpret(n, {"x": 1.0})
    assert out["y"] == 2.0**60 and out["z"] == 301.0


# ---------------------------------------------------------------- storage and control


def test_bounds_steps_and_guards() -> None:
    i, j = V("i"), V("j")
    body = lambda y: seq(  # noqa: E731
        loop("i", 0, 6, loop("j", 0, 6, store(y, (i, j), 0))),
        loop("i", (1, 0), (7, 6), loop("j", i - 1, (i + 2, V(6)), store(y, (i, j), 1, "add"))),
        loop("i", 0, 6, If((i % 3 - 1,), store(y, (i, 0), 10, "add"), store(y, (i, 1), 20, "add")), step=2),
    )
    expected = np.zeros((6, 6))
    for a in range(1, 6):
        expected[a, a - 1 : a + 2] += 1
    for a in (0, 2, 4):
        expected[a, 0 if a % 3 >= 1 else 1] += 10 if a % 3 >= 1 else 20
    assert (interpret(nest({}, {"y": (6, 6)}, body), {})["y"] == expected).all()


def test_folded_storage_keeps_the_last_rows() -> None:
    ring = Buffer("ring", (10, 4), dtypes.float32, "stack", fold=(2,))
    i, j = V("i"), V("j")

    def body(x: Buffer, y: Buffer) -> Stmt:
        fill = loop("j", 0, 4, store(ring, (i, j), x.at(i, j)))
        use = If((i - 1,), loop("j", 0, 4, store(y, (i - 1, j), ring.at(i, j) + ring.at(i - 1, j))))
        return Alloc(ring, loop("i", 0, 10, fill, use))

    x = np.random.default_rng(0).random((10, 4))
    np.testing.assert_array_equal(interpret(nest({"x": (10, 4)}, {"y": (9, 4)}, body), {"x": x})["y"], x[1:] + x[:-1])


def test_banks_alternate_between_two_arrays() -> None:
    t, i = V("t"), V("i")

    def body(a: Buffer, b: Buffer) -> Stmt:
        both = Buffer("u", (6, 3), dtypes.float32, "external", fold=(2,), banks=("a", "b"))
        step = loop("t", 0, 5, loop("i", 0, 3, store(both, (t + 1, i), both.at(t, i) * 2.0)))
        return Alloc(both, seq(loop("i", 0, 3, store(a, i, 1.0)), step))

    out = interpret(nest({}, {"a": (3,), "b": (3,)}, body), {})
    assert out["a"].tolist() == [16.0] * 3 and out["b"].tolist() == [32.0] * 3


def test_inplace_output_lives_in_its_input() -> None:
    x = td.placeholder((4,), name="x")
    y = td.compute((4,), lambda i: x[i] + 1.0, name="y")
    program = td.Program([x], [y], "bump", inplace={"y": "x"})
    b = Buffer("x", (4,), dtypes.float32)
    i = V("i")
    n = LoopNest(program, (b,), loop("i", 0, 2, store(b, i, b.at(i) + 1.0)))
    assert interpret(n, {"x": np.zeros(4)})["y"].tolist() == [1, 1, 0, 0]


def test_hints_mean_nothing_and_may_point_anywhere() -> None:
    def body(y: Buffer) -> Stmt:
        i = V("i")
        hints = (Prefetch(y, (i + 1000,)), Sync("barrier"))
        return Outline("f", loop("i", 0, 3, *hints, store(y, i, Index(i))))

    assert interpret(nest({}, {"y": ((3,), "int64")}, body), {})["y"].tolist() == [0, 1, 2]


def test_deep_nests() -> None:
    """More loops than CPython can nest in one function, with a buffer and a guard on the way."""
    names = [f"d{i}" for i in range(30)]

    def body(y: Buffer) -> Stmt:
        acc = Buffer("acc", (2,), dtypes.float32, "register")
        total = sum((V(n) for n in names), Affine())
        inner: Stmt = seq(store(acc, 1, Index(total)), store(y, V(names[0]), acc.at(1), "add"))
        for k, n in enumerate(reversed(names)):
            inner = loop(n, 0, 2 if k > 25 else 1, inner)
            inner = Alloc(acc, inner) if k == 14 else If((V(5),), inner) if k == 20 else inner
        return seq(store(y, 0, 0.0), store(y, 1, 0.0), inner)

    for lockstep in (False, True):
        assert interpret(nest({}, {"y": (2,)}, body), {}, lockstep=lockstep)["y"].tolist() == [12.0, 20.0]


def test_fresh_buffers_are_poisoned_at_every_entry() -> None:
    acc = Buffer("acc", (1,), dtypes.float32, "register")
    i = V("i")

    def body(y: Buffer) -> Stmt:
        first = If((-i,), store(acc, 0, 1.0))  # i == 0 only
        return loop("i", 0, 3, Alloc(acc, seq(first, store(y, i, acc.at(0)))))

    with pytest.raises(td.ScheduleError, match=r"reads acc\[0\], before it is written") as e:
        interpret(nest({}, {"y": (3,)}, body), {})
    assert e.value.counterexample == "when i = 1"


# ---------------------------------------------------------------- refusals


def test_access_outside_the_shape(golden: Callable[..., None]) -> None:
    n = nest({"x": (4, 8)}, {"y": (4, 8)}, lambda x, y: loop(
        "i", 0, 4, loop("j", 0, 8, store(y, (V("i"), V("j")), x.at(V("i"), V("j") + 1)))
    ))  # fmt: skip
    with pytest.raises(td.ScheduleError) as e:
        interpret(n, {"x": np.zeros((4, 8))})
    e.value.location = None
    golden(e.value)


@pytest.mark.parametrize("row", [-1, 4])
def test_rows_do_not_run_into_each_other(row: int) -> None:
    """An index outside its dimension is refused even where the flat address lies inside."""
    n = nest({"x": (4, 8)}, {"y": ()}, lambda x, y: store(y, (), x.at(1, row * 2)))
    with pytest.raises(td.ScheduleError, match="outside its shape") as e:
        interpret(n, {"x": np.zeros((4, 8))})
    assert f"x[1, {row * 2}]" in e.value.message


def test_reads_before_writes_and_uncovered_outputs() -> None:
    n = nest({}, {"y": (3,)}, lambda y: loop("i", 0, 3, store(y, V("i"), 1.0, "add")))
    with pytest.raises(td.ScheduleError, match=r"reads y\[0\], before it is written"):
        interpret(n, {})
    n = nest({}, {"y": (2, 3)}, lambda y: loop("i", 0, 5, store(y, (V("i") // 3, V("i") % 3), 1.0)))
    with pytest.raises(td.ScheduleError, match=r"output y\[1, 2\] is never written"):
        interpret(n, {})


def test_copying_poison_is_a_read() -> None:
    t = Buffer("t", (3,), dtypes.int32, "workspace")
    n = nest({}, {"y": ((3,), "int32")}, lambda y: Alloc(t, loop("i", 0, 3, store(y, V("i"), t.at(V("i"))))))
    with pytest.raises(td.ScheduleError, match=r"reads t\[0\], before it is written"):
        interpret(n, {})


def test_malformed_nests_and_arguments() -> None:
    ok = nest({"x": (3,)}, {"y": (3,)}, lambda x, y: loop("i", 0, 3, store(y, V("i"), x.at(V("i")))))
    with pytest.raises(td.ScheduleError, match="no array for input x"):
        interpret(ok, {})
    with pytest.raises(td.ScheduleError, match=r"input x: .* got an array of shape \(4,\)"):
        interpret(ok, {"x": np.zeros(4)})
    with pytest.raises(td.ScheduleError, match="no buffer 'z'"):
        interpret(ok, {"x": np.zeros(3), "z": np.zeros(3)})
    with pytest.raises(td.ScheduleError, match=r"writes x: .*, an input"):
        interpret(nest({"x": (3,)}, {"y": (3,)}, lambda x, y: store(x, 0, 1.0)), {"x": np.zeros(3)})
    with pytest.raises(td.ScheduleError, match="'k' is used outside its loop"):
        interpret(nest({}, {"y": (3,)}, lambda y: store(y, V("k"), 1.0)), {})
    loose = Buffer("t", (3,), dtypes.float32, "stack")
    with pytest.raises(td.ScheduleError, match="used outside its allocation"):
        interpret(nest({}, {"y": (3,)}, lambda y: store(y, 0, loose.at(0))), {})
    with pytest.raises(td.ScheduleError, match="used outside its allocation"):
        interpret(nest({}, {"y": (3,)}, lambda y: seq(store(y, 0, 0.0), Prefetch(loose, (V(0),)))), {})
    with pytest.raises(td.ScheduleError, match="of rank 1 used with 2 indices"):
        interpret(nest({}, {"y": (3,)}, lambda y: store(y, (0, 0), 1.0)), {})
    with pytest.raises(td.ScheduleError, match="inside a loop of the same name"):
        interpret(nest({}, {"y": (3,)}, lambda y: loop("i", 0, 1, loop("i", 0, 1, store(y, 0, 1.0)))), {})


# ---------------------------------------------------------------- lockstep


def shifted(distance: int, extent: int = 32, kind: str = "vector") -> LoopNest:
    """``w[i] = w[i + distance]``: reads before writes only if the lanes allow it."""
    i = V("i")

    def body(x: Buffer, y: Buffer) -> Stmt:
        w = Buffer("w", (extent + 40,), dtypes.float32, "stack")
        fill = loop("i", 0, extent + 40, store(w, i, x.at(i)))
        shift = loop("i", 20, 20 + extent, store(w, i, w.at(i + distance)), kind=kind)  # type: ignore[arg-type]
        return Alloc(w, seq(fill, shift, loop("i", 0, extent + 40, store(y, i, w.at(i)))))

    return nest({"x": (extent + 40,)}, {"y": (extent + 40,)}, body)


@pytest.mark.parametrize("distance,same", [(1, True), (16, True), (0, True), (-16, True), (-1, False), (-15, False)])
def test_lockstep_shows_illegal_vectors(distance: int, same: bool) -> None:
    n, x = shifted(distance), np.arange(72.0)
    plain, lockstep = interpret(n, {"x": x})["y"], interpret(n, {"x": x}, lockstep=True)["y"]
    assert (plain == lockstep).all() == same


def test_lockstep_depends_on_the_number_of_lanes() -> None:
    n, x = shifted(-8), np.arange(72.0)
    plain = interpret(n, {"x": x})["y"]
    assert (interpret(n, {"x": x}, lockstep=True, lanes=8)["y"] == plain).all()
    assert not (interpret(n, {"x": x}, lockstep=True, lanes=16)["y"] == plain).all()


def test_lockstep_masks_private_cells_loops_and_reductions() -> None:
    """A guard, a buffer of each lane, a loop whose end varies with the lane, sums over the lanes."""
    i = V("i")
    t = Buffer("t", (2,), dtypes.float32, "register")

    def body(x: Buffer, y: Buffer, s: Buffer) -> Stmt:
        inner = Alloc(t, seq(
            store(t, 0, x.at(i)),
            store(t, 1, 0.0),
            loop("k", 0, (i + 1, V(9)), store(t, 1, t.at(0), "add")),
            If((i % 2 - 1,), store(y, i, t.at(1)), seq(store(y, i, 0.0), store(y, i, x.at(i), "add"))),
            store(s, 0, t.at(1), "add"),
            store(s, 1, x.at(i), "max"),
        ))  # fmt: skip
        return seq(store(s, 0, 0.0), store(s, 1, -1.0), loop("i", 0, 21, inner, kind="vector"))

    n = nest({"x": (21,)}, {"y": (21,), "s": (2,)}, body)
    x = np.random.default_rng(3).integers(0, 50, 21).astype(float)
    y = np.array([x[j] * min(j + 1, 9) if j % 2 else x[j] for j in range(21)])
    s = [sum(x[j] * min(j + 1, 9) for j in range(21)), x.max()]
    for lockstep, lanes in ((False, 16), (True, 16), (True, 4)):
        out = interpret(n, {"x": x}, lockstep=lockstep, lanes=lanes)
        assert out["y"].tolist() == y.tolist() and out["s"].tolist() == s


def test_the_innermost_of_nested_vector_loops_has_the_lanes() -> None:
    i, j = V("i"), V("j")
    inner = lambda x, y: store(y, i * 4 + j, x.at(i * 4 + j))  # noqa: E731
    twice = lambda x, y: loop("i", 0, 3, loop("j", 0, 4, inner(x, y), kind="vector"), kind="vector")  # noqa: E731
    assert interpret(nest({"x": (12,)}, {"y": (12,)}, twice), {"x": np.arange(12)}, lockstep=True)["y"][7] == 7


def test_lockstep_refuses_what_lanes_cannot_do() -> None:
    stepped = lambda y: loop("i", 0, 2, loop("j", V("i"), 2, store(y, V("j"), 1.0), step=2), kind="vector")  # noqa: E731
    with pytest.raises(td.ScheduleError, match="loop j of step 2 has bounds that vary with lane i"):
        interpret(nest({}, {"y": (2,)}, stepped), {}, lockstep=True)


@pytest.mark.parametrize("kind", ["parallel", "block", "thread"])
def test_races_between_iterations(kind: Any) -> None:
    i, j = V("i"), V("j")
    t = Buffer("t", (2,), dtypes.float32, "stack")

    def total(y: Buffer) -> Stmt:
        return seq(store(y, 0, 0.0), loop("i", 0, 4, store(y, 0, 1.0, "add"), kind=kind))

    with pytest.raises(td.ScheduleError, match="which another iteration of i uses too"):
        interpret(nest({}, {"y": (1,)}, total), {}, lockstep=True)
    assert interpret(nest({}, {"y": (1,)}, total), {})["y"].tolist() == [4.0]

    def private(y: Buffer) -> Stmt:
        inner = Alloc(t, seq(store(t, 0, Index(i)), store(y, (i, j), t.at(0))))
        return loop("j", 0, 3, loop("i", 0, 4, inner, kind=kind))

    assert interpret(nest({}, {"y": (4, 3)}, private), {}, lockstep=True)["y"][2].tolist() == [2.0] * 3

    def neighbour(x: Buffer, y: Buffer) -> Stmt:
        return seq(
            loop("i", 0, 4, store(y, i, x.at(i))),
            loop("i", 0, 3, store(y, i, y.at(i + 1)), kind=kind),
        )

    with pytest.raises(td.ScheduleError, match=r"y\[1\], which another iteration of i uses too"):
        interpret(nest({"x": (4,)}, {"y": (4,)}, neighbour), {"x": np.zeros(4)}, lockstep=True)


def test_reads_of_read_only_cells_are_shared_freely() -> None:
    n = nest({"x": (1,)}, {"y": (4,)}, lambda x, y: loop("i", 0, 4, store(y, V("i"), x.at(0)), kind="parallel"))
    assert interpret(n, {"x": np.ones(1)}, lockstep=True)["y"].tolist() == [1.0] * 4


def test_reads_name_buffers() -> None:
    stray = td.placeholder((3,), name="stray")
    n = nest({}, {"y": (3,)}, lambda y: store(y, 0, Read(stray, (V(0),))))
    with pytest.raises(td.ScheduleError, match="which is no buffer"):
        interpret(n, {})


def test_a_value_read_in_both_arms_of_a_select() -> None:
    """One node, read in sibling arms: each arm reads it under a name of its own."""
    x, y = td.placeholder((6,), name="x"), td.placeholder((6,), name="y")

    def either(i: td.Expr) -> td.Expr:
        shared = x[i]
        return td.select(i <= 2, shared, td.maximum(y[i], shared))

    program = td.Program([x, y], [td.compute((6,), either, name="z")])
    data = {"x": np.arange(6.0), "y": np.arange(6.0)[::-1].copy()}
    out = interpret(td.Schedule(program).nest, data)
    np.testing.assert_array_equal(out["z"], [0, 1, 2, 3, 4, 5])
