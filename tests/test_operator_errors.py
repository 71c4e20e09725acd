"""What a person sees who misuses array notation, operators or operator files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from error_texts import check

import tensordsl as td

CASES: list[Callable[[], object]] = []
X = td.placeholder((4, 5), name="x")
V = td.placeholder((4,), name="v")
N = td.placeholder((4,), "int32", name="n")


def case(f: Callable[[], object]) -> Callable[[], object]:
    CASES.append(f)
    return f


# ---------------------------------------------------------------- array notation


@case
def shapes_that_do_not_broadcast() -> object:
    """
    add: shapes [4, 5] and [4] do not broadcast: [4, 5] in dimension -1
      --> here
    """
    return X + V  # here


@case
def matrices_that_do_not_fit() -> object:
    """
    matmul: x: float32[4, 5] has 5 columns, x: float32[4, 5] has 4 rows
      --> here
    """
    return X @ X  # here


@case
def einsum_with_a_wrong_rank() -> object:
    """
    einsum 'ijk,k->ij': 'ijk' does not fit x: float32[4, 5] of rank 2
      --> here
    """
    return td.einsum("ijk,k->ij", X, V)  # here


@case
def einsum_with_wrong_sizes() -> object:
    """
    einsum 'ij,j->i': 'j' has sizes 5 and 4
      --> here
    """
    return td.einsum("ij,j->i", X, V)  # here


@case
def einsum_with_an_unknown_letter() -> object:
    """
    einsum 'ij->ik': 'k' of the result is in no operand
      --> here
    """
    return td.einsum("ij->ik", X)  # here


@case
def slice_by_data() -> object:
    """
    index n[i] of x (dimension 0) may be any int32
      --> here
    hint: state its range, td.placeholder(..., values=range(n)), or clamp it, td.clip(n[...], 0, n - 1)
    """
    return X[N]  # here


@case
def slice_outside() -> object:
    """
    x: index 7 of dimension 0 is outside -4..3
      --> here
    """
    return X[7]  # here


@case
def reshape_to_another_size() -> object:
    """
    reshape: x: float32[4, 5] has 20 elements, [3, 7] has 21
      --> here
    """
    return X.reshape(3, 7)  # here


@case
def pad_of_another_rank() -> object:
    """
    pad: ((1, 2), (3, 4), (5, 6)) does not pad the 2 dimensions of x: float32[4, 5]
      --> here
    legal: a size, (before, after), or one such pair per dimension, none negative
    """
    return td.pad(X, ((1, 2), (3, 4), (5, 6)))  # here


@case
def numpy_array_as_a_tensor() -> object:
    """
    add: a ndarray is not a tensor
      --> here
    hint: pass it as an input: td.placeholder
    """
    import numpy as np

    return X + np.ones(5)  # here


@case
def iteration() -> object:
    """
    x cannot be iterated over
      --> here
    hint: index it with axes
    """
    return list(X)  # here


# ---------------------------------------------------------------- operators


@case
def unknown_dimension() -> object:
    """
    dimension 'MM' has no size here
      --> here
    legal: K, M
    hint: did you mean 'M'?
    """

    @td.operator("x: float32[M, K]")
    def f(x: td.Tensor) -> td.Tensor:
        return td.compute(("MM",), lambda m: x[m, 0])  # here

    return f.bind(M=4, K=5)


@case
def dimension_outside_an_operator() -> object:
    """
    dimension 'M' has no size here
      --> here
    legal: no dimension is bound
    hint: pass an integer, or bind the dimension
    """
    return td.placeholder(("M",))  # here


@case
def misspelt_bind() -> object:
    """
    f has no dimension 'Kk'
      --> here
    legal: M, K
    hint: did you mean 'K'?
    """
    f = td.operator("x: float32[M, K]")(lambda x: x + 1)
    f.function.__name__ = "f"
    return f.bind(M=4, Kk=5)  # here


@case
def missing_dimension() -> object:
    """
    f: no size for K
      --> here
    hint: f.bind(M=..., K=...)
    """
    f = td.operator("x: float32[M, K]")(lambda x: x + 1)
    f.function.__name__ = "f"
    return f.bind(M=4)  # here


@case
def body_raises() -> object:
    """
    f raised KeyError: 'b'
      --> here
    """

    @td.operator("x: float32[M]")
    def f(x: td.Tensor) -> td.Tensor:
        sizes = {"a": 1}
        return x + sizes["b"]  # here

    return f.bind(M=4)


@case
def body_returns_nothing() -> object:
    """
    the result of f is no tensor but None
      --> here
    hint: return the tensor
    """

    @td.operator("x: float32[M]")  # here
    def f(x: td.Tensor) -> None:
        x + 1

    return f.bind(M=4)


@case
def body_returns_an_expression() -> object:
    """
    output 1 of f is no tensor but a Read
      --> here
    hint: define it with td.compute
    """

    @td.operator("x: float32[M]")  # here
    def f(x: td.Tensor) -> object:
        return x + 1, x[0]

    return f.bind(M=4)


@case
def signature_of_another_function() -> object:
    """
    f takes (x, y), its signature names (x, w)
      --> here
    """

    @td.operator("x: float32[M], w: float32[M]")  # here
    def f(x: td.Tensor, y: td.Tensor) -> td.Tensor:
        return x + y

    return f


@case
def signature_without_a_type() -> object:
    """
    'w' is not a parameter of an operator
      --> here
    hint: as in "x: float32[M, K], alpha: float32"
    """
    return td.operator("x: float32[M], w")  # here


@case
def signature_with_a_wrong_size() -> object:
    """
    'M / 2' is not a size
      --> here
    legal: integers and dimensions with + - * // %
    hint: as in "M" or "H + 2"
    """
    return td.operator("x: float32[M / 2]")  # here


@case
def operator_on_other_shapes() -> object:
    """
    f: parameter b: float32[M + K] got v: float32[4], where M=4, K=5
      --> here
    """

    @td.operator("a: float32[M, K], b: float32[M + K]")
    def f(a: td.Tensor, b: td.Tensor) -> td.Tensor:
        return a + b

    return f(X, V)  # here


@case
def operator_on_another_dtype() -> object:
    """
    f: parameter a: float32[M] got n: int32[4]
      --> here
    """
    f = td.operator("a: float32[M]")(lambda a: a)
    f.function.__name__ = "f"
    return f(N)  # here


@pytest.mark.parametrize("wrong", CASES, ids=lambda f: f.__name__)
def test_text(wrong: Callable[[], object]) -> None:
    check(wrong)


# ---------------------------------------------------------------- operator files


def load(tmp_path: Path, text: str) -> td.ProgramError:
    file = tmp_path / "operators.py"
    file.write_text(text)
    with pytest.raises(td.ProgramError) as e:
        td.load_programs(file)
    assert e.value.location is not None
    assert e.value.location.file == str(file)
    return e.value


def test_a_file_that_raises(tmp_path: Path) -> None:
    e = load(tmp_path, "import tensordsl as td\n\ndef f():\n    return [][3]\n\nf()\n")
    assert e.message == "operators.py raised IndexError: list index out of range"
    assert e.location is not None and e.location.line == 4
    assert isinstance(e.__cause__, IndexError)


def test_a_file_with_a_wrong_program(tmp_path: Path) -> None:
    text = "import tensordsl as td\nx = td.placeholder((3,), name='x')\ny = td.compute((4,), lambda i: x[i])\n"
    e = load(tmp_path, text)
    assert "index i of x (dimension 0) is out of bounds: 3 is outside 0..2" in e.message
    assert e.location is not None and e.location.line == 3


def test_a_file_that_is_no_python(tmp_path: Path) -> None:
    e = load(tmp_path, "x = 1\ny = = 2\n")
    assert e.message.startswith("SyntaxError") and e.location is not None and e.location.line == 2


def test_a_file_that_exits(tmp_path: Path) -> None:
    assert "raised SystemExit: 3" in load(tmp_path, "import sys\nsys.exit(3)\n").message


def test_a_file_without_programs(tmp_path: Path) -> None:
    e = load(tmp_path, "import tensordsl as td\nf = td.operator('x: float32[N]')(lambda x: x + 1)\n")
    assert e.message == "the file has no program at module level"
    assert e.hint == "bind sizes at module level: my_program = f.bind(...)"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(td.ProgramError, match=r"cannot read operator file .*none.py: No such file or directory"):
        td.load_programs(tmp_path / "none.py")
