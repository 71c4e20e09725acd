"""The meaning of programs: `interpret` against numpy, and the tolerances derived beside it."""

from __future__ import annotations

import math
import operator
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensordsl as td
from tensordsl import dtypes, evaluation, expr
from tensordsl.arithmetic import numpy_type
from tensordsl.expr import REDUCERS, Axis, Index, Reduce
from tensordsl.interpreter import error_bound, interpret, random_inputs, small_integer_inputs
from tensordsl.program import Program
from tensordsl.tensor import Tensor, define

RNG = np.random.default_rng


def run(inputs: list[Tensor], outputs: list[Tensor], arrays: list[Any], **kw: Any) -> list[Any]:
    program = Program(inputs, outputs)
    found = interpret(program, {t.name: a for t, a in zip(program.inputs, arrays)}, **kw)
    return [found[t.name] for t in program.outputs]


def scalar(f: Callable[..., Any], *values: Any, **kw: Any) -> Any:
    """The value of a scalar expression of rank-0 inputs."""
    inputs = [td.placeholder((), np.asarray(v).dtype.name, f"x{i}") for i, v in enumerate(values)]
    y = td.compute((), lambda: f(*[x[()] for x in inputs]), "y")
    return run(inputs, [y], list(values), **kw)[0][()]


def f32(*xs: float) -> list[np.float32]:
    return [np.float32(x) for x in xs]


def matmul(m: int, n: int, depth: int, dtype: str = "float32") -> Program:
    a, b = td.placeholder((m, depth), dtype, "A"), td.placeholder((depth, n), dtype, "B")
    k = td.reduce_axis(depth, "k")
    c = td.compute((m, n), lambda i, j: td.sum(a[i, k] * b[k, j], axis=k), "C")
    return Program([a, b], [c], "matmul")


# ---------------------------------------------------------------- definitions


def test_stencil_with_guarded_edges() -> None:
    x = td.placeholder((6, 5), name="x")
    y = td.compute((6, 5), lambda i, j: td.select((i > 0) & (j < 4), x[i - 1, j + 1], -x[i, j] * 0.5) + i * 10 + j, "y")
    data = RNG(0).standard_normal((6, 5))
    expected = -data * 0.5
    expected[1:, :-1] = data[:-1, 1:]
    expected += np.arange(6)[:, None] * 10 + np.arange(5)
    np.testing.assert_array_equal(run([x], [y], [data])[0], expected)


