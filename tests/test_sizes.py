"""Sizes known only at the call: their arithmetic, what is assumed of them, and programs over them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from any_size_operators import blur, layer_norm, linear_relu, pairs
from tensordsl.schedules.default import default_schedule

import tensordsl as td
from tensordsl.affine import Affine, interval, product
from tensordsl.errors import ProgramError
from tensordsl.sizes import DependsOnSizes, Size, at_most, larger, likely, made
from tensordsl.targets import target


def test_arithmetic_stays_symbolic() -> None:
    n, m = td.dim("N", ">= 1"), td.dim("M", "% 8 == 0")
    assert str(n + 2 * m - 1) == "M + N - 1" or str(n + 2 * m - 1) == "2*M + N - 1"
    assert (3 - n).at({"N": 1}) == 2 and ((n + 5) // 4).at({"N": 8}) == 3 and ((n + 5) % 4).at({"N": 8}) == 1
    assert (n * m * 3).at({"N": 2, "M": 16}) == 96
    assert (m // 8).at({"M": 24}) == 3 and str(m // 8 * 8) == "M"
    assert n - n == 0 and type(n - n) is int
    assert n + 1 != n and n == td.dim("N") and hash(n) == hash(td.dim("N")) and n != 5
    assert abs(n) == n and f"{n:>3}" == "  N"


def test_questions_that_every_size_answers_alike() -> None:
    n = td.dim("N", ">= 4", "<= 100")
    assert n >= 4 and n > 3 and not n < 4 and n <= 100 and n and n + 1 > n and max(n, 200) == 200
    assert (n + 63) // 64 * 64 >= n and n // 64 * 64 <= n
    assert at_most(n, 100) and not at_most(n, 99)
    for question in (lambda: n > 4, lambda: n % 2 < 1, lambda: bool(td.dim("K")), lambda: max(n, 50)):
        with pytest.raises(DependsOnSizes, match="depends on the sizes"):
            question()
    assert larger(n, 200) == 200 and larger(n, 50) == n + 50


@pytest.mark.parametrize("use", [int, float, round, lambda n: n**2, lambda n: 1 << n, lambda n: n & 3, lambda n: ~n])
def test_a_size_is_never_taken_for_a_number(use: Callable[[Any], Any]) -> None:
    with pytest.raises(DependsOnSizes, match="known only at the call"):
        use(td.dim("N"))


def test_sizes_survive_copies() -> None:
    n = td.dim("N", ">= 3", "<= 90", "% 8 == 5") + 1
    for other in (copy.deepcopy(n), pickle.loads(pickle.dumps(n))):
        assert isinstance(other, Size) and other == n and likely(other) == likely(n) == 86
        assert interval(other.affine, {}) == interval(n.affine, {}) == (6, 86)


def test_products_of_a_variable_and_sizes() -> None:
    h, w = td.dim("H"), td.dim("W")
    a = product(Affine.of("i") + 2, Affine.of(h * w)) + 7
    assert str(a) == "((i * H) * W) + 2*(H * W) + 7"
    assert a.evaluate({"i": 3, "H": 5, "W": 4}) == 107
    assert a.substitute({"i": Affine((), 3)}) == Affine.of(h * w) * 5 + 7
    assert a.substitute({"i": Affine.of("j") * 2, "W": Affine((), 4)}) == product(Affine.of("j"), Affine.of(h)) * 8 + (
        Affine.of(h) * 8 + 7
    )
    assert made(Affine((), 3)) == 3
    assert interval(product(Affine.of("i"), Affine.of(h)), {"i": (0, 3)}) == (0, None)


@pytest.mark.parametrize(
    ("assumptions", "least", "most"),
    [((), 0, None), ((">= 3",), 3, None), (("> 3", "< 10"), 4, 9), ((">= 3", "<= 30", "% 8 == 0"), 8, 24),
     (("% 8 == 5", "<= 30"), 5, 29), (("== 7",), 7, 7)],
)  # fmt: skip
def test_ranges(assumptions: tuple[str, ...], least: int, most: int | None) -> None:
    assert interval(td.dim("N", *assumptions).affine, {}) == (least, most)


def signature(text: str, shape: Any = "N") -> Callable[[], Any]:
    return lambda: td.operator(text)(lambda x: td.compute(shape, lambda i: x[i] + 1.0, name="y")).symbolic()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: td.dim("2N"), "'2N' is not the name of a dimension"),
        (lambda: td.dim("N", "is big"), "'is big' is not an assumption about N"),
        (lambda: td.dim("N", ">= 5", "<= 3"), "no size of N fulfils the assumptions >= 5, <= 3"),
        (lambda: td.dim("N", "% 8 == 9"), "no size of N has this remainder"),
        (lambda: td.dim("N", "% 2 == 0", "% 3 == 0"), "two remainders are assumed of N"),
        (signature("x: float32[N]; M >= 1"), "is about M, which is no dimension"),
        (signature("x: float32[N]; N is big"), "'N is big' is not an assumption"),
        (signature("x: float32[N]; N * N >= 4"), "is not linear in the dimensions"),
        (signature("x: float32[N]", "N - 1"), "the size N - 1 may be negative"),
        (signature("x: float32[N]", "N * N"), "the size N * N is a product of dimensions"),
        (signature("x: float32[N]", "K"), "dimension 'K' has no size here"),
        (signature("x: float32[2 * N, N]"), "x has rank 2, read with 1 indices"),
        (lambda: blur.symbolic(Q=3), "blur has no dimension 'Q'"),
        (lambda: blur.symbolic().at(H=3), "no size for W"),
        (lambda: blur.symbolic().at(H=3, W=3, Q=3), "blur has no dimension 'Q'"),
        (lambda: blur.symbolic().at(H=2, W=3), "blur assumes H >= 3, but H = 2, W = 3"),
        (lambda: blur.bind(H=2, W=3), "blur assumes H >= 3, but H = 2, W = 3"),
        (lambda: pairs.symbolic(N=6), "pairs assumes N % 4 == 0, but N = 6"),
        (lambda: td.random_inputs(blur.symbolic(), np.random.default_rng(0)), "the inputs of blur have no sizes yet"),
        (lambda: td.interpret(pairs.symbolic(), {"x": np.zeros(6)}), "pairs assumes N % 4 == 0, but N = 6"),
    ],
)
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        call()
    assert message in str(caught.value)
    assert caught.value.location is not None and caught.value.location.file == __file__


def test_counterexamples_name_the_sizes() -> None:
    @td.operator("x: float32[N + 1], y: float32[M]; N <= M + 3")
    def shifted(x: td.Tensor, y: td.Tensor) -> td.Tensor:
        return td.compute("N", lambda i: x[i + 1] + y[i], name="z")

    with pytest.raises(ProgramError, match="index i of y") as caught:
        shifted.symbolic()
    assert "when M = 0, N = 1, i = 0" in str(caught.value)
    assert str(shifted.bind(N=3, M=3)).endswith("x[i + 1] + y[i]  (output)")
    with pytest.raises(ProgramError, match="the size N - 1 may be negative") as caught:
        td.operator("x: float32[N]")(lambda x: td.compute("N - 1", lambda i: x[i], name="y")).symbolic()
    assert "when N = 0" in str(caught.value)


def test_relations_prove_what_ranges_do_not() -> None:
    @td.operator("x: float32[N], y: float32[M]; M >= N + 3")
    def inside(x: td.Tensor, y: td.Tensor) -> td.Tensor:
        rest = td.compute("M - N", lambda i: y[i] * 2.0, name="rest")
        return td.compute("N", lambda i: x[i] + y[i + 3] + rest[2], name="z")

    program = inside.symbolic()
    assert str(program).splitlines()[0] == "program inside(x: float32[N], y: float32[M]) for M >= N + 3"
    assert td.Schedule(program).validate() is not None
    default_schedule(program, target("avx2")).validate()


def test_programs_print_their_dimensions() -> None:
    assert str(blur.symbolic()) == (
        "program blur(x: float32[H, W]) for H >= 3, W >= 3\n"
        "  float32 a[i:H, j:W - 2] = x[i, j] + x[i, j + 1] + x[i, j + 2]\n"
        "  float32 b[i:H - 2, j:W - 2] = a[i, j] + a[i + 1, j] + a[i + 2, j]  (output)"
    )
    assert str(blur.symbolic(H=4)).splitlines()[0] == "program blur(x: float32[4, W]) for W >= 3"
    assert "x_mean_sum[i] / cast(N, float32)" in str(layer_norm.symbolic())
    assert dict(linear_relu.symbolic(M=3).dims) == {"M": 3, "K": td.dim("K"), "N": td.dim("N")}


def test_a_program_without_an_operator() -> None:
    n = td.dim("N", ">= 1", "<= 4096")
    x = td.placeholder((n, 3), name="x")
    program = td.Program([x], [td.compute((n, 3), lambda i, j: x[n - 1 - i, j], name="y")])
    assert [d.name for d in program.free] == ["N"]
    data = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(td.interpret(program, {"x": data})["y"], data[::-1])
    other = td.placeholder((td.dim("N", ">= 2"),), name="z")
    with pytest.raises(ProgramError, match="the size K of y is no size of an input"):
        td.Program([x], [td.compute((td.dim("K"),), lambda i: x[0, 1], name="y")])
    with pytest.raises(ProgramError, match="has the name of a dimension"):
        td.compute((n,), lambda N: x[N, 0])
    assert other.shape == (n,)


def test_a_fraction_of_a_dimension_says_what_it_is() -> None:
    @td.operator("x: float32[N // 2, M + N]; N % 4 == 0")
    def halves(x: td.Tensor) -> td.Tensor:
        return x.sum(axis=0)

    program = halves.symbolic()
    assert str(program).startswith("program halves(x: float32[N//2, M + N])")
    assert td.interpret(program, {"x": np.ones((4, 11))})["x_sum"].shape == (11,)
    with pytest.raises(ProgramError, match="M >= 0"):
        td.interpret(program, {"x": np.ones((4, 7))})
