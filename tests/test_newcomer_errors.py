"""What people who know Python and numpy write first: every mistake is an error of ours that points at the
line and says what to write instead."""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest

import tensordsl as td

x = td.placeholder((8,), name="x")
m = td.placeholder((4, 6), name="m")
n = td.placeholder((8,), "int32", name="n")
program = td.Program([x], [td.compute((8,), lambda i: x[i] + 1, name="y")])


def element(f: Callable[..., object]) -> object:
    return td.compute((8,), f, name="y")  # type: ignore[arg-type]


def assigned(i: object) -> None:
    x[i] = 2.0  # type: ignore[index]


def forgotten(i: object) -> None:
    x[i] * 2


#: what is written, a part of the message, a part of the hint
CASES: list[tuple[Callable[[], object], str, str]] = [
    (lambda: np.sort(x), "np.sort takes arrays", "td.max and td.min"),
    (lambda: np.exp(x), "np.exp takes arrays", "use td.exp"),
    (lambda: np.sum(m, axis=0), "np.sum takes arrays", "use td.sum"),
    (lambda: np.concatenate([x, x]), "np.concatenate takes arrays", "use td.concatenate"),
    (lambda: np.asarray(x), "tensor x is no array", "td.interpret"),
    (lambda: element(lambda i: np.exp(x[i])), "np.exp takes arrays", "use td.exp"),
    (lambda: element(lambda i: np.maximum(x[i], 0)), "np.maximum takes arrays", "use td.maximum"),
    (lambda: element(lambda i: np.ones(8)[i]), "the expression i is no array", "td.interpret"),
    (lambda: element(lambda i: x[i] + np.ones(8)), "ndarray", "td.placeholder"),
    (lambda: x + np.ones(8), "add: a ndarray is not a tensor", "td.placeholder"),
    (lambda: np.ones(8) * x, "mul: a ndarray is not a tensor", "td.placeholder"),
    (lambda: element(lambda i: math.exp(x[i])), "x[i] has no value", "td.exp"),
    (lambda: element(lambda i: int(x[i])), "x[i] has no value", "td.cast"),
    (lambda: element(lambda i: round(x[i])), "x[i] has no value", "td.floor"),
    (lambda: float(x), "tensor x has no value", "td.cast"),
    (lambda: element(lambda i: sum(x[j] for j in range(i))), "i is no integer", "td.reduce_axis"),
    (lambda: element(lambda i: [1.0, 2.0][i]), "i is no integer", "td.reduce_axis"),
    (lambda: element(lambda i: max(x[i], 0.0)), "no truth value", "td.select"),
    (lambda: element(lambda i: td.select(0 < i < 7, x[i], 0.0)), "no truth value", "& | ~"),
    (lambda: element(lambda i: [x[i], x[i]]), "list", "a further dimension"),
    (lambda: element(forgotten), "None is not a scalar expression", "return"),
    (lambda: element(assigned), "tensor x cannot be assigned to", "td.select"),
    (lambda: element(lambda i: n[i] << 1), "n[i] has no <<", "x * 8"),
    (lambda: element(lambda i: n[i] ^ 1), "n[i] has no ^", "td.not_equal"),
    (lambda: element(lambda i: x[i] @ x[i]), "x[i] has no @", "*"),
    (lambda: element(lambda i: n[i] // 0), "n[i] // 0: a division of integers by zero", ""),
    (lambda: element(lambda i: x[i % 0]), "index i % 0: the divisor of an index must be positive", ""),
    (lambda: td.where(x == x, 1.0, x), "the condition of select is True", "td.equal"),
    (lambda: td.where(x == 0, 1.0, x), "== and != of tensor x and a int", "td.equal"),
    (lambda: x != np.zeros(8), "== and != of tensor x and a ndarray", "td.not_equal"),
    (lambda: td.Program(x, x + 1), "the inputs of a program are a list", "td.Program([x], [y])"),  # type: ignore[arg-type]
    (lambda: td.Program([], [x + 1]), "add reads x, which is neither defined nor an input", "add it to inputs"),
    (lambda: td.recurrence((8,), lambda y, i: x[i], order=0), "order=0 names no axes", 'order="i"'),  # type: ignore[arg-type]
    (lambda: td.compute((8,), x), "a definition is a function of indices", "lambda"),  # type: ignore[arg-type]
    (lambda: td.compute((8,), lambda *, i: x[i]), "a definition is a function of indices", "lambda"),
    (lambda: td.reduce_axis(6, name="a b"), "'a b' is not a name", "letters"),
    (lambda: td.placeholder((x,)), "got <tensor x: float32[8]>", ""),  # type: ignore[arg-type]
    (lambda: td.sort(x), "tensordsl has no attribute 'sort': where an element comes from", "td.max"),
    (lambda: td.unique(x), "tensordsl has no attribute 'unique': the size of a result", "a mask"),
    (lambda: td.zeros((3,)), "tensordsl has no attribute 'zeros'", "td.compute"),
    (lambda: td.while_loop(x), "loops are axes with a fixed size", "td.recurrence"),
    (lambda: td.comput((8,), x), "tensordsl has no attribute 'comput'", "did you mean 'compute'?"),
    (lambda: x.median(), "tensor x has no attribute 'median': where an element comes from", "td.max"),
    (lambda: x.exp(), "tensor x has no attribute 'exp'", "td.exp(x)"),
    (lambda: x.shap, "tensor x has no attribute 'shap'", "did you mean 'shape'?"),
    (lambda: x.numpy(), "no values while an operator is being defined", "td.interpret"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[1])
def test_the_error_says_what_to_write(case: tuple[Callable[[], object], str, str]) -> None:
    wrong, message, hint = case
    with pytest.raises(td.ProgramError) as caught:
        wrong()
    error = caught.value
    assert message in error.message
    assert hint in (error.hint or "")
    lines, first = inspect.getsourcelines({"assigned to": assigned}.get(message[-11:], wrong))
    assert error.location is not None
    assert error.location.file == __file__
    inside = element.__code__.co_firstlineno + 1  # where this file itself calls compute
    assert first <= error.location.line < first + len(lines) or error.location.line == inside
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_names_that_are_absent_are_attribute_errors() -> None:
    assert not hasattr(td, "sort")
    assert not hasattr(x, "median")
    assert getattr(td, "no_such_name", 3) == 3
    with pytest.raises(AttributeError):
        _ = td.__wrapped__


def test_numbers_of_numpy_are_numbers() -> None:
    y = td.compute((8,), lambda i: np.float32(2) * x[i] + x[i] * np.float64(3) - np.int64(1), name="y")
    assert str(y.definition and y.definition.body) == "2 * x[i] + x[i] * 3 - 1"
    z = np.float32(2) * x
    assert str(z.definition and z.definition.body) == "2 * x[i]"
    w = td.select(np.float32(0.5) < x, 1.0, 0.0)
    assert "x[i] > 0.5" in str(td.Program([x], [w]))


def test_tensors_are_compared_as_objects() -> None:
    other = td.placeholder((8,), name="x")
    assert x == x
    assert x != other
    assert x in [other, x]
    assert x != "x"
    assert {x: 1}[x] == 1


def test_a_parameter_with_a_value_is_no_index() -> None:
    scaled = [td.compute((8,), lambda i, c=c: c * x[i], name=f"y{c}") for c in (2, 3)]
    assert [str(t.definition and t.definition.body) for t in scaled] == ["2 * x[i]", "3 * x[i]"]
