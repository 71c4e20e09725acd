"""Index notation, operators with named dimensions, operator files; programs as clean values."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensordsl as td
from tensordsl import expr, expression_text
from tensordsl.interpreter import interpret, random_inputs
from tensordsl.program import Program
from tensordsl.tensor import Tensor


@td.operator("x: float32[M, K], w: float32[K, N], b: float32[N]")
def linear_gelu(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    k = td.reduce_axis("K")
    y = td.compute(("M", "N"), lambda m, n: td.sum(x[m, k] * w[k, n], axis=k), name="y")
    return td.ops.gelu(y + b)


# ---------------------------------------------------------------- index notation


def test_reductions_inside_expressions_become_tensors() -> None:
    x = td.placeholder((4, 6), name="x")
    k = td.reduce_axis(6, "k")
    y = td.compute((4, 6), lambda i, j: x[i, j] / td.sum(x[i, k], axis=k) + td.max(x[k % 4, j], axis=k), name="y")
    p = Program([x], [y])
    assert str(p).splitlines()[1:] == [
        "  float32 y_sum[i:4] = sum(x[i, k], over k:6)",
        "  float32 y_max[j:6] = max(x[k % 4, j], over k:6)",
        "  float32 y[i:4, j:6] = x[i, j] / y_sum[i] + y_max[j]  (output)",
    ]


def test_reductions_nest() -> None:
    x = td.placeholder((3, 4, 5), name="x")
    j, k = td.reduce_axis(4, "j"), td.reduce_axis(5, "k")
    y = td.compute((3,), lambda i: td.max(td.sum(x[i, j, k], axis=k) * j, axis=j) + 1.0, name="y")
    data = np.random.default_rng(0).standard_normal((3, 4, 5))
    expected = (data.sum(2) * np.arange(4)).max(1) + 1
    np.testing.assert_allclose(interpret(Program([x], [y]), {"x": data})["y"], expected)


def test_a_reduction_binds_its_axis() -> None:
    x = td.placeholder((4,), name="x")
    k = td.reduce_axis(4, "k")
    y = td.compute((), lambda: td.sum(td.sum(x[k], axis=k) * x[k], axis=k), name="y")
    data = np.arange(4.0)
    assert interpret(Program([x], [y]), {"x": data})["y"] == data.sum() ** 2


def test_shared_reductions_are_computed_once() -> None:
    x = td.placeholder((4, 6), name="x")
    k = td.reduce_axis(6, "k")

    def body(i: Any, j: Any) -> Any:
        total = td.sum(x[i, k], axis=k)
        return x[i, j] / total - total

    p = Program([x], [td.compute((4, 6), body, name="y")])
    assert [t.name for t in p.tensors] == ["y_sum", "y"]


def test_mutual_recurrences() -> None:
    """Two tensors advance together; one reads the other in the same step."""
    x = td.placeholder((6, 3), name="x")
    position, speed = td.recurrences(
        [(6, 3), (6, 3)],
        [
            lambda p, v, t, i: td.select(t > 0, p[t - 1, i] + v[t, i], 0.0),
            lambda p, v, t, i: td.select(t > 0, v[t - 1, i] - 0.5 * p[t - 1, i], 1.0) + x[t, i],
        ],
        ["position", "speed"],
        order="t",
    )
    p = Program([x], [position, speed])
    assert [[t.name for t in g.tensors] for g in p.groups] == [["speed", "position"]]
    assert str(p.groups[0].order) == "t"
    data = np.random.default_rng(0).standard_normal((6, 3))
    at, v = np.zeros((6, 3)), np.zeros((6, 3))
    for t in range(6):
        v[t] = data[t] + (v[t - 1] - 0.5 * at[t - 1] if t else 1.0)
        at[t] = at[t - 1] + v[t] if t else 0.0
    found = interpret(p, {"x": data})
    np.testing.assert_allclose(found["position"], at, rtol=1e-14)
    np.testing.assert_allclose(found["speed"], v, rtol=1e-14)


@pytest.mark.parametrize("extra", [0.0, 1.0])
def test_a_recurrence_may_reduce_over_itself(extra: float) -> None:
    """Forward substitution; with a term beside the sum, the sum is a tensor of the same group."""
    n = 7
    a, b = td.placeholder((n, n), name="a"), td.placeholder((n,), name="b")
    k = td.reduce_axis(n, "k")
    known = lambda y, i: td.sum(td.select(k < i, a[i, k] * y[k], 0.0), axis=k)  # noqa: E731
    body: Callable[..., Any] = (lambda y, i: b[i] - known(y, i)) if extra else (lambda y, i: b[i] * known(y, i) + b[i])
    p = Program([a, b], [td.recurrence((n,), body, name="y", order="i")])
    assert [[t.name for t in g.tensors] for g in p.groups] == [["y_sum", "y"]]
    lower, right = np.tril(np.random.default_rng(0).standard_normal((n, n)), -1), np.ones(n)
    y = np.zeros(n)
    for i in range(n):
        y[i] = 1 - lower[i] @ y if extra else lower[i] @ y + 1
    np.testing.assert_allclose(interpret(p, {"a": lower, "b": right})["y"], y, rtol=1e-13)


def test_recurrences_of_different_lengths() -> None:
    a, b = td.recurrences(
        [(6,), (3,)],
        [
            lambda a, b, t: td.select(t > 0, a[t - 1] + 1.0, td.select(t < 3, b[t], 0.0)),
            lambda a, b, t: td.select(t > 0, b[t - 1] * 2.0, 1.0) + td.select(t > 1, a[t - 2], 0.0),
        ],
        ["a", "b"],
        order="t",
    )
    found = interpret(Program([], [a, b]), {})
    assert found["a"].tolist() == [1, 2, 3, 4, 5, 6] and found["b"].tolist() == [1, 2, 5]


def test_deep_expressions_and_long_chains() -> None:
    x = td.placeholder((300,), name="x")
    y = td.compute((1,), lambda i: sum((x[k] for k in range(1, 150)), x[0]), name="y")
    chain = y
    for _ in range(1200):
        chain = chain + 1
    p = Program([x], [chain])
    assert interpret(p, {"x": np.ones(300)})[p.outputs[0].name].tolist() == [150 + 1200]


# ---------------------------------------------------------------- operators


def test_bind_makes_a_program() -> None:
    p = linear_gelu.bind(M=8, K=16, N=4)
    assert p.name == "linear_gelu" and dict(p.dims) == {"M": 8, "K": 16, "N": 4}
    assert list(p.dims) == ["M", "K", "N"], "in order of first appearance"
    assert [str(t) for t in p.inputs] == ["x: float32[8, 16]", "w: float32[16, 4]", "b: float32[4]"]
    assert [t.name for t in p.tensors] == ["y", "add", "gelu"]
    inputs = random_inputs(p, np.random.default_rng(0))
    y = inputs["x"].astype(float) @ inputs["w"] + inputs["b"]
    from math import erf

    expected = 0.5 * y * (1 + np.vectorize(erf)(y * 0.5**0.5))
    np.testing.assert_allclose(interpret(p, inputs)["gelu"], expected, rtol=1e-12)


def test_tensors_are_called_like_their_variables() -> None:
    @td.operator("x: float32[M, N], scale: float32")
    def normal(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(axis=1, keepdims=True)
        x = x - mean
        largest = td.max(td.abs(x), axis=1)
        return x * scale, largest

    p = normal.bind(M=3, N=5)
    assert [t.name for t in p.tensors] == ["mean_sum", "mean", "x1", "mul", "abs", "largest"]
    assert [t.name for t in p.outputs] == ["mul", "largest"]


def test_unnamed_results_are_called_out() -> None:
    @td.operator("x: float32[N]")
    def twice(x: Tensor) -> Tensor:
        return td.compute(("N",), lambda i: x[i] * 2)

    @td.operator("x: float32[N]")
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return td.compute(("N",), lambda i: x[i] * 2), td.compute(("N",), lambda i: x[i] * 3)

    assert twice.bind(N=3).outputs[0].name == "out"
    assert [t.name for t in both.bind(N=3).outputs] == ["out0", "out1"]


def test_sizes_are_expressions_of_dimensions() -> None:
    @td.operator("x: float32[H + 2, 2*(W + 1)], n: int32")
    def blur(x: Tensor, n: Tensor) -> Tensor:
        return td.compute(("H", "2*W"), lambda i, j: x[i, j] + x[i + 2, j + 2] + n, name="y")

    p = blur.bind(H=3, W=4)
    assert [t.shape for t in p.inputs] == [(5, 10), ()] and p["y"].shape == (3, 8)
    assert list(p.dims) == ["H", "W"]
    assert str(blur) == "blur(x: float32[H + 2, 2*(W + 1)], n: int32)"


def test_operators_call_operators() -> None:
    @td.operator("a: float32[M, K], b: float32[K, N]")
    def product(a: Tensor, b: Tensor) -> Tensor:
        k = td.reduce_axis("K")
        return td.compute(("M", "N"), lambda m, n: td.sum(a[m, k] * b[k, n], axis=k), name="p")

    @td.operator("x: float32[N, N]")
    def cube(x: Tensor) -> Tensor:
        square = product(x, x)
        return product(square, x)

    p = cube.bind(N=3)
    data = np.arange(9.0).reshape(3, 3)
    assert (interpret(p, {"x": data})[p.outputs[0].name] == data @ data @ data).all()
    assert [t.name for t in p.tensors] == ["p1", "p"], "the output keeps the name it was given"


def test_inplace_outputs() -> None:
    @td.operator("x: float32[N], a: float32", inplace={"out": "x"})
    def scale(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        out = x * a
        first = td.compute((1,), lambda i: x[0], name="first")
        return out, first

    p = scale.bind(N=4)
    assert dict(p.inplace) == {"out": "x"}
    assert [t.name for t in p.tensors] == ["first", "out"], "what still reads x comes before x is overwritten"
    assert "(output, in place of x)" in str(p)
    found = interpret(p, {"x": np.arange(4.0) + 1, "a": 3.0})
    assert found["out"].tolist() == [3, 6, 9, 12] and found["first"].tolist() == [1]


def test_binding_leaves_no_trace() -> None:
    from tensordsl.tensor import DIMENSIONS

    assert str(linear_gelu.bind(M=4, K=5, N=6)) == str(linear_gelu.bind(M=4, K=5, N=6))
    before = sys.getprofile()

    @td.operator("x: float32[N]")
    def wrong(x: Tensor) -> Tensor:
        raise RuntimeError("no")

    with pytest.raises(td.ProgramError):
        wrong.bind(N=3)
    assert sys.getprofile() is before and not DIMENSIONS.get()


# ---------------------------------------------------------------- programs are values


def renamed(p: Program) -> tuple[Program, dict[str, str]]:
    """The same definitions with every tensor called otherwise."""
    from dataclasses import replace

    names = {t.name: f"z{n}" for n, t in enumerate((*p.inputs, *p.tensors))}
    copies: dict[str, Tensor] = {}

    def copy(t: Tensor) -> Tensor:
        if t.name not in copies:
            copies[t.name] = new = replace(t, name=names[t.name], definition=None)
            if t.definition is not None:
                body = expr.transform(
                    t.definition.body,
                    lambda e: replace(e, source=copy(e.source)) if isinstance(e, expr.Read) else None,  # type: ignore[arg-type]
                )
                new.definition = replace(t.definition, body=body)
        return copies[t.name]

    return Program([copy(t) for t in p.inputs], [copy(t) for t in p.outputs], "renamed", dims=p.dims), names


def test_renaming_changes_names_only() -> None:
    p = linear_gelu.bind(M=4, K=5, N=6)
    q, names = renamed(p)
    text = str(p)
    for old, new in sorted(names.items(), key=lambda n: -len(n[0])):
        text = __import__("re").sub(rf"(?<!:)\b{old}\b(?![:(])|\b{old}\b(?=: float)", new, text)
    assert text.replace("linear_gelu", "renamed") == str(q)


def test_programs_do_not_share_tensors_with_their_maker() -> None:
    x = td.placeholder((3,), name="x")
    y = td.compute((3,), lambda i: x[i] + 1, name="y")
    p = Program([x], [y])
    assert p.inputs[0] is not x and p["y"] is not y
    y.name = "changed"
    assert str(Program([x], [y])) != str(p) and p["y"].name == "y"


def test_equal_names_are_numbered() -> None:
    x = td.placeholder((3,), name="x")
    a = td.compute((3,), lambda i: x[i] + 1, name="h")
    b = td.compute((3,), lambda i: a[i] + 1, name="h")
    p = Program([x], [td.compute((3,), lambda i: b[i] + 1, name="y")])
    assert [t.name for t in p.tensors] == ["h", "h1", "y"]


def test_text_of_numbers_is_exact() -> None:
    values = (0.1, 1 / 3, 1e-30, float("inf"), -0.5, 3.0)
    texts = [expression_text.number_text(v) for v in values]
    assert [float(t) for t in texts] == list(values)
    assert texts[0] == "0.1" and texts[5] == "3"


# ---------------------------------------------------------------- operator files


def test_load_programs(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("SIZE = 4\n")
    file = tmp_path / "my operators.py"
    file.write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "import tensordsl as td\n"
        "from beside import SIZE\n"
        "@dataclasses.dataclass\n"
        "class Sizes:\n"
        "    n: int\n"
        "@td.operator('x: float32[N]')\n"
        "def double(x):\n"
        "    return x * 2\n"
        "small = double.bind(N=SIZE)\n"
        "large = double.bind(N=Sizes(1000).n)\n"
    )
    before = set(sys.modules)
    programs = td.load_programs(file)
    assert list(programs) == ["small", "large"] and programs["large"].inputs[0].shape == (1000,)
    assert not {"my operators"} & (set(sys.modules) - before)
    assert str(tmp_path) not in sys.path
    again = td.load_programs(str(file))
    assert again["small"] is not programs["small"] and str(again["small"]) == str(programs["small"])


# ---------------------------------------------------------------- the face


def test_public_names_exist_and_are_themselves() -> None:
    for name in dir(td):
        assert getattr(td, name) is not None
    assert callable(td.operator) and td.ops is importlib.import_module("tensordsl.ops")
    with pytest.raises(AttributeError, match="no attribute 'expp'"):
        _ = td.expp


def test_types_of_the_public_names_are_declared() -> None:
    """A type checker reads the stub: it offers exactly the names that are loaded at run time."""
    stub = ast.parse(Path(td.__file__).with_suffix(".pyi").read_text())
    declared = {a.asname: (n.module, a.name) for n in ast.walk(stub) if isinstance(n, ast.ImportFrom) for a in n.names}
    homes = {n: (m, a) if a else tuple(m.rsplit(".", 1)) for n, (m, a) in td._HOMES.items()}
    assert declared == homes


def test_language_needs_no_numpy() -> None:
    code = (
        "import sys, tensordsl as td\n"
        "x = td.placeholder((4, 5), name='x')\n"
        "p = td.Program([x], [td.ops.softmax(x)])\n"
        "print('numpy' in sys.modules, 'islpy' in sys.modules, 'sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]
