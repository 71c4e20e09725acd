"""`online`: chains of reductions in one pass, against the interpreter on their plain definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensordsl.autotune.driver import kernel_of
from tensordsl.schedules.schedule import Schedule

import tensordsl as td

ROWS, TERMS, WIDTH = 3, 23, 4
CASES: dict[str, Callable[..., tuple[td.Tensor, str]]] = {}


def case(f: Callable[..., tuple[td.Tensor, str]]) -> Callable[..., tuple[td.Tensor, str]]:
    CASES[f.__name__] = f
    return f


def peak(x: td.Tensor, k: Any, **where: Any) -> td.Tensor:
    return td.compute((ROWS,), lambda i: td.max(x[i, k], axis=k, **where), name="m")


def weight(x: td.Tensor, m: td.Tensor, k: Any, **where: Any) -> td.Tensor:
    return td.compute((ROWS,), lambda i: td.sum(td.exp(x[i, k] - m[i]), axis=k, **where), name="l")


@case
def logsumexp(x: td.Tensor, v: td.Tensor, k: Any) -> tuple[td.Tensor, str]:
    m = peak(x, k)
    l = weight(x, m, k)
    return td.compute((ROWS,), lambda i: m[i] + td.log(l[i]), name="r"), "l"


@case
def attention(x: td.Tensor, v: td.Tensor, k: Any) -> tuple[td.Tensor, str]:
    m = peak(x, k)
    l = weight(x, m, k)
    o = td.compute((ROWS, WIDTH), lambda i, d: td.sum(td.exp(x[i, k] - m[i]) / l[i] * v[k, d], axis=k), name="o")
    return o, "o"


@case
def attention_in_array_notation(x: td.Tensor, v: td.Tensor, k: Any) -> tuple[td.Tensor, str]:
    return td.ops.softmax(x, axis=-1) @ v, ""


@case
def causal_attention(x: td.Tensor, v: td.Tensor, k: Any) -> tuple[td.Tensor, str]:
    m = td.compute((ROWS,), lambda i: td.max(x[i, k], axis=k, where=k <= 7 * i + 3), name="m")
    l = td.compute((ROWS,), lambda i: td.sum(td.exp(x[i, k] - m[i]), axis=k, where=k <= 7 * i + 3), name="l")
    term = lambda i, d: td.exp(x[i, k] - m[i]) / l[i] * v[k, d]  # noqa: E731
    return td.compute((ROWS, WIDTH), lambda i, d: td.sum(term(i, d), axis=k, where=k <= 7 * i + 3), name="o"), "o"


@case
def variance(x: td.Tensor, v: td.Tensor, k: Any) -> tuple[td.Tensor, str]:
    mean = td.mean(x, axis=1, keepdims=False)
    q = td.compute((ROWS,), lambda i: td.sum((x[i, k] - mean[i]) * (x[i, k] - mean[i]), axis=k), name="q")
    return q, "q"


@case
def third_moment(x: td.Tensor, v: td.Tensor, k: Any) -> tuple[td.Tensor, str]:
    mean = td.mean(x, axis=1)

    def cube(i: Any) -> Any:
        d = x[i, k] - mean[i]
        return d * d * d

    return td.compute((ROWS,), lambda i: td.sum(cube(i), axis=k), name="q"), "q"


@case
def entropy(x: td.Tensor, v: td.Tensor, k: Any) -> tuple[td.Tensor, str]:
    m = peak(x, k)
    return td.compute((ROWS,), lambda i: td.sum(td.exp(x[i, k] - m[i]) * (x[i, k] - m[i]), axis=k), name="e"), "e"


@case
def sum_of_log_softmax(x: td.Tensor, v: td.Tensor, k: Any) -> tuple[td.Tensor, str]:
    m = peak(x, k)
    l = weight(x, m, k)
    return td.compute((ROWS,), lambda i: td.sum(x[i, k] - m[i] - td.log(l[i]), axis=k), name="r"), "r"


@case
def argmax(x: td.Tensor, v: td.Tensor, k: Any) -> tuple[td.Tensor, str]:
    m = peak(x, k)
    return td.compute((ROWS,), lambda i: td.min(td.cast(k, "int64"), axis=k, where=x[i, k] == m[i]), name="a"), "a"


def program(name: str) -> tuple[td.Program, str]:
    x, v = td.placeholder((ROWS, TERMS), "float64", "x"), td.placeholder((TERMS, WIDTH), "float64", "v")
    output, stage = CASES[name](x, v, td.reduce_axis(TERMS, name="k"))
    p = td.Program([x, v], [output], name=name)
    reductions = [t.name for t in p.tensors if t.definition is not None and t.definition.reducer]
    return p, stage if stage in reductions else reductions[-1]


def data(kind: str) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((ROWS, TERMS))
    if kind == "far from zero":
        x += 1e4
    if kind == "large":
        x *= 80
    if kind == "masked":
        x[0, :11] = -np.inf
        x[1, ::2] = -np.inf
        x[2, :] = -np.inf
    return {"x": x, "v": rng.standard_normal((TERMS, WIDTH))}


@pytest.mark.parametrize("kind", ["normal", "far from zero", "large", "masked"])
@pytest.mark.parametrize("name", CASES)
def test_one_pass_means_the_same(name: str, kind: str) -> None:
    p, stage = program(name)
    inputs = data(kind)
    expected = td.interpret(p, inputs)
    for tile in (1, 4, TERMS, 64):
        s = Schedule(p, checked=False).online(stage, tile)
        found = td.interpret(s.program, inputs)
        for key, value in expected.items():
            scale = np.abs(value[np.isfinite(value)]).max(initial=1.0)
            np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-11 * scale, err_msg=f"tile {tile}")


@pytest.mark.compiler
@pytest.mark.parametrize("name", ["attention", "variance", "argmax"])
def test_proven_and_compiled(name: str) -> None:
    p, stage = program(name)
    s = td.Schedule(p).online(stage, 8)
    inputs = data("masked" if name == "attention" else "normal")
    out = kernel_of(s)(inputs["x"], inputs["v"])
    np.testing.assert_allclose(out, td.interpret(p, inputs)[p.outputs[0].name], rtol=1e-12)


def test_the_trace_replays() -> None:
    p, stage = program("attention")
    s = td.Schedule(p).online(stage, 8, axis="k")
    assert str(Schedule.replay(p, s.trace).nest) == str(s.nest)


def test_no_score_is_stored_twice() -> None:
    """The exponentials of a tile are computed once for the sum and the products."""
    x, v = td.placeholder((ROWS, TERMS), name="x"), td.placeholder((TERMS, WIDTH), name="v")
    p = td.Program([x, v], [td.ops.softmax(x, axis=-1) @ v], name="attention")
    stage = [t.name for t in p.tensors if t.definition is not None and t.definition.reducer][-1]
    streamed = td.Schedule(p).unchecked().online(stage, 8).program
    exponentials = [t for t in streamed.tensors if "exp(" in str(t.definition.body)]
    assert len(exponentials) == 2  # of the scores, and of what an older maximum is rescaled by
    assert all(t.shape[0] == 3 for t in exponentials)


def refused(build: Callable[[td.Tensor, Any], td.Tensor]) -> str:
    x = td.placeholder((ROWS, TERMS), name="x")
    p = td.Program([x], [build(x, td.reduce_axis(TERMS, name="k"))], name="p")
    with pytest.raises(td.ScheduleError) as raised:
        td.Schedule(p).online(p.outputs[0].name, 4)
    return str(raised.value)


def test_what_has_no_streaming_form() -> None:
    def deviation(x: td.Tensor, k: Any) -> td.Tensor:
        mean = td.mean(x, axis=1)
        return td.compute((ROWS,), lambda i: td.sum(td.abs(x[i, k] - mean[i]), axis=k), name="r")

    def around_the_peak(x: td.Tensor, k: Any) -> td.Tensor:
        m = peak(x, k)
        return td.compute((ROWS,), lambda i: td.sum(td.tanh(x[i, k] - m[i]), axis=k), name="r")

    for build in (deviation, around_the_peak):
        text = refused(build)
        assert "r cannot be streamed: no formula turns its sum" in text and "a pass of its own" in text


def first_tile_of_zeros(build: Callable[[td.Tensor, Any], td.Tensor]) -> tuple[td.Program, dict[str, Any]]:
    x = td.placeholder((1, 8), "float64", name="x")
    p = td.Program([x], [build(x, td.reduce_axis(8, name="k"))], name="p")
    return p, {"x": np.array([[0.0, 0, 0, 0, 1, 2, 3, 4]])}


def test_a_result_that_is_zero_so_far_does_not_spoil_the_end() -> None:
    """What is carried is multiplied by new / old only where the old result cannot be zero."""

    def build(x: td.Tensor, k: Any) -> td.Tensor:
        m = td.compute((1,), lambda i: td.max(x[i, k], axis=k), name="m")
        return td.compute((1,), lambda i: td.sum((x[i, k] + 1.0) * m[i], axis=k), name="r")

    p, data = first_tile_of_zeros(build)
    for tile in (1, 2, 4):
        streamed = td.Schedule(p).unchecked().online("r", tile).program
        np.testing.assert_allclose(td.interpret(streamed, data)["r"], 72.0)


def test_terms_that_a_part_may_leave_undefined_are_refused() -> None:
    """The quotient, logarithm or exponential is fine with the final result, not with that of a part."""

    def maximum(x: td.Tensor, k: Any) -> td.Tensor:
        return td.compute((1,), lambda i: td.max(x[i, k], axis=k), name="m")

    def total(x: td.Tensor, k: Any) -> td.Tensor:
        return td.compute((1,), lambda i: td.sum(x[i, k], axis=k), name="s")

    def over_maximum(x: td.Tensor, k: Any) -> td.Tensor:
        m = maximum(x, k)
        return td.compute((1,), lambda i: td.sum((x[i, k] / m[i]) * (x[i, k] / m[i]), axis=k), name="r")

    def log_of_sum(x: td.Tensor, k: Any) -> td.Tensor:
        s = total(x, k)
        return td.compute((1,), lambda i: td.sum(x[i, k] - td.log(s[i]), axis=k), name="r")

    def exponential_around_sum(x: td.Tensor, k: Any) -> td.Tensor:
        s = total(x, k)
        return td.compute((1,), lambda i: td.sum(td.exp(x[i, k] - s[i]), axis=k), name="r")

    def of_a_quotient(x: td.Tensor, k: Any) -> td.Tensor:
        s = total(x, k)
        q = td.compute((1,), lambda i: td.sum(x[i, k] * x[i, k] / s[i], axis=k), name="q")
        return td.compute((1,), lambda i: td.sum((x[i, k] - q[i]) * (x[i, k] - q[i]), axis=k), name="r")

    for build in (over_maximum, log_of_sum, exponential_around_sum, of_a_quotient):
        p, _ = first_tile_of_zeros(build)
        with pytest.raises(td.ScheduleError, match="r cannot be streamed"):
            td.Schedule(p).online("r", 4)


def test_wrong_uses() -> None:
    p, stage = program("attention")
    with pytest.raises(td.ScheduleError, match="there is no definition 'zz'"):
        td.Schedule(p).online("zz", 4)
    with pytest.raises(td.ScheduleError, match="tile=0 is not a positive integer"):
        td.Schedule(p).online(stage, 0)
    with pytest.raises(td.ScheduleError, match="not a reduction over one axis 'q'"):
        td.Schedule(p).online(stage, 4, axis="q")
    with pytest.raises(td.ScheduleError, match="already arranged"):
        td.Schedule(p).split(stage, "i", 2).online(stage, 4)
