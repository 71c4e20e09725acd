"""Inputs for a program: random ones, and small integers for which float arithmetic is exact."""

from __future__ import annotations

import numpy as np

from tensordsl import expr
from tensordsl.affine import interval
from tensordsl.arithmetic import Array
from tensordsl.errors import ProgramError
from tensordsl.expr import Const, Expr, Index, Op, Read
from tensordsl.program import Program
from tensordsl.tensor import Tensor

_ROOTS = frozenset({"sqrt", "rsqrt", "log", "log2", "pow"})


def random_inputs(program: Program, rng: np.random.Generator) -> dict[str, Array]:
    """Arrays of the declared types: floats of a standard normal distribution, integers up to 100 or in
    the range that is stated for them.

    Floats are drawn from 0.5 to 1.5 where a root, a logarithm or a power may need it; integers are
    positive where the program divides by one.
    """
    _require_sizes(program)
    positive = not all(_defined_everywhere(t) for t in program.tensors)
    divided = any(_divides_by_data(t) for t in program.tensors)

    def draw(t: Tensor) -> Array:
        if t.stated and t.values is not None:
            return np.asarray(rng.integers(t.values[0], t.values[1] + 1, t.shape)).astype(t.dtype.numpy)
        if t.dtype.is_complex:
            parts = rng.standard_normal((2, *t.shape))
            return np.asarray(parts[0] + 1j * parts[1]).astype(t.dtype.numpy)
        if t.dtype.is_float:
            values = rng.uniform(0.5, 1.5, t.shape) if positive else rng.standard_normal(t.shape)
            return np.asarray(values).astype(t.dtype.numpy)
        if t.dtype.kind == "b":
            return np.asarray(rng.integers(0, 2, t.shape)).astype(bool)
        low, high = 1 if divided else 0 if t.dtype.kind == "u" else -100, 100
        if t.dtype.bits < 8:
            low, high = max(low, -8), 7
        return np.asarray(rng.integers(low, high + 1, t.shape)).astype(t.dtype.numpy)

    return {t.name: draw(t) for t in program.arguments}


def small_integer_inputs(program: Program, rng: np.random.Generator) -> dict[str, Array]:
    """Arrays of small integers in the declared types.

    Float sums and products of them are exact in any order as long as they stay below 2**24
    (float32, less in narrower types); the range, at most -4..4, is the largest for which all sums of products of the
    program do.  `interpreter.error_bound` of such inputs is zero for programs of sums and products.
    """
    _require_sizes(program)
    positive = not all(_defined_everywhere(t) for t in program.tensors)
    divided = any(_divides_by_data(t) for t in program.tensors)
    types = {t.dtype for t in (*program.inputs, *program.tensors) if t.dtype.is_inexact}
    most = min([2.0**24, *(1 / t.unit_roundoff for t in types)])
    size = next((n for n in (4, 3, 2) if _largest(program, n) <= most), 1)

    def draw(t: Tensor) -> Array:
        if t.dtype.kind == "b":
            return np.asarray(rng.integers(0, 2, t.shape)).astype(bool)
        if t.stated and t.values is not None:
            return np.asarray(rng.integers(t.values[0], t.values[1] + 1, t.shape)).astype(t.dtype.numpy)
        if t.dtype.is_complex:
            whole = rng.integers(-size, size + 1, (2, *t.shape))
            return np.asarray(whole[0] + 1j * whole[1]).astype(t.dtype.numpy)
        low = 1 if positive or divided else 0 if t.dtype.kind == "u" else -size
        return np.asarray(rng.integers(low, size + 1, t.shape)).astype(t.dtype.numpy)

    return {t.name: draw(t) for t in program.arguments}


def _require_sizes(program: Program) -> None:
    if program.free:
        at = ", ".join(f"{d.name}=..." for d in program.free)
        raise ProgramError(f"the inputs of {program.name} have no sizes yet", hint=f"give some: program.at({at})")


def _largest(program: Program, size: int) -> float:
    """A bound on every sum and product when inputs have at most this size."""
    bound: dict[str, float] = {
        t.name: float(max(map(abs, t.values)) if t.stated and t.values is not None else size) for t in program.arguments
    }
    bound |= {t.name: float(np.abs(t.value).max(initial=0)) for t in program.constants}
    for t in program.tensors:
        d = t.definition
        assert d is not None
        terms = 1
        for a in d.reduce_axes:
            terms *= a.extent
        ranges = {a.name: (0, a.extent - 1) for a in (*d.axes, *d.reduce_axes)}
        top: dict[int, float] = {}
        for e in expr.walk(d.body):
            if isinstance(e, Const):
                top[id(e)] = abs(e.value)
            elif isinstance(e, Index):
                top[id(e)] = float(max(abs(x or 0) for x in interval(e.affine, ranges)))
            elif isinstance(e, Read):
                top[id(e)] = bound.get(e.source.name, float("inf"))
            elif isinstance(e, Op):
                args = [top[id(a)] for a in e.args]
                if e.name in ("add", "sub"):
                    top[id(e)] = args[0] + args[1]
                elif e.name == "mul":
                    top[id(e)] = args[0] * args[1]
                else:
                    top[id(e)] = max(args)
        body = top[id(d.body)]
        bound[t.name] = body * terms if d.reducer is not None and d.reducer.name == "sum" else body
    return max([float(size), *(bound[t.name] for t in program.tensors)])


def _divides_by_data(t: Tensor) -> bool:
    assert t.definition is not None
    return any(
        isinstance(e, Op) and e.name in ("floordiv", "mod") and not isinstance(e.args[1], (Const, Index))
        for e in expr.walk(t.definition.body)
    )


def _defined_everywhere(t: Tensor) -> bool:
    """Do all roots, logarithms and powers of a definition have provably non-negative arguments?"""
    assert t.definition is not None
    needed = [e.args[0] for e in expr.walk(t.definition.body) if isinstance(e, Op) and e.name in _ROOTS]
    return all(_never_negative(e, 8) for e in needed)


def _never_negative(e: Expr, depth: int) -> bool:
    """A sufficient rule by structure; reads look into the definition they read, ``depth`` deep."""
    if depth == 0:
        return False
    if isinstance(e, Const):
        return not e.dtype.is_complex and e.value >= 0
    if isinstance(e, Read):
        d = getattr(e.source, "definition", None)
        if e.source.dtype.kind in "ub":
            return True
        return d is not None and not d.order and _never_negative(d.body, depth - 1)
    if not isinstance(e, Op):
        return False
    if e.name in ("abs", "exp", "exp2", "sqrt", "rsqrt"):
        return True
    if e.name == "mul" and expr.structure(e.args[0]) == expr.structure(e.args[1]):
        return True
    args = e.args[1:] if e.name == "select" else e.args
    signs = [_never_negative(a, depth - 1) for a in args]
    return any(signs) if e.name == "max" else all(signs) if e.name in _SIGN_KEEPING else False


_SIGN_KEEPING = frozenset({"add", "mul", "div", "min", "select", "cast", "floor", "ceil", "round"})
