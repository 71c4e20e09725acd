"""Array notation means what numpy means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensordsl as td
from tensordsl.affine import Quasi
from tensordsl.expr import Read, walk
from tensordsl.interpreter import interpret
from tensordsl.tensor import Tensor


def values(shape: tuple[int, ...], seed: int = 0, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.asarray(np.random.default_rng(seed).integers(-9, 10, shape)).astype(dtype)


def evaluate(f: Callable[..., Any], *arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The value of a function of tensors."""
    inputs = [td.placeholder(a.shape, a.dtype.name, f"x{i}") for i, a in enumerate(arrays)]
    out = f(*inputs)
    assert isinstance(out, Tensor)
    program = td.Program(inputs, [out])
    result = interpret(program, {t.name: a for t, a in zip(program.inputs, arrays)})
    return result[program.outputs[0].name]


def same(f: Callable[..., Any], reference: Callable[..., Any], *arrays: np.ndarray[Any, Any]) -> None:
    expected = reference(*[a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays])
    found = evaluate(f, *arrays)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# ---------------------------------------------------------------- operators


@pytest.mark.parametrize(
    "left,right", [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((2, 3, 1), (3, 5)), ((), (3,))]
)
def test_operators_broadcast(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = values(left, 1), values(right, 2) + np.float32(0.5)
    for f in (
        lambda x, y: x + y,
        lambda x, y: x - y,
        lambda x, y: x * y,
        lambda x, y: x / y,
        lambda x, y: x // y,
        lambda x, y: x % y,
        lambda x, y: -x + abs(y),
        lambda x, y: (x < y) | (x >= y) & ~(x > y),
        lambda x, y: 2 - x,
        lambda x, y: 1.5 * y / (y * y + 1) + 7 // y,
    ):
        same(f, f, a, b)
    same(lambda x, y: (abs(x) + 1) ** y, lambda x, y: (np.abs(x) + 1) ** y, a, b)
    same(lambda x, y: 2.0**y, lambda x, y: 2.0**y, a, b)


def test_dtypes_promote() -> None:
    kinds = [
        ("int8", "int32", "int32"),
        ("uint8", "int8", "int16"),
        ("int32", "float32", "float32"),
        ("bool", "int8", "int8"),
    ]
    for a, b, expected in kinds:
        x, y = td.placeholder((2,), a), td.placeholder((2,), b)
        assert (x + y).dtype.name == (y + x).dtype.name == expected
    x = td.placeholder((2,), "int8")
    assert (x + 1).dtype.name == "int8", "numbers take the type they meet"
    assert (x / x).dtype.name == "float32"
    assert (x < 1).dtype.name == "bool"
    assert td.exp(x).dtype.name == "float32"


FUNCTIONS: dict[str, Any] = {
    **{n: getattr(np, n) for n in ("exp", "exp2", "tanh", "sin", "cos", "floor", "ceil", "rint", "abs", "square")},
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_tensors_and_of_elements_agree(name: str) -> None:
    x = values((3, 4)) / np.float32(4)
    f = getattr(td, name)
    same(f, FUNCTIONS[name], x)
    same(lambda t: td.compute(t.shape, lambda i, j: f(t[i, j])), FUNCTIONS[name], x)


def test_roots_and_logarithms() -> None:
    x = np.abs(values((5,))) + np.float32(0.25)
    for name in ("sqrt", "log", "log2"):
        same(getattr(td, name), getattr(np, name), x)
    same(td.rsqrt, lambda v: 1 / np.sqrt(v), x)
    same(lambda t: td.pow(t, 1.5), lambda v: v**1.5, x)


def test_extremes_and_choices() -> None:
    x, y = values((3, 4), 1), values((4,), 2)
    same(td.maximum, np.maximum, x, y)
    same(lambda a, b: td.max(a, b, 0), lambda a, b: np.maximum(np.maximum(a, b), 0), x, y)
    same(lambda a, b: td.min(a, b), np.minimum, x, y)
    same(lambda a, b: td.where(a > b, a, -1), lambda a, b: np.where(a > b, a, -1), x, y)
    same(lambda a, b: td.where(td.equal(a, b), 1.0, 2.0), lambda a, b: np.where(a == b, 1.0, 2.0), x, y)
    same(lambda a, b: td.sum(td.not_equal(a, b)), lambda a, b: np.sum(a != b), x, y)
    same(lambda a: td.cast(a, "int32") // 2, lambda a: a.astype(int) // 2, x)
    same(lambda a: a.astype("bool"), lambda a: a != 0, x)


def test_rank_zero_tensors_are_scalars_of_expressions() -> None:
    x, s = values((4,)), np.float32(2.5)
    same(lambda t, a: td.compute((4,), lambda i: a * t[i] + td.exp(a)), lambda t, a: a * t + np.exp(a), x, s)
    same(lambda t, a: (a + 1) * t - a / 2, lambda t, a: (a + 1) * t - a / 2, x, s)
    same(lambda t, a: td.compute((4,), lambda i: td.max(a, t[i])), lambda t, a: np.maximum(a, t), x, s)


# ---------------------------------------------------------------- reductions


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (-1, 1), ()])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(axis: Any, keepdims: bool) -> None:
    x = values((3, 4, 2))
    for name in ("sum", "prod", "max", "min", "mean"):
        reference = getattr(np, name)
        same(
            lambda t: getattr(td, name)(t, axis=axis, keepdims=keepdims),
            lambda a: reference(a, axis=axis, keepdims=keepdims),
            x,
        )
        same(lambda t: getattr(t, name)(axis, keepdims), lambda a: reference(a, axis=axis, keepdims=keepdims), x)


def test_reductions_of_integers_and_conditions() -> None:
    x = values((3, 4), dtype="int32")
    same(lambda t: t.mean(0), lambda a: a.mean(0), x)
    same(lambda t: (t > 0).sum(1), lambda a: (a > 0).sum(1), x)
    assert (td.placeholder((3,), "bool") | True).max().dtype.name == "bool"


# ---------------------------------------------------------------- products


@pytest.mark.parametrize(
    "left,right",
    [((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)),
     ((6, 1, 3, 4), (2, 4, 5)), ((1, 3, 1), (2, 1, 5))],
)  # fmt: skip
def test_matmul(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    same(lambda a, b: a @ b, np.matmul, values(left, 1), values(right, 2))


EINSUM = [
    ("ik,kj->ij", (3, 4), (4, 5)),
    ("ik,kj", (3, 4), (4, 5)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("...ij,...jk->...ik", (2, 3, 4), (4, 5)),
    ("...ij,...jk", (1, 3, 4), (2, 4, 5)),
    ("ii->i", (4, 4)),
    ("ii", (4, 4)),
    ("ij->ji", (3, 4)),
    ("ij->", (3, 4)),
    ("i,j->ij", (3,), (4,)),
    ("i...->...", (3, 4, 2)),
    ("bhid,bhjd->bhij", (2, 2, 3, 4), (2, 2, 5, 4)),
    ("ij,jk,k->i", (3, 4), (4, 5), (5,)),
    ("iij,jk->ki", (3, 3, 4), (4, 2)),
    ("ba,ab", (3, 4), (4, 3)),
]


@pytest.mark.parametrize("case", EINSUM, ids=lambda c: c[0])
def test_einsum(case: Any) -> None:
    arrays = [values(s, i) for i, s in enumerate(case[1:])]
    same(lambda *t: td.einsum(case[0], *t), lambda *a: np.einsum(case[0], *a), *arrays)


# ---------------------------------------------------------------- views


SLICES = [
    np.s_[0],
    np.s_[-1],
    np.s_[1:3],
    np.s_[::-1],
    np.s_[5:1:-2, 1],
    np.s_[..., 0],
    np.s_[:, None, 1:, ::2],
    np.s_[None, ..., None],
    np.s_[-3:, -2, :1],
    np.s_[1, 2, 3],
    np.s_[4:2],
    np.s_[...],
]


@pytest.mark.parametrize("key", SLICES, ids=str)
def test_slices(key: Any) -> None:
    if key == (1, 2, 3):
        x = td.placeholder((6, 5, 4))
        assert isinstance(x[key], Read)
        return
    same(lambda t: t[key], lambda a: a[key], values((6, 5, 4)))


def test_transposes() -> None:
    x = values((2, 3, 4))
    same(lambda t: t.T, lambda a: a.T, x)
    same(lambda t: t.transpose(1, 2, 0), lambda a: a.transpose(1, 2, 0), x)
    same(lambda t: td.transpose(t, (0, -1, 1)), lambda a: a.transpose(0, 2, 1), x)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_reshapes(data: st.DataObject) -> None:
    """Any factorisation to any other; digits that fall apart cleanly need no division."""

    def factors(n: int) -> tuple[int, ...]:
        found = []
        while n > 1:
            f = data.draw(st.sampled_from([d for d in range(2, n + 1) if n % d == 0]))
            found.append(f)
            n //= f
        return (*found, *[1] * data.draw(st.integers(0, 1)))

    n = data.draw(st.sampled_from([1, 12, 24, 30]))
    source, target = factors(n), factors(n)
    same(lambda t: t.reshape(*target), lambda a: a.reshape(target), values(source))


def test_reshapes_that_split_stay_affine() -> None:
    x = td.placeholder((24, 5), name="x")
    for shape in [(2, 3, 4, 5), (24, 5), (24, 1, 5), (4, 6, -1)]:
        t = x.reshape(shape)
        assert t.definition is not None
        atoms = [a for e in walk(t.definition.body) if isinstance(e, Read) for i in e.index for a, _ in i.terms]
        assert not any(isinstance(a, Quasi) for a in atoms), t.definition.body


def test_broadcast_to() -> None:
    same(lambda t: td.broadcast_to(t, (2, 3, 4)), lambda a: np.broadcast_to(a, (2, 3, 4)), values((3, 1)))
    same(lambda t: t + td.broadcast_to(1.5, (3,)), lambda a: a + 1.5, values((3,)))


def test_concatenate_stack_pad() -> None:
    x, y = values((2, 3), 1), values((4, 3), 2)
    same(lambda a, b: td.concatenate([a, b, a]), lambda a, b: np.concatenate([a, b, a]), x, y)
    same(lambda a: td.concatenate([a, a[:, :1]], axis=-1), lambda a: np.concatenate([a, a[:, :1]], -1), x)
    same(lambda a, b: td.concatenate([a[:0], b]), lambda a, b: b, x, y)
    for axis in (0, 1, 2, -1):
        same(lambda a: td.stack([a, a * 2, a + 1], axis), lambda a: np.stack([a, a * 2, a + 1], axis), x)
    same(lambda a: td.pad(a, 2, 7), lambda a: np.pad(a, 2, constant_values=7), x)
    same(lambda a: td.pad(a, ((0, 1), (2, 0))), lambda a: np.pad(a, ((0, 1), (2, 0))), x)
    same(lambda a: td.pad(a, (1, 3)), lambda a: np.pad(a, (1, 3)), x)
    same(lambda a: td.pad(a, 0), lambda a: a, x)


def test_empty_tensors() -> None:
    x = values((0, 3))
    same(lambda t: t + 1, lambda a: a + 1, x)
    same(lambda t: t.sum(0), lambda a: a.sum(0), x)
    same(lambda t: t.reshape(3, 0), lambda a: a.reshape(3, 0), x)
    same(lambda t: t.T @ t, lambda a: a.T @ a, x)


# ---------------------------------------------------------------- random programs against numpy


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_random_chains(data: st.DataObject) -> None:
    """A chain of array operations, applied to a tensor and to a numpy array."""
    steps: list[Callable[[Any], Any]] = []
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    x = values(shape)
    for _ in range(data.draw(st.integers(1, 5))):
        rank = len(shape)
        kind = data.draw(st.sampled_from(["slice", "transpose", "reduce", "scale", "reshape", "outer", "new"]))
        if kind == "slice" and rank:
            d = data.draw(st.integers(0, rank - 1))
            part = slice(
                data.draw(st.integers(-3, 3) | st.none()), data.draw(st.integers(-3, 5) | st.none()),
                data.draw(st.sampled_from([1, 2, -1, -2])),
            )  # fmt: skip
            steps.append(lambda a, k=(slice(None),) * d + (part,): a[k])
        elif kind == "transpose" and rank:
            order = data.draw(st.permutations(range(rank)))
            steps.append(lambda a, o=order: a.transpose(*o))
        elif kind == "reduce" and rank > 1:
            axis = data.draw(st.integers(-rank, rank - 1))
            keep = data.draw(st.booleans())
            steps.append(lambda a, d=axis, keep=keep: a.sum(d, keepdims=keep))
        elif kind == "reshape" and rank:
            steps.append(lambda a: a.reshape(-1))
        elif kind == "outer" and rank == 1:
            steps.append(lambda a: a[:, None] * a[None, :] + a)
        elif kind == "new" and rank < 4:
            steps.append(lambda a: a[None])
        else:
            steps.append(lambda a: a * 2 - 1)
        sample: Any = x.astype(np.float64)
        for s in steps:
            sample = s(sample)
        shape = sample.shape

    def chain(a: Any) -> Any:
        for s in steps:
            a = s(a)
        return a + 0

    same(chain, chain, x)
