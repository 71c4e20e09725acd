"""Chains of reductions over computed values: attention by default never stores its scores."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.autotune.driver import kernel_of
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import buffers
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.sketches import Sketch, sketches
from tensordsl.schedules.sketches.one_pass import find_pass

import tensordsl as td
from tensordsl.targets import target

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import attention
import nests

SMALL = replace(target("avx2"), caches=(32 << 10, 64 << 10, 16 << 20))  # scores of 160 rows do not fit the second level


def heads(count: int, n: int, d: int, rows_first: bool) -> td.Program:
    """Causal attention of several heads, its mask as the condition of each reduction."""
    shape = (n, count, d) if rows_first else (count, n, d)
    q, k, v = (td.placeholder(shape, name=x) for x in "qkv")

    def at(x: td.Tensor, h: Any, i: Any, c: Any) -> Any:
        return x[i, h, c] if rows_first else x[h, i, c]

    c, j, j1, j2 = (td.reduce_axis(size, name=x) for size, x in ((d, "c"), (n, "j"), (n, "j1"), (n, "j2")))
    s = td.compute((count, n, n), lambda h, i, r: td.sum(at(q, h, i, c) * at(k, h, r, c), axis=c), name="s")
    m = td.compute((count, n), lambda h, i: td.max(s[h, i, j], axis=j, where=j <= i), name="m")
    e = td.compute((count, n, n), lambda h, i, r: td.exp(s[h, i, r] - m[h, i]), name="e")
    l = td.compute((count, n), lambda h, i: td.sum(e[h, i, j1], axis=j1, where=j1 <= i), name="l")

    def term(h: Any, i: Any, x: Any) -> Any:
        return td.sum(e[h, i, j2] / l[h, i] * at(v, h, j2, x), axis=j2, where=j2 <= i)

    if rows_first:
        o = td.compute(shape, lambda i, h, x: term(h, i, x), name="o")
    else:
        o = td.compute(shape, lambda h, i, x: term(h, i, x), name="o")
    return td.Program([q, k, v], [o], name="heads")


def logsumexp_of_logits() -> td.Program:
    x, w = td.placeholder((50, 24), name="x"), td.placeholder((24, 300), name="w")
    c, j, j1 = td.reduce_axis(24, name="c"), td.reduce_axis(300, name="j"), td.reduce_axis(300, name="j1")
    s = td.compute((50, 300), lambda i, r: td.sum(x[i, c] * w[c, r], axis=c), name="s")
    m = td.compute((50,), lambda i: td.max(s[i, j], axis=j), name="m")
    l = td.compute((50,), lambda i: td.sum(td.exp(s[i, j1] - m[i]), axis=j1), name="l")
    return td.Program([x, w], [td.compute((50,), lambda i: m[i] + td.log(l[i]), name="r")], name="logsumexp")


def projected() -> td.Program:
    p = attention.attention_program(96, 16, causal=True)
    w = td.placeholder((16, 16), name="w")
    return td.Program([*p.inputs, w], [p.outputs[0] @ w], name="projected")


CASES: dict[str, Callable[[], td.Program]] = {
    "attention": lambda: attention.attention_program(160, 24),
    "causal": lambda: attention.attention_program(160, 24, causal=True),
    "ragged": lambda: attention.attention_program(131, 9, causal=True),
    "one tile and a term": lambda: attention.attention_program(65, 8),
    "heads": lambda: heads(2, 96, 16, False),
    "rows before heads": lambda: heads(2, 96, 16, True),
    "scores transposed": lambda: nests.attention_program(96, 16),
    "logsumexp": logsumexp_of_logits,
    "projected": projected,
}


def one_pass(p: td.Program, machine: str = "avx2") -> Sketch:
    return next(x for x in sketches(p, target(machine)) if x.name == "one_pass")


def largest(s: Schedule) -> int:
    """Elements of the largest buffer that is not the caller's."""
    return max(math.prod(b.fold or b.shape) for b in buffers(s.nest).values() if b.scope != "external")


@pytest.mark.compiler
@pytest.mark.parametrize("name", CASES)
def test_in_one_pass(name: str) -> None:
    p = CASES[name]()
    sketch = one_pass(p)
    inputs = td.random_inputs(p, np.random.default_rng(1))
    expected, bound = td.interpret(p, inputs), td.error_bound(p, inputs)
    key = p.outputs[0].name
    for sizes in (
        sketch.default,
        {**sketch.default, "rows": sketch.holes["rows"][0], "terms": sketch.holes["terms"][0]},
    ):
        s = sketch.build(sizes).validate()
        assert str(Schedule.replay(p, s.trace).nest) == str(s.nest)
        out = kernel_of(s, target("avx2"))(*[inputs[t.name] for t in p.inputs])
        assert (np.abs(out - expected[key]) <= bound[key]).all()


