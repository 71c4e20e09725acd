"""Every operation of the expression language on every element type, as vectors and as scalars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from printed import Printed
from printer_cases import MACHINES
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import For, LoopNest, Stmt, rewrite
from tensordsl.schedules.lower import lower

import tensordsl as td
from tensordsl import dtypes, expr
from tensordsl.dtypes import DType
from tensordsl.expr import Expr
from tensordsl.targets import target

N = 41  # two or more vectors and a tail for every type but the bytes, which have one masked vector
TYPES = [t.name for t in dtypes.ALL.values() if t.bits >= 8 and not t.is_complex]
BINARY = ("add", "sub", "mul", "max", "min", "lt", "le", "gt", "ge", "eq", "ne")
INTEGER = ("floordiv", "mod", "and", "or")
SMOOTH = ("exp", "exp2", "log", "log2", "tanh", "erf", "sin", "cos", "rsqrt")


def numbers(t: DType, seed: int, zero: bool = True) -> Any:
    """Small and large numbers of a type; integers reach both ends of their range."""
    r = np.random.default_rng(seed)
    kind = t.numpy
    if t.kind == "b":
        return r.random(N) < 0.5
    if t.is_float:
        x = (r.integers(-400, 400, N) / 16).astype(kind)
        return np.where(x == 0, kind.type(0 if zero else 0.5), x)
    info = np.iinfo(kind)
    x = r.integers(-9 if info.min else 0, 10, N).astype(kind)
    x[:6] = [info.min, info.max, info.max // 2, 1, info.min + 1, info.max]
    return x if zero else np.where(x == 0, kind.type(3), x)


def build(t: str) -> tuple[LoopNest, dict[str, Any]]:
    """One output for every operation the type has."""
    d = dtypes.dtype(t)
    x, y, z, c = (td.placeholder((N,), k, name=n) for n, k in (("x", d), ("y", d), ("z", d), ("c", "bool")))
    formulas: dict[str, Callable[[Any], Expr]] = {}

    def one(name: str) -> Callable[[Any], Expr]:
        return lambda i: expr.unary(name, x[i])

    def two(name: str, other: Any) -> Callable[[Any], Expr]:
        return lambda i: expr.binary(name, x[i], other[i])

    for name in BINARY if d.kind != "b" else ("max", "min", "lt", "le", "gt", "ge", "eq", "ne"):
        if d.kind == "b" and name in ("max", "min"):
            continue  # a program makes integers of them
        formulas[name] = two(name, y)
    if d.kind == "f":
        formulas["div"] = lambda i: x[i] / z[i]
        formulas["floordiv"] = lambda i: x[i] // z[i]
        formulas["mod"] = lambda i: x[i] % z[i]
        for name in ("floor", "ceil", "round", "neg", "abs"):
            formulas[name] = one(name)
        formulas["sqrt"] = lambda i: expr.unary("sqrt", expr.unary("abs", x[i]))
    elif d.kind in "iu":
        for name in INTEGER:
            formulas[name] = two(name, z)
        formulas["by_seven"] = lambda i: (x[i] // 7) * 7 + x[i] % 7
        formulas["by_sixteen"] = lambda i: (x[i] // 16) * 16 + x[i] % 16
        formulas["rest_by_ten"] = lambda i: x[i] % 10
        formulas["by_one"] = lambda i: x[i] // 1 + x[i] % 1
        formulas["flip"] = one("not")
        if d.kind == "i":
            formulas["neg"] = one("neg")
            formulas["abs"] = one("abs")
    else:
        formulas["both"] = lambda i: x[i] & y[i]
        formulas["either"] = lambda i: x[i] | ~y[i]
    formulas["select"] = lambda i: td.select(c[i], x[i], y[i])
    formulas["select_less"] = lambda i: td.select((x[i] < y[i]) & (i < 30), x[i], z[i])
    formulas["select_one"] = lambda i: td.select(c[0], x[i], y[i])
    outputs = [td.compute((N,), f, name=f"o_{name}") for name, f in formulas.items()]
    arrays = {"x": numbers(d, 1), "y": numbers(d, 2), "z": numbers(d, 3, zero=False), "c": numbers(dtypes.bool_, 4)}
    return lower(td.Program([x, y, z, c], outputs, name=f"operations_{t}")), arrays


def conversions(t: str) -> tuple[LoopNest, dict[str, Any]]:
    """From one type to every other one."""
    d = dtypes.dtype(t)
    x = td.placeholder((N,), d, name="x")

    def cast(to: str) -> Callable[[Any], Expr]:
        return lambda i: td.cast(x[i], to)

    outputs = [td.compute((N,), cast(to), name=f"o_{to}") for to in TYPES if to != t]
    data = numbers(d, 5)
    if d.kind == "f":
        data = np.abs(data)  # an unsigned number of a negative one has no meaning in C
    return lower(td.Program([x], outputs, name=f"conversions_{t}")), {"x": data}


def smooth(t: str) -> tuple[LoopNest, dict[str, Any]]:
    x = td.placeholder((N,), t, name="x")
    y = td.placeholder((N,), t, name="y")

    def one(name: str) -> Callable[[Any], Expr]:
        return lambda i: expr.unary(name, x[i])

    outputs = [td.compute((N,), one(n), name=f"o_{n}") for n in SMOOTH]
    outputs.append(td.compute((N,), lambda i: x[i] ** y[i], name="o_pow"))
    data = {"x": np.linspace(0.05, 4.9, N).astype(t), "y": np.linspace(-3, 3, N).astype(t)}
    return lower(td.Program([x, y], outputs, name=f"smooth_{t}")), data


def vectorised(n: LoopNest) -> LoopNest:
    def change(s: Stmt) -> Stmt | None:
        return For(s.var, s.lo, s.hi, s.body, "vector", s.step) if isinstance(s, For) else None

    return LoopNest(n.program, n.parameters, rewrite(n.body, change))


CASES = {
    **{f"operations_{t}": build(t) for t in TYPES},
    **{f"conversions_{t}": conversions(t) for t in TYPES},
    **{f"smooth_{t}": smooth(t) for t in ("float32", "float64")},
}


#: on further compilers and instruction sets: one type of every width and kind
FEW = (
    *(f"operations_{t}" for t in ("bool", "int8", "uint16", "int32", "int64", "float32", "float64", "float16", "bfloat16")),
    "conversions_float32", "conversions_int32", "conversions_bool", "smooth_float32", "smooth_float64",
)  # fmt: skip


@pytest.mark.compiler
@pytest.mark.parametrize("machine", MACHINES)
def test_operations_mean_what_the_interpreter_says(machine: tuple[str, str]) -> None:
    isa, compiler = machine
    names = FEW if compiler == "clang" or isa == "avx2" else tuple(CASES)
    plain = {name: CASES[name][0] for name in names}
    vectors = {f"{name}_vector": vectorised(n) for name, n in plain.items()}
    printed = Printed({**plain, **vectors}, target(isa), compiler)
    for name in names:
        check(printed, name)


def check(printed: Printed, name: str) -> None:
    """Vectors agree with scalars bit for bit, and scalars with the interpreter."""
    n, arrays = CASES[name]
    exact = interpret(n, arrays, dtype="float32")
    plain = printed.run(name, arrays)
    lanes = printed.run(f"{name}_vector", arrays, shift=1)
    for output, value in exact.items():
        label = f"{name}: {output}"
        np.testing.assert_array_equal(wide(lanes[output]), wide(plain[output]), f"{label}: vector and scalar differ")
        if output.removeprefix("o_") in (*SMOOTH, "pow"):
            u = 2.0 ** (-24 if "float32" in name else -53)
            np.testing.assert_allclose(plain[output], value, rtol=8 * u, atol=8 * u, err_msg=label)
        else:
            np.testing.assert_array_equal(wide(plain[output]), wide(value.astype(plain[output].dtype)), label)


def wide(x: Any) -> Any:
    """numpy's tests know nan in types of its own only."""
    return x if x.dtype.isbuiltin == 1 else x.astype(np.float64)
