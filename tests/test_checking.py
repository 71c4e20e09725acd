"""`td.check`: a program against a function of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensordsl as td


def program() -> td.Program:
    x, w = td.placeholder((4, 6), name="x"), td.placeholder((6, 5), name="w")
    y = td.ops.relu(x @ w)
    return td.Program([x, w], [y], name="layer")


def test_right_and_wrong() -> None:
    td.check(program(), lambda x, w: np.maximum(x @ w, 0))
    with pytest.raises(td.ProgramError, match=r"relu\[\d, \d\] is \S+, its reference says") as raised:
        td.check(program(), lambda x, w: x @ w)
    assert "with small integers;" in str(raised.value) and "of 20 elements differ" in str(raised.value)


def test_given_inputs_and_nan() -> None:
    x = td.placeholder((3,), name="x")
    p = td.Program([x], [td.log(x)], name="logarithm")
    td.check(p, np.log, {"x": np.array([1.0, 2.0, 3.0])})
    with np.errstate(all="ignore"):
        td.check(p, np.log, {"x": np.array([-1.0, 0.0, np.inf])})


def test_a_reference_that_does_not_fit() -> None:
    def raises(x: Any, w: Any) -> Any:
        raise ValueError("no")

    for reference, text in (
        (lambda x, w: (x @ w).T, r"shape \[4, 5\], its reference \[5, 4\]"),
        (lambda x, w: (x, w), "1 outputs, its reference returns 2"),
        (raises, "the reference of layer raised ValueError: no"),
    ):
        with pytest.raises(td.ProgramError, match=text):
            td.check(program(), reference)


def test_integers_are_compared_exactly() -> None:
    x = td.placeholder((8,), "int32", "x")
    p = td.Program([x], [td.compute((8,), lambda i: x[i] // 3, name="y")], name="thirds")
    td.check(p, lambda x: x // 3)
    with pytest.raises(td.ProgramError, match="its reference says"):
        td.check(p, lambda x: x // 3 + 1)
