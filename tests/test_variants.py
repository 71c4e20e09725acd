"""Other definitions of the same meaning: Winograd's minimal filtering."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensordsl.autotune.driver import kernel_of
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.variants.winograd import MATRICES, identity_holds

import tensordsl as td
from tensordsl.targets import target

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import winograd


def images(layout: str, dtype: str = "float32", **options: Any) -> tuple[td.Program, str]:
    shape, size = ((2, 7, 10, 5), (3, 3, 5, 6)) if layout == "NHWC" else ((2, 5, 7, 10), (6, 5, 3, 3))
    x, w = td.placeholder(shape, dtype, name="x"), td.placeholder(size, dtype, name="w")
    return td.Program([x, w], [td.ops.conv2d(x, w, layout=layout, **options)], name="conv"), "conv2d"


def rows() -> tuple[td.Program, str]:
    """One dimension, the filter first, reads that start at 2."""
    x, w = td.placeholder((3, 15), name="x"), td.placeholder((4, 3, 3), name="w")
    r, c = td.reduce_axis(3, "tap"), td.reduce_axis(3, "channel")
    term = lambda o, i: td.sum(w[o, c, r] * x[c, i + r + 2], axis=(c, r))  # noqa: E731
    return td.Program([x, w], [td.compute((4, 11), term, name="out")], name="rows"), "out"


def depthwise() -> tuple[td.Program, str]:
    """Nothing is summed but the taps."""
    x, w = td.placeholder((8, 9, 4), name="x"), td.placeholder((3, 3, 4), name="w")
    r, s = td.reduce_axis(3, "r"), td.reduce_axis(3, "s")
    term = lambda i, j, c: td.sum(x[i + r, j + s, c] * w[r, s, c], axis=(r, s))  # noqa: E731
    return td.Program([x, w], [td.compute((6, 7, 4), term, name="out")], name="depthwise"), "out"


CASES: dict[str, Callable[[], tuple[td.Program, str]]] = {
    "NHWC": lambda: images("NHWC", padding=1),
    "NCHW": lambda: images("NCHW", padding=1),
    "valid, float64": lambda: images("NCHW", "float64"),
    "rows": rows,
    "depthwise": depthwise,
}


def test_the_matrices_are_identities() -> None:
    assert all(identity_holds(*matrices) for matrices in MATRICES.values())
    data, taps, back = MATRICES[4]
    assert not identity_holds(((*data[0][:-1], Fraction(1)), *data[1:]), taps, back)


@pytest.mark.compiler
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_means_the_same(name: str, m: int) -> None:
    """Exactly for F(2, 3), whose matrices hold quarters at most; within the bound of its own rounding for F(4, 3)."""
    p, stage = CASES[name]()
    q = td.Schedule(p).winograd(stage, m).program
    integers = td.small_integer_inputs(p, np.random.default_rng(1))
    plain, other = td.interpret(p, integers)[stage], td.interpret(q, integers)[stage]
    if m == 2:
        np.testing.assert_array_equal(other, plain)
    inputs = td.random_inputs(p, np.random.default_rng(2))
    expected, bound = td.interpret(p, inputs)[stage], td.error_bound(q, inputs)[stage]
    assert (np.abs(td.interpret(q, inputs)[stage] - expected) <= bound).all()
    out = kernel_of(default_schedule(q, target("avx2")), target("avx2"))(*inputs.values())
    assert (np.abs(out - expected) <= bound).all()
    assert bound.max() > td.error_bound(p, inputs)[stage].max()  # what it costs


def test_written_by_hand_with_other_names() -> None:
    """Nothing but structure is looked at: the example is no library operator."""
    p = winograd.convolution(6, 9, 4, np.ones((3, 3, 4, 5), np.float32))
    q = winograd.with_winograd(p, 2)
    data = td.random_inputs(p, np.random.default_rng(0))
    np.testing.assert_allclose(td.interpret(q, data)["y"], td.interpret(p, data)["y"], rtol=1e-12, atol=1e-12)


def test_a_constant_filter_is_transformed_at_build_time() -> None:
    weights = np.random.default_rng(0).standard_normal((3, 3, 4, 16)).astype(np.float32)
    s = default_schedule(winograd.with_winograd(winograd.convolution(8, 8, 4, weights), 2), target("avx512"))
    shapes = {t.name: t.shape for t in s.program.constants}
    assert shapes["y_filter2"] == (4, 4, 4, 16) and "w" not in shapes
    _, taps, _ = MATRICES[2]
    g = np.array([[float(x) for x in row] for row in taps])
    value = next(t.value for t in s.program.constants if t.name == "y_filter2")
    np.testing.assert_allclose(value, np.einsum("pr,qs,rsco->qpco", g, g, weights), rtol=1e-6, atol=1e-6)


@pytest.mark.compiler
def test_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    winograd.main()
    assert capsys.readouterr().out.count("largest error") == 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: images("NHWC", stride=2), "not a correlation with 3 taps"),
        (lambda: images("NHWC", dilation=2), "not a correlation with 3 taps"),
        (lambda: images("NHWC", "int32"), "not a sum of floats"),
    ],
)
def test_refused(build: Callable[[], tuple[td.Program, str]], message: str) -> None:
    p, stage = build()
    with pytest.raises(td.ScheduleError, match=message):
        td.Schedule(p).winograd(stage, 2)
