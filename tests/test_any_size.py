"""Kernels for all sizes agree with the interpreter at sizes around every tile, and are proven for all of them."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from any_size_operators import EDGES, OPERATORS, blur, known_weights, linear_relu, pairs, scaled, softmax, standardised
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.general import GeneralKernel
from tensordsl.schedules.at_sizes import at_sizes
from tensordsl.schedules.default import default_schedule
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import For, rewrite
from tensordsl.schedules.polyhedral.validate import find_violation

import tensordsl as td
from tensordsl import instances
from tensordsl.affine import Affine
from tensordsl.errors import BuildError, ProgramError, ScheduleError
from tensordsl.operators import Operator
from tensordsl.targets import target

#: Points of the largest sizes: the interpreter takes a moment for each.
MOST = 30_000
NAMES = [o.name for o in OPERATORS]


def sizes_of(program: td.Program, count: int, limit: int, seed: int) -> list[dict[str, int]]:
    """Legal sizes, edges first: all dimensions least, then drawn ones."""
    draw = random.Random(seed)
    found: list[dict[str, int]] = []
    for _ in range(4000):
        sizes = {d.name: draw.choice([n for n in EDGES if n <= limit]) + d.rest for d in program.free}
        sizes = {d.name: (sizes[d.name] - d.rest) // d.by * d.by + d.rest for d in program.free}
        if instances.violated(program, sizes) is None and sizes not in found and math.prod(sizes.values()) <= MOST:
            found.append(sizes)
        if len(found) == count:
            break
    least = {d.name: d.least * d.by + d.rest for d in program.free}
    return [least, *found] if instances.violated(program, least) is None else found


def agree(program: td.Program, inputs: dict[str, Any], found: dict[str, Any], slack: float = 1.0) -> None:
    exact, bound = td.interpret(program, inputs), td.error_bound(program, inputs)
    for name, value in found.items():
        assert value.shape == exact[name].shape
        assert (np.abs(value - exact[name]) <= slack * bound[name]).all(), name


@pytest.mark.compiler
@pytest.mark.parametrize("isa", ["native", "portable"])
@pytest.mark.parametrize("op", OPERATORS, ids=NAMES)
def test_one_kernel_serves_all_sizes(op: Operator, isa: str) -> None:
    program = op.symbolic()
    kernel = td.compile(op, isa)
    rng = np.random.default_rng(0)
    for sizes in sizes_of(program, 24, 130, seed=len(op.name)):
        inputs = td.random_inputs(program.at(**sizes), rng)
        given = [x.copy() if x.shape else float(x) for x in inputs.values()]
        results = kernel(*given)
        results = results if isinstance(results, tuple) else (results,)
        agree(program, inputs, {t.name: r for t, r in zip(program.outputs, results)})


@pytest.mark.parametrize("op", OPERATORS, ids=NAMES)
def test_nests_mean_the_program_at_any_size(op: Operator) -> None:
    program = op.symbolic()
    nests = [td.Schedule(program).nest, default_schedule(program, target("avx2")).nest]
    rng = np.random.default_rng(1)
    for sizes in sizes_of(program, 6, 17, seed=7):
        inputs = td.random_inputs(program.at(**sizes), rng)
        for nest in nests:
            agree(program, inputs, interpret(nest, inputs), 1.0 + 1e-9)
            agree(program, inputs, interpret(nest, inputs, lockstep=True, lanes=8), 1.0 + 1e-9)


@pytest.mark.parametrize("op", OPERATORS, ids=NAMES)
def test_instances_are_proven_too(op: Operator) -> None:
    """A nest for all sizes, at some of them, is a nest of the program of those sizes."""
    program = op.symbolic()
    nest = default_schedule(program, target("avx512")).nest
    for sizes in sizes_of(program, 2, 65, seed=3):
        assert find_violation(at_sizes(nest, sizes)) is None
        if not program.inplace and not any(t.definition.order for t in program.tensors if t.definition):
            bound = op.bind(**sizes)
            assert str(bound).splitlines()[1:] == str(program.at(**sizes)).splitlines()[1:]


def test_vectors_and_tiles_are_used() -> None:
    for op in (linear_relu, softmax, scaled, blur, standardised, known_weights):
        assert "vector" in str(default_schedule(op.symbolic(), target("avx2")))
    assert "register" in str(default_schedule(linear_relu.symbolic(), target("avx2")))


@pytest.mark.parametrize(
    ("loop", "change", "message"),
    [
        ("k", lambda f: replace(f, hi=(f.hi[0] - 1,)), "reads y before y is complete"),
        ("n", lambda f: replace(f, hi=(f.hi[0] + 1,)), "outside the definition of y"),
        ("m", lambda f: replace(f, hi=(Affine((), 128),)), "outside the definition of y"),
        ("m", lambda f: replace(f, lo=(Affine((), 1),)), "does not hold the z it needs"),
    ],
)
def test_a_nest_that_is_wrong_for_some_size_is_refused(loop: str, change: Callable[[For], For], message: str) -> None:
    nest = td.Schedule(linear_relu.symbolic()).nest
    wrong = rewrite(nest.body, lambda s: change(s) if isinstance(s, For) and s.var == loop else None)
    violation = find_violation(replace(nest, body=wrong))
    assert violation is not None and message in violation.message
    assert (
        violation.counterexample is not None and "at M = " in violation.counterexample
    )  # with the sizes for which it is wrong


def test_a_step_that_is_wrong_for_some_size_is_refused() -> None:
    with pytest.raises(ScheduleError, match="iterations of the parallel loop k share y") as caught:
        td.Schedule(linear_relu.symbolic()).parallel("y", "k")
    assert "M = 1, K = 2, N = 1" in str(caught.value)


def test_assumptions_make_tiles_whole() -> None:
    """Where 4 divides N, a step of 2 needs no guard."""
    s = td.Schedule(pairs.symbolic()).split("z", "i", 2)
    assert "if" not in str(s) and "min" not in str(s)


def test_threads_share_the_work_and_the_workspace() -> None:
    s = td.Schedule(softmax.symbolic()).parallel("x_exp", "i").compute_at("x_max", "x_exp", "i")
    kernel = td.compile(s)
    x = np.random.default_rng(0).standard_normal((9, 33)).astype(np.float32)
    agree(s.program, {"x": x}, {"softmax": kernel(x)})


def test_names_of_operators_and_tensors_do_not_matter() -> None:
    @td.operator("left: float32[M, K], right: float32[K, N], bias: float32[N]")
    def other(left: td.Tensor, right: td.Tensor, bias: td.Tensor) -> td.Tensor:
        k = td.reduce_axis("K")
        prod = td.compute(("M", "N"), lambda m, n: td.sum(left[m, k] * right[k, n], axis=k), name="prod")
        return td.compute(("M", "N"), lambda m, n: td.maximum(prod[m, n] + bias[n], 0.0), name="final")

    machine = target("avx2")
    mine, theirs = (
        to_c(default_schedule(op.symbolic(), machine).nest, machine, "kernel").body.partition("*/")[2]
        for op in (linear_relu, other)
    )
    for old, new in (("left", "a"), ("right", "b"), ("bias", "c"), ("prod", "y"), ("final", "z")):
        theirs = re.sub(rf"(?<![a-z0-9]){old}(?=_|\b)", new, theirs)
    assert mine == theirs


@pytest.mark.compiler
def test_the_kernel_of_given_sizes_is_taken_first() -> None:
    kernel = td.compile(linear_relu, sizes=[{"M": 1}, {"M": 4, "K": 5, "N": 6}])
    assert isinstance(kernel, GeneralKernel)
    guards = [str(k) for k in kernel.kernels]
    assert guards == ["M == 4 and K == 5 and N == 6", "M == 1", "all sizes"]
    rng = np.random.default_rng(0)
    for sizes, number in (((4, 5, 6), 0), ((1, 5, 6), 1), ((4, 5, 7), 2), ((0, 0, 0), 2)):
        at = dict(zip("MKN", sizes))
        assert kernel.at(**at).compiled is kernel.kernels[number].compiled
        program = linear_relu.symbolic()
        inputs = td.random_inputs(program.at(**at), rng)
        agree(program, inputs, {"z": kernel(*inputs.values())})


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k(np.zeros(6, np.float32)), "pairs assumes N % 4 == 0, but N = 6"),
        (lambda k: k(np.zeros((4, 4), np.float32)), "got an array of shape [4, 4]"),
        (lambda k: k(np.zeros(4)), "x is float64, the kernel takes float32"),
        (lambda k: k(), "pairs takes 1 inputs, got 0"),
        (lambda k: k(np.zeros(4, np.float32), out=np.zeros(4, np.float32)), "z has shape (4,), the kernel takes (2,)"),
        (lambda k: k.at(M=4), "no size for N"),
        (lambda k: k.at(N=5), "pairs assumes N % 4 == 0, but N = 5"),
    ],
)
def test_what_a_kernel_does_not_take(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(BuildError) as caught:
        call(td.compile(pairs))
    assert message in str(caught.value)


@pytest.mark.compiler
def test_sizes_that_contradict_each_other() -> None:
    a, b, c = np.zeros((3, 4), np.float32), np.zeros((5, 6), np.float32), np.zeros(6, np.float32)
    with pytest.raises(BuildError, match=r"dimension 0 of b: float32\[K, N\] is 5, where K is 4"):
        td.compile(linear_relu)(a, b, c)
    with pytest.raises(ProgramError, match=r"dimension 0 of b: float32\[K, N\] is 5, where K is 4"):
        td.interpret(linear_relu.symbolic(), {"a": a, "b": b, "c": c})


@pytest.mark.compiler
def test_the_same_arrays_find_their_kernel_again() -> None:
    kernel = td.compile(scaled)
    x = np.arange(5, dtype=np.float32)
    out = np.empty_like(x)
    assert kernel(x, 2.0, out=out) is out
    np.testing.assert_array_equal(out, x * 2 + 1)
    assert kernel(x[:3], 2.0).shape == (3,)
    assert kernel.schedule is not None and "GeneralKernel scaled" in repr(kernel)


@pytest.mark.compiler
def test_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    from examples import dynamic

    dynamic.main()
    printed = capsys.readouterr().out
    assert printed.count("agrees") == 3 and printed.count("sum to 1: True") == 3 and "WRONG" not in printed
    assert "layer assumes D % 16 == 0, but T = 3, D = 60, F = 48" in printed
