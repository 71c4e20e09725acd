"""The operator library against plain numpy, point by point where numpy has no such function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensordsl as td
from tensordsl.affine import Quasi
from tensordsl.expr import Op, walk
from tensordsl.interpreter import error_bound, interpret, random_inputs
from tensordsl.tensor import Tensor

Array = np.ndarray[Any, Any]


def values(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def program(f: Callable[..., Any], *arrays: Array) -> td.Program:
    inputs = [td.placeholder(a.shape, a.dtype.name, f"x{i}") for i, a in enumerate(arrays)]
    return td.Program(inputs, [f(*inputs)])


def evaluate(f: Callable[..., Any], *arrays: Array) -> Array:
    p = program(f, *arrays)
    return interpret(p, {t.name: a for t, a in zip(p.inputs, arrays)})[p.outputs[0].name]


def check(f: Callable[..., Any], reference: Callable[..., Any], *arrays: Array, **tolerance: float) -> None:
    expected = reference(*[a.astype(np.float64) for a in arrays])
    found = evaluate(f, *arrays)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, **{"rtol": 1e-11, "atol": 1e-13, **tolerance})


# ---------------------------------------------------------------- activations


def test_activations() -> None:
    x = values(3, 40) * 3
    erf = np.vectorize(math.erf)
    check(td.ops.relu, lambda a: np.maximum(a, 0), x)
    check(td.ops.gelu, lambda a: 0.5 * a * (1 + erf(a / np.sqrt(2))), x)
    tanh = lambda a: 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))  # noqa: E731
    check(lambda t: td.ops.gelu(t, approximate="tanh"), tanh, x)
    check(td.ops.gelu, tanh, x, rtol=0.0, atol=5e-4)
    check(td.ops.sigmoid, lambda a: 1 / (1 + np.exp(-a)), x)
    check(td.ops.silu, lambda a: a / (1 + np.exp(-a)), x)
    n = np.arange(-3, 4, dtype=np.int32)
    assert evaluate(td.ops.relu, n).tolist() == [0, 0, 0, 0, 1, 2, 3]
    with pytest.raises(td.ProgramError, match="gelu: unknown approximation 'erf'"):
        td.ops.gelu(td.placeholder((3,)), approximate="erf")


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("axis", [-1, 0, 1, (0, 2), (-2, -1), None])
def test_softmax(axis: Any) -> None:
    def reference(a: Array) -> Array:
        e = np.exp(a - a.max(axis=axis, keepdims=True))
        return np.asarray(e / e.sum(axis=axis, keepdims=True))

    x = values(3, 4, 5) * 10
    check(lambda t: td.ops.softmax(t, axis), reference, x)
    check(lambda t: td.ops.log_softmax(t, axis), lambda a: np.log(reference(a)), x)


def test_softmax_is_stable() -> None:
    x = np.array([[1000.0, 999.0, -1000.0], [-np.inf, 0.0, -np.inf]], np.float32)
    found = evaluate(td.ops.softmax, x)
    e = math.exp(-1)
    np.testing.assert_allclose(found, [[1 / (1 + e), e / (1 + e), 0], [0, 1, 0]])
    assert np.isfinite(evaluate(td.ops.log_softmax, x)[0]).all()


def test_softmax_is_max_exp_sum_divide() -> None:
    p = program(td.ops.softmax, values(3, 4))
    reducers = [t.definition.reducer.name for t in p.tensors if t.definition and t.definition.reducer]
    assert reducers == ["max", "sum"]
    calls = [e.name for t in p.tensors if t.definition for e in walk(t.definition.body) if isinstance(e, Op)]
    assert calls == ["sub", "exp", "div"]


@pytest.mark.parametrize("axis", [-1, (1, 2), 0])
def test_layer_norm_and_rms_norm(axis: Any) -> None:
    def layer(a: Array, w: Array, b: Array) -> Array:
        mean, var = a.mean(axis=axis, keepdims=True), a.var(axis=axis, keepdims=True)
        return np.asarray((a - mean) / np.sqrt(var + 1e-5) * w + b)

    def rms(a: Array, w: Array) -> Array:
        return np.asarray(a / np.sqrt((a * a).mean(axis=axis, keepdims=True) + 1e-6) * w)

    x, w, b = values(3, 4, 5) * 4 + 2, values(4, 5, seed=1), values(5, seed=2)
    check(lambda t, u, v: td.ops.layer_norm(t, u, v, axis=axis), layer, x, w, b)
    check(lambda t: td.ops.layer_norm(t, axis=axis), lambda a: layer(a, np.ones(5), np.zeros(5)), x)
    check(lambda t, u: td.ops.rms_norm(t, u, eps=1e-6, axis=axis), rms, x, w)


def test_variance_is_accurate() -> None:
    """The mean of squared deviations keeps its digits where the difference of squares loses all."""
    x = np.random.default_rng(0).standard_normal((2, 256)) * 0.01 + 1000
    p = program(td.ops.layer_norm, x.astype(np.float32))
    inputs = {"x0": x.astype(np.float32)}
    exact, single = interpret(p, inputs), interpret(p, inputs, "float32")
    name = p.outputs[0].name
    assert np.abs(exact[name] - single[name]).max() < 0.05, "of values up to 3; the input alone is off by 0.003"


def test_rows_are_of_floats() -> None:
    with pytest.raises(td.ProgramError, match="softmax: n: int32"):
        td.ops.softmax(td.placeholder((3,), "int32", "n"))
    with pytest.raises(td.ProgramError, match="has no axis 2"):
        td.ops.softmax(td.placeholder((3, 4)), axis=2)
    with pytest.raises(td.ProgramError, match="no elements along its axis"):
        td.ops.softmax(td.placeholder((3, 0)))
    with pytest.raises(td.ProgramError, match=r"layer_norm: shapes .* do not broadcast"):
        td.ops.layer_norm(td.placeholder((3, 4)), td.placeholder((3,), name="w"))


# ---------------------------------------------------------------- products


def test_products() -> None:
    a, b = values(2, 3, 4), values(2, 4, 5)
    check(td.ops.matmul, np.matmul, a, b)
    check(td.ops.batched_matmul, np.matmul, a, b)
    w, bias = values(6, 4), values(6)
    check(td.ops.linear, lambda x, u, v: x @ u.T + v, a, w, bias)
    check(td.ops.linear, lambda x, u: x @ u.T, a[0, 0], w)
    with pytest.raises(td.ProgramError, match="not batches of matrices of one size"):
        td.ops.batched_matmul(td.placeholder((2, 3, 4)), td.placeholder((3, 4, 5)))
    with pytest.raises(td.ProgramError, match="does not fit weight"):
        td.ops.linear(td.placeholder((2, 3)), td.placeholder((3, 4)))


# ---------------------------------------------------------------- windows


def windows(x: Array, size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """(n, c, h', w', r, s) of a padded (n, c, h, w)."""
    spread = [d * (s - 1) + 1 for d, s in zip(dilation, size)]
    every = np.lib.stride_tricks.sliding_window_view(x, spread, (2, 3))
    return every[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def conv(x: Array, w: Array, stride: Any, padding: Any, dilation: Any, groups: int) -> Array:
    pad = [(0, 0), (0, 0), *[(p, p) for p in padding]]
    win = windows(np.pad(x, pad), w.shape[2:], stride, dilation)
    parts = [
        np.einsum("nchwrs,ocrs->nohw", a, b) for a, b in zip(np.split(win, groups, axis=1), np.split(w, groups, axis=0))
    ]
    return np.concatenate(parts, axis=1)


CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"stride": (2, 1)},
    {"padding": (1, 2)},
    {"dilation": (2, 1), "padding": (2, 0)},
    {"groups": 2},
    {"groups": 4, "stride": (2, 2), "padding": (1, 1)},
    {"stride": (3, 2), "padding": (0, 1), "dilation": (1, 3)},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_conv2d(options: dict[str, Any], layout: str) -> None:
    groups = options.get("groups", 1)
    x, w, b = values(2, 4, 9, 10), values(8, 4 // groups, 3, 2), values(8)
    full = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, **options}
    expected = conv(x.astype(float), w.astype(float), **full) + b[:, None, None]
    if layout == "NHWC":
        x, w, expected = x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0), expected.transpose(0, 2, 3, 1)
    found = evaluate(lambda t, u, v: td.ops.conv2d(t, u, v, layout=layout, **options), x, w, b)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


def test_conv2d_words_for_padding() -> None:
    x, w = values(1, 2, 6, 7), values(3, 2, 3, 5)
    same = evaluate(lambda t, u: td.ops.conv2d(t, u, padding="same"), x, w)
    np.testing.assert_allclose(same, evaluate(lambda t, u: td.ops.conv2d(t, u, padding=(1, 2)), x, w))
    assert same.shape == (1, 3, 6, 7)
    assert evaluate(lambda t, u: td.ops.conv2d(t, u, padding="valid"), x, w).shape == (1, 3, 4, 3)


def test_depthwise_indices_have_no_division() -> None:
    p = program(lambda t, u: td.ops.conv2d(t, u, groups=4), values(1, 4, 6, 6), values(4, 1, 3, 3))
    atoms = [a for r in p.tensors[0].definition.reads for i in r.index for a, _ in i.terms]  # type: ignore[union-attr]
    assert not any(isinstance(a, Quasi) for a in atoms)


def test_padding_is_a_definition_of_its_own() -> None:
    p = program(lambda t, u: td.ops.conv2d(t, u, padding=1), values(1, 2, 6, 6), values(3, 2, 3, 3))
    assert [t.name for t in p.tensors] == ["x0_pad", "conv2d"]
    assert p["x0_pad"].shape == (1, 2, 8, 8)
    assert not any(isinstance(e, Op) and e.name == "select" for e in walk(p["conv2d"].definition.body))  # type: ignore[union-attr]


POOLS: list[tuple[Any, dict[str, Any]]] = [
    (2, {}),
    ((3, 2), {"stride": (2, 1)}),
    (3, {"stride": 2, "padding": 1}),
    ((2, 3), {"stride": 1, "padding": (1, 0)}),
]


@pytest.mark.parametrize("size,options", POOLS, ids=str)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pooling(size: Any, options: dict[str, Any], layout: str) -> None:
    x = values(2, 3, 8, 9)
    pair = lambda v: v if isinstance(v, tuple) else (v, v)  # noqa: E731
    kernel, padding = pair(size), pair(options.get("padding", 0))
    stride = pair(options.get("stride", size))
    pads = [(0, 0), (0, 0), *[(p, p) for p in padding]]
    to = (lambda a: a) if layout == "NCHW" else (lambda a: a.transpose(0, 2, 3, 1))

    def win(fill: float, data: Array) -> Array:
        return windows(np.pad(data.astype(float), pads, constant_values=fill), kernel, stride, (1, 1))

    def found(f: Callable[..., Tensor], **more: Any) -> Array:
        return evaluate(lambda t: f(t, size, layout=layout, **options, **more), to(x))

    np.testing.assert_array_equal(found(td.ops.max_pool2d), to(win(-np.inf, x).max((4, 5))))
    total = win(0, x).sum((4, 5))
    np.testing.assert_allclose(found(td.ops.avg_pool2d), to(total / math.prod(kernel)), rtol=1e-12)
    inside = win(0, np.ones_like(x)).sum((4, 5))
    np.testing.assert_allclose(found(td.ops.avg_pool2d, count_include_pad=False), to(total / inside), rtol=1e-12)


def test_pooling_of_integers() -> None:
    x = np.arange(-8, 8, dtype=np.int8).reshape(1, 1, 4, 4)
    assert evaluate(lambda t: td.ops.max_pool2d(t, 2, padding=1), x).ravel().tolist() == [-8, -6, -5, 0, 2, 3, 4, 6, 7]


def test_windows_are_checked() -> None:
    x, w = td.placeholder((1, 4, 6, 6), name="x"), td.placeholder((8, 4, 3, 3), name="w")
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: td.ops.conv2d(x, w, layout="CHWN"), "unknown layout 'CHWN'"),
        (lambda: td.ops.conv2d(x[0], w), "is not a batch of images NCHW"),
        (lambda: td.ops.conv2d(x, w[0]), "is not of rank 4"),
        (lambda: td.ops.conv2d(x, w, groups=3), "4 channels of x, 4 of weight and 8 filters do not fit 3 groups"),
        (lambda: td.ops.conv2d(x, w, stride=0), "stride=0 is not one or two integers of at least 1"),
        (lambda: td.ops.conv2d(x, w, padding=(1, 2, 3)), r"padding=\(1, 2, 3\) is not one or two integers"),
        (lambda: td.ops.conv2d(x, w, padding="full"), "unknown padding 'full'"),
        (lambda: td.ops.conv2d(x, w, padding="same", stride=2), 'padding "same" needs stride 1'),
        (lambda: td.ops.conv2d(x, w, dilation=3), "a window of 7 does not fit into 6 pixels"),
        (lambda: td.ops.conv2d(x, w, td.placeholder((7,), name="b")), r"b: float32\[7\] does not fit 8 filters"),
        (lambda: td.ops.max_pool2d(x, 2, padding=2), "is more than half of the window"),
        (lambda: td.ops.avg_pool2d(x.astype("int32"), 2), "is not of a float type"),
    ]
    for f, message in wrong:
        with pytest.raises(td.ProgramError, match=message):
            f()


# ---------------------------------------------------------------- all of them


def everything() -> dict[str, td.Program]:
    x, image = values(6, 32), values(1, 4, 8, 8)
    ops = td.ops
    return {
        "softmax": program(ops.softmax, x),
        "log_softmax": program(ops.log_softmax, x),
        "layer_norm": program(ops.layer_norm, x),
        "rms_norm": program(ops.rms_norm, x),
        "gelu": program(ops.gelu, x),
        "gelu_tanh": program(lambda t: ops.gelu(t, "tanh"), x),
        "silu": program(ops.silu, x),
        "conv2d": program(lambda t, w: ops.conv2d(t, w, padding=1), image, values(8, 4, 3, 3)),
        "max_pool2d": program(lambda t: ops.max_pool2d(t, 2), image),
        "avg_pool2d": program(lambda t: ops.avg_pool2d(t, 3, 1, 1, False), image),
        "matmul": program(ops.matmul, x, x.T.copy()),
    }


@pytest.mark.parametrize("name", everything())
def test_float32_stays_within_the_tolerance(name: str) -> None:
    p = everything()[name]
    for seed in range(3):
        inputs = random_inputs(p, np.random.default_rng(seed))
        exact, single, bound = interpret(p, inputs), interpret(p, inputs, "float32"), error_bound(p, inputs)
        for out, e in exact.items():
            assert (np.abs(e - single[out]) <= bound[out]).all()
            scale = np.abs(e).max()
            assert (bound[out] <= 1e-3 * scale).all(), "a tolerance that says something"


def test_the_library_is_written_in_the_language() -> None:
    """Rewriting softmax in index notation gives the same definitions."""
    x = td.placeholder((3, 4), name="x0")
    k = td.reduce_axis(4, "j")
    top = td.compute((3,), lambda i: td.max(x[i, k], axis=k), name="x0_max")
    e = td.compute((3, 4), lambda i, j: td.exp(x[i, j] - top[i]), name="x0_exp")
    total = td.compute((3,), lambda i: td.sum(e[i, k], axis=k), name="x0_sum")
    y = td.compute((3, 4), lambda i, j: e[i, j] / total[i], name="softmax")
    assert str(td.Program([x], [y])) == str(program(td.ops.softmax, values(3, 4)))


def test_every_operator_is_documented() -> None:
    import tensordsl.ops

    for name in tensordsl.ops.__all__:
        text = getattr(tensordsl.ops, name).__doc__
        assert text and len(text) > 20, name
    assert list(tensordsl.ops.__all__) == sorted(tensordsl.ops.__all__)