def test_quasi_affine_indices() -> None:
    x = td.placeholder((3, 4), name="x")
    flat = td.compute((12,), lambda i: x[i // 4, i % 4], "flat")
    back = td.compute((4, 6), lambda i, j: flat[(i * 6 + j) // 2], "back")
    data = RNG(0).standard_normal((3, 4))
    np.testing.assert_array_equal(run([x], [back], [data])[0], np.repeat(data.ravel(), 2).reshape(4, 6))


@pytest.mark.parametrize("block", [1 << 18, 16])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_reducers_in_blocks(block: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "BLOCK_POINTS", block)
    x = td.placeholder((5, 7, 3), dtype, "x")
    data = RNG(1).integers(-3, 4, (5, 7, 3)).astype(dtype)
    k, r = Axis("k", 7), Axis("r", 3)
    for name, f in [("sum", np.sum), ("prod", np.prod), ("max", np.max), ("min", np.min)]:
        i = Axis("i", 5)
        term = x[Index(expr.Affine.of("i")), Index(expr.Affine.of("k")), Index(expr.Affine.of("r"))]
        y = define((i,), Reduce(REDUCERS[name], (k, r), term), "y")
        np.testing.assert_array_equal(run([x], [y], [data])[0], f(data, axis=(1, 2)))


def test_a_term_without_its_axis_counts_every_time() -> None:
    x = td.placeholder((4,), name="x")
    k, r = td.reduce_axis(5, "k"), td.reduce_axis(3, "r")
    y = td.compute((4,), lambda i: td.sum(x[i], axis=[k, r]), "y")
    z = td.compute((4,), lambda i: td.sum(x[i] * x[r], axis=[k, r]), "z")
    data = np.arange(4.0)
    found = run([x], [y, z], [data])
    np.testing.assert_array_equal(found[0], data * 15)
    np.testing.assert_array_equal(found[1], data * 5 * 3)


CONTRACTIONS = {
    "ik,kj->ij": [(5, 7), (7, 6)],
    "bik,bkj->bij": [(3, 5, 7), (3, 7, 6)],
    "ik,k->i": [(5, 7), (7,)],
    "i,j->ij": [(5,), (7,)],
    "ik,ik->i": [(5, 7), (5, 7)],
    "ik,kj,j->ij": [(5, 7), (7, 6), (6,)],
    "ik,kl,lj->ij": [(5, 4), (4, 3), (3, 6)],
    "ikl,kj->ji": [(5, 7, 2), (7, 6)],
    "ii->": [(5, 5)],
    "bhik,bhjk->bhij": [(2, 3, 4, 5), (2, 3, 6, 5)],
}


@pytest.mark.parametrize("spec", CONTRACTIONS)
@pytest.mark.parametrize("limit", [1 << 22, 8])
def test_contractions_equal_einsum(spec: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensordsl import contraction

    monkeypatch.setattr(contraction, "BLOCK_ELEMENTS", limit)
    left, right = spec.split("->")
    shapes = CONTRACTIONS[spec]
    size = {c: n for part, shape in zip(left.split(","), shapes) for c, n in zip(part, shape)}
    inputs = [td.placeholder(s, name=f"x{i}") for i, s in enumerate(shapes)]
    reduced = [td.reduce_axis(size[c], c) for c in size if c not in right]
    axes = tuple(Axis(c, size[c]) for c in right)

    term: Any = 1.0
    for x, part in zip(inputs, left.split(",")):
        term = term * x[tuple(Index(expr.Affine.of(c)) for c in part)]
    body = td.sum(term, axis=reduced) if reduced else term
    y = define(axes, body, "y")
    arrays = [RNG(i).integers(-4, 5, s).astype(float) for i, s in enumerate(shapes)]
    np.testing.assert_array_equal(run(inputs, [y], arrays)[0], np.einsum(spec, *arrays))


def test_strided_windows_are_contracted() -> None:
    x, w = td.placeholder((2, 9, 9), name="x"), td.placeholder((4, 2, 3, 3), name="w")
    c, r, s = td.reduce_axis(2, "c"), td.reduce_axis(3, "r"), td.reduce_axis(3, "s")
    y = td.compute((4, 4, 4), lambda f, i, j: td.sum(x[c, 2 * i + r, 2 * j + s] * w[f, c, r, s], axis=[c, r, s]), "y")
    a, b = RNG(0).integers(-4, 5, (2, 9, 9)), RNG(1).integers(-4, 5, (4, 2, 3, 3))
    windows = np.lib.stride_tricks.sliding_window_view(a, (3, 3), (1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(run([x, w], [y], [a, b])[0], np.einsum("cijrs,fcrs->fij", windows, b))


def test_reduction_memory_is_bounded() -> None:
    n = 256
    x = td.placeholder((n, n), name="x")
    k = td.reduce_axis(n, "k")
    y = td.compute((n, n), lambda i, j: td.sum(abs(x[i, k] - x[k, j]), axis=k), "y")
    data = RNG(0).standard_normal((n, n))
    tracemalloc.start()
    found = run([x], [y], [data])[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20, "the whole domain would take 128 MB"
    np.testing.assert_allclose(found[3, 5], np.abs(data[3] - data[:, 5]).sum())


def test_recurrence_runs_in_order() -> None:
    x = td.placeholder((5, 3), name="x")
    s = td.recurrence(
        (5, 3), lambda s, t, i: td.select(t > 0, s[t - 1, (i + 1) % 3] * 0.5, 0.0) + x[t, i], "s", order="t"
    )
    data = RNG(0).standard_normal((5, 3))
    expected = np.zeros((5, 3))
    for t in range(5):
        expected[t] = data[t] + (0.5 * np.roll(expected[t - 1], -1) if t else 0)
    np.testing.assert_allclose(run([x], [s], [data])[0], expected, rtol=1e-15)


def test_sizes_of_zero_and_one() -> None:
    x = td.placeholder((0, 3), name="x")
    k = td.reduce_axis(0, "k")
    y = td.compute((0, 3), lambda i, j: x[i, j] + 1.0, "y")
    s = td.compute((3,), lambda j: td.sum(x[k, j], axis=k), "s")
    found = run([x], [y, s], [np.zeros((0, 3))])
    assert found[0].shape == (0, 3) and found[1].tolist() == [0, 0, 0]
    a = td.placeholder((), "int64", "a")
    z = td.compute((1,), lambda i: a[()] * 2 + i, "z")
    assert run([a], [z], [np.int64(21)])[0].tolist() == [42]


# ---------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("a,b", [(7, 3), (-7, 3), (7, -3), (-7, -3), (0, 5)])
def test_integer_division_is_pythons(a: int, b: int) -> None:
    x, y = np.int32(a), np.int32(b)
    assert scalar(operator.floordiv, x, y) == a // b
    assert scalar(operator.mod, x, y) == a % b


def test_integers_wrap_around_as_in_their_type() -> None:
    big = np.int8(100)
    assert scalar(operator.add, big, big) == -56
    assert scalar(operator.mul, big, big) == 16
    assert scalar(operator.sub, np.uint8(3), np.uint8(5)) == 254
    assert scalar(lambda x: (x + x) // 2, big) == -28
    assert scalar(lambda x: -x, np.int8(-128)) == -128
    assert scalar(lambda x: abs(x), np.int8(-128)) == -128
    assert scalar(lambda x: ~x, np.uint8(1)) == 254
    assert scalar(lambda x: x + x, np.int64(2**62)) == -(2**63)
    assert scalar(lambda x: x - 1, np.int64(2**53 + 2)) == 2**53 + 1, "no float in between"


def test_integer_contractions_are_exact() -> None:
    p = matmul(3, 4, 5, "int64")
    a = RNG(0).integers(-(2**60), 2**60, (3, 5))
    b = RNG(1).integers(-(2**60), 2**60, (5, 4))
    exact = a.astype(object) @ b.astype(object)
    wrapped = (exact + 2**63) % 2**64 - 2**63
    assert (interpret(p, {"A": a, "B": b})["C"] == wrapped).all()
    p = matmul(3, 4, 5, "int8")
    a8, b8 = a.astype(np.int8), b.astype(np.int8)
    assert (interpret(p, {"A": a8, "B": b8})["C"] == (a8.astype(int) @ b8).astype(np.int8)).all()


def test_casts() -> None:
    assert scalar(lambda x: td.cast(x, "int32"), np.float32(-2.9)) == -2, "towards zero"
    assert scalar(lambda x: td.cast(x, "bool"), np.float32(0.5)) == True  # noqa: E712
    assert scalar(lambda x: td.cast(x, "float32"), np.bool_(True)) == 1.0
    assert scalar(lambda x: td.cast(x, "uint8"), np.int32(-1)) == 255
    assert scalar(lambda x: td.cast(x, "uint8"), np.float32(-1)) == 255
    assert scalar(lambda x: td.cast(x, "int32"), np.float64(-(2.0**70) - 2.0**31)) == -(2**31)
    with pytest.raises(td.ProgramError, match="infinity or nan has no value of type int32"):
        scalar(lambda x: td.cast(x, "int32"), np.float32("nan"))


def test_only_the_chosen_side_is_evaluated() -> None:
    x = td.placeholder((4,), "int32", "x")
    y = td.compute((4,), lambda i: td.select(x[i] != 0, 12 // x[i], -1), "y")
    assert run([x], [y], [np.array([0, 5, -5, 0])])[0].tolist() == [-1, 2, -3, -1]
    z = td.compute((4,), lambda i: 12 // x[i], "z")
    with pytest.raises(td.ProgramError, match="integer division by zero") as e:
        run([x], [z], [np.array([1, 2, 0, 4])])
    assert e.value.counterexample == "when i = 2"


def test_division_by_zero_of_floats() -> None:
    assert scalar(operator.truediv, *f32(1, 0)) == math.inf
    assert math.isnan(scalar(operator.truediv, *f32(0, 0)))
    assert math.isnan(scalar(lambda x: expr.binary("max", x, 1.0), np.float32("nan")))


@pytest.mark.parametrize(
    "name",
    [
        "sqrt",
        "rsqrt",
        "exp",
        "exp2",
        "log",
        "log2",
        "tanh",
        "erf",
        "sin",
        "cos",
        "floor",
        "ceil",
        "round",
        "neg",
        "abs",
    ],
)
def test_functions_of_reals(name: str) -> None:
    reference: Any = {"rsqrt": lambda x: 1 / np.sqrt(x), "erf": np.vectorize(math.erf), "neg": np.negative}
    f = reference.get(name) or getattr(np, name)
    for x in (0.0, 0.25, -1.75, 2.0, 800.0, -800.0, math.inf, -math.inf, math.nan):
        with np.errstate(all="ignore"):
            expected = f(np.float64(x))
        np.testing.assert_allclose(scalar(lambda v: expr.unary(name, v), np.float32(x)), expected, rtol=1e-14)


def test_float32_rounds_every_operation() -> None:
    x = np.float32(1 + 2**-20)
    assert scalar(lambda v: v * v - 1.0, x, dtype="float32") == np.float32(x * x) - np.float32(1)
    assert scalar(lambda v: v * v - 1.0, x) == float(x) ** 2 - 1
    assert scalar(lambda v: v * v, np.float64(1 / 3), dtype="float32") == (1 / 3) ** 2, "float64 stays float64"
    found = run([t := td.placeholder((2,), name="t")], [td.compute((2,), lambda i: t[i], "y")], [np.ones(2)])
    assert found[0].dtype == np.float64


# ---------------------------------------------------------------- inputs


def test_inputs_are_checked() -> None:
    p = matmul(2, 2, 2)
    a = np.zeros((2, 2))
    with pytest.raises(td.ProgramError, match="no array for input B"):
        interpret(p, {"A": a})
    with pytest.raises(td.ProgramError, match=r"has no input 'C'"):
        interpret(p, {"A": a, "B": a, "C": a})
    with pytest.raises(td.ProgramError, match=r"B: float32\[2, 2\] got an array of shape \[2, 3\]"):
        interpret(p, {"A": a, "B": np.zeros((2, 3))})
    with pytest.raises(td.ProgramError, match="got an array of complex128"):
        interpret(p, {"A": a, "B": a.astype(complex)})


def test_random_inputs_stay_in_the_domain_of_functions() -> None:
    x = td.placeholder((64,), name="x")
    signed = td.compute((64,), lambda i: expr.unary("sqrt", x[i] * x[i] + 1.0), "y")
    rooted = td.compute((64,), lambda i: expr.unary("log", x[i]), "y")
    assert random_inputs(Program([x], [signed]), RNG(0))["x"].min() < 0
    p = Program([x], [rooted])
    assert np.isfinite(interpret(p, random_inputs(p, RNG(0)))["y"]).all()
    n = td.placeholder((64,), "int32", "n")
    p = Program([n], [td.compute((64,), lambda i: 7 // n[i], "y")])
    interpret(p, random_inputs(p, RNG(0)))
    interpret(p, small_integer_inputs(p, RNG(0)))


# ---------------------------------------------------------------- tolerance


def programs() -> dict[str, Program]:
    """Programs with every kind of error propagation."""
    found = {"matmul": matmul(16, 12, 96)}
    x, s = td.placeholder((24, 40), name="x"), td.placeholder((), name="s")
    k = td.reduce_axis(40, "k")

    def add(name: str, *outputs: Tensor) -> None:
        found[name] = Program([x, s], list(outputs), name)

    top = define((Axis("i", 24),), Reduce(REDUCERS["max"], (k.axis,), x[Index(expr.Affine.of("i")), k]), "top")
    e = td.compute((24, 40), lambda i, j: expr.unary("exp", x[i, j] - top[i]), "e")
    total = td.compute((24,), lambda i: td.sum(e[i, k], axis=k), "total")
    add("softmax", td.compute((24, 40), lambda i, j: e[i, j] / total[i], "y"))
    mean = td.compute((24,), lambda i: td.sum(x[i, k], axis=k) / 40.0, "mean")
    var = td.compute((24,), lambda i: td.sum((x[i, k] - mean[i]) * (x[i, k] - mean[i]), axis=k) / 40.0, "var")
    normal = td.compute((24, 40), lambda i, j: (x[i, j] - mean[i]) * expr.unary("rsqrt", var[i] + 1e-5) * s, "y")
    add("layer_norm", normal)
    add("steps", td.compute((24, 40), lambda i, j: expr.unary("floor", x[i, j] * 3.3) + x[i, j] % 0.3, "y"))
    chosen = lambda i, j: td.select(x[i, j] * s > x[i, 0] * s, x[i, j] / 3.0, -x[i, j] * s)  # noqa: E731
    add("choice", td.compute((24, 40), chosen, "y"))
    add("product", td.compute((24,), lambda i: td.prod(x[i, k] * 1.1 + 0.7, axis=k), "y"))
    many = ["exp", "exp2", "tanh", "erf", "sin", "cos", "abs", "neg"]
    body = lambda i, j: sum((expr.unary(f, x[i, j] * s) for f in many), expr.expression(0.1))  # noqa: E731
    add("functions", td.compute((24, 40), body, "y"))
    positive = lambda i, j: expr.unary("log", abs(x[i, j]) + 0.1) + (abs(x[i, j]) + 0.5) ** 1.7  # noqa: E731
    add("powers", td.compute((24, 40), positive, "y"))
    decay = lambda d, t, j: td.select(t > 0, d[t - 1, j] * 0.9, 0.0) + x[t, j]  # noqa: E731
    add("decay", td.recurrence((24, 40), decay, "y", order="t"))
    return found


@pytest.mark.parametrize("name", programs())
def test_float32_lies_within_the_tolerance(name: str) -> None:
    p = programs()[name]
    used = 0.0
    for seed in range(4):
        inputs = random_inputs(p, RNG(seed))
        reference, single, bound = interpret(p, inputs), interpret(p, inputs, "float32"), error_bound(p, inputs)
        for out in reference:
            error = np.abs(reference[out] - single[out])
            assert (error <= bound[out]).all(), f"{out}: {(error / bound[out]).max()}"
            assert np.isfinite(bound[out]).all()
            used = max(used, float((error[bound[out] > 0] / bound[out][bound[out] > 0]).max(initial=0)))
    assert used > 0.001, "a bound that far from the truth would pass anything"


def test_a_wrong_result_exceeds_the_tolerance() -> None:
    p = matmul(16, 12, 96)
    inputs = random_inputs(p, RNG(0))
    reference, bound = interpret(p, inputs)["C"], error_bound(p, inputs)["C"]
    for k in range(96):  # leaving out any one term shows
        short = reference - np.outer(inputs["A"][:, k], inputs["B"][k])
        assert (np.abs(short - reference) > bound).any()


def test_small_integers_are_exact() -> None:
    p = matmul(8, 8, 512)
    inputs = small_integer_inputs(p, RNG(0))
    assert np.abs(inputs["A"]).max() == 4
    assert not error_bound(p, inputs)["C"].any()
    assert (interpret(p, inputs)["C"] == interpret(p, inputs, "float32")["C"]).all()
    half = td.placeholder((4,), name="x")
    q = Program([half], [td.compute((4,), lambda i: half[i] / 2.0 + 0.1, "y")])
    assert error_bound(q, small_integer_inputs(q, RNG(0)))["y"].all(), "0.1 is rounded"


def test_integers_have_no_tolerance() -> None:
    p = matmul(4, 4, 8, "int32")
    assert not error_bound(p, random_inputs(p, RNG(0)))["C"].any()


def test_tolerance_of_a_sum_is_n_u_times_its_terms() -> None:
    x = td.placeholder((1000,), name="x")
    k = td.reduce_axis(1000, "k")
    p = Program([x], [td.compute((), lambda: td.sum(x[k], axis=k), "y")])
    data = RNG(0).standard_normal(1000).astype(np.float32)
    expected = 2 * 1000 * 2.0**-24 * np.abs(data).astype(float).sum()
    np.testing.assert_allclose(error_bound(p, {"x": data})["y"], expected)


def test_nothing_is_claimed_beyond_overflow() -> None:
    x = td.placeholder((3,), name="x")
    p = Program([x], [td.compute((3,), lambda i: expr.unary("exp", x[i]), "y")])
    bound = error_bound(p, {"x": np.array([1.0, 89.0, np.inf], np.float32)})["y"]
    assert np.isfinite(bound[0]) and np.isinf(bound[1]) and bound[2] == 0


def test_dtypes_of_results() -> None:
    x = td.placeholder((2,), "uint8", "x")
    outputs = [td.compute((2,), lambda i: td.cast(x[i], t), f"y_{t}") for t in dtypes.ALL if not t.endswith("int4")]
    found = run([x], outputs, [np.array([1, 2], np.uint8)])
    for t, array in zip([t for t in dtypes.ALL.values() if t.bits >= 8], found):
        assert array.dtype == numpy_type(t, "float64")