def test_the_nest_itself() -> None:
    p = attention.attention_program(80, 5, causal=True)
    sketch = one_pass(p)
    inputs = td.random_inputs(p, np.random.default_rng(1))
    expected, bound = td.interpret(p, inputs), td.error_bound(p, inputs)
    key = p.outputs[0].name
    for lockstep in (False, True):
        found = interpret(sketch.build(sketch.default).validate().nest, inputs, lockstep=lockstep)
        assert (np.abs(found[key] - expected[key]) <= bound[key] + 1e-12).all()


@pytest.mark.parametrize("causal", [False, True])
def test_by_default_no_scores_are_stored(causal: bool) -> None:
    """A block of 32 rows and a tile of 128 terms is the most that exists, whatever the number of rows."""
    n = 2048
    s = default_schedule(attention.attention_program(n, 64, causal=causal), target("avx512"))
    assert any(step.name == "online" for step in s.trace)
    assert largest(s) <= n * 64  # the keys in the order of their use
    assert all(math.prod(b.shape) < n * n for b in buffers(s.nest).values())


@pytest.mark.compiler
@pytest.mark.parametrize("causal", [False, True])
def test_against_numpy(causal: bool) -> None:
    p = attention.attention_program(160, 32, causal=causal)
    s = default_schedule(p, SMALL)
    assert any(step.name == "online" for step in s.trace)
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((160, 32)).astype(np.float32) for _ in range(3))
    wide = [x.astype(np.float64) for x in (q, k, v)]
    out = kernel_of(s, target("avx2"))(q, k, v)
    np.testing.assert_allclose(out, attention.numpy_attention(*wide, causal=causal), rtol=2e-5, atol=2e-6)


def test_where_the_scores_fit_the_cache_the_tuner_chooses() -> None:
    p = attention.attention_program(160, 32)
    assert [x.name for x in sketches(p, target("avx512"))] == ["fused", "one_pass"]
    assert [x.name for x in sketches(p, SMALL)] == ["one_pass", "fused"]


def test_what_is_needed_outside_is_no_pass() -> None:
    """A softmax gives all its values; scores that the caller wants are stored; a few terms need no tiles."""
    x, w = td.placeholder((96, 16), name="x"), td.placeholder((16, 96), name="w")
    assert find_pass(td.Program([x, w], [td.ops.softmax(x @ w, axis=-1)])) is None
    scores = x @ w
    assert find_pass(td.Program([x, w], [scores, td.ops.softmax(scores, axis=-1) @ x])) is None
    assert find_pass(attention.attention_program(64, 16)) is None


def test_names_do_not_matter() -> None:
    p = attention.attention_program(96, 16)
    q, k, v = (td.placeholder((96, 16), name=x) for x in ("alpha", "beta", "gamma"))
    other = td.Program([q, k, v], [td.ops.softmax(q @ k.T / 4.0, axis=-1) @ v], name="another")
    a, b = (one_pass(x) for x in (p, other))
    assert [s.name for s in a.build(a.default).trace] == [s.name for s in b.build(b.default).trace]


def test_the_start_of_a_triangular_sum_covers_all_rows() -> None:
    """The bounds of a row's loop may say for which terms it runs; its start runs for all rows."""
    e, v = td.placeholder((32, 32), name="e"), td.placeholder((32, 16), name="v")
    j = td.reduce_axis(32, name="j")
    y = td.compute((32, 16), lambda i, z: td.sum(e[i, j] * v[j, z], axis=j, where=j <= i), name="y")
    s = td.Schedule(td.Program([e, v], [y])).split("y", "i", 11).reorder("y", "i.o", "j", "i.i", "z")
    assert "for j in 0..min(11*i.o + 11, 32)" in str(s)


@pytest.mark.compiler
def test_a_masked_score_is_exactly_zero() -> None:
    """exp far below the smallest number, infinity and nan, in vectors: 0, 0, nan, and the edge is rounded right."""
    x = td.placeholder((64,), name="x")
    kernel = td.compile(td.Program([x], [td.exp(x)], name="exponential"))
    values = np.linspace(-110, -80, 64).astype(np.float32)
    values[:4] = [-np.inf, np.nan, -1e30, -104.5]
    found, exact = kernel(values), np.exp(values.astype(np.float64))
    assert found[0] == found[2] == found[3] == 0 and np.isnan(found[1])
    assert (np.abs(found - exact)[2:] <= np.maximum(exact[2:] * 2**-23, 2.0**-149)).all()
