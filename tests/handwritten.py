"""Sources written by hand, so that compiling, calling and packing are tested apart from printing."""

from __future__ import annotations

from tensordsl.codegen.source import C_CALL, C_TYPES, Source
from tensordsl.schedules.loopnest import LoopNest
from tensordsl.schedules.lower import lower

import tensordsl as td
from tensordsl.targets import target

PORTABLE = target("portable")


def axpy(n: int = 8, name: str = "axpy") -> LoopNest:
    """y = a * x + z, with a run-time scalar."""
    a = td.placeholder((), name="a")
    x = td.placeholder((n,), name="x")
    z = td.placeholder((n,), name="z")
    y = td.compute((n,), lambda i: a[()] * x[i] + z[i], name="y")
    return lower(td.Program([a, x, z], [y], name=name, dims={"N": n}))


def axpy_source(n: int = 8, symbol: str = "axpy_kernel", text: str = "a * x[i] + z[i]") -> Source:
    body = f"""
TD_KERNEL int32_t {symbol}(const td_call *call, float a, const float *x, const float *z, float *y)
{{
    if (call && call->size < sizeof(td_call)) return 3;
    if (!x || !z || !y) return 4;
    for (int64_t i = 0; i < {n}; ++i) y[i] = {text};
    return 0;
}}
"""
    return Source(symbol, (C_TYPES, C_CALL), body, axpy(n).parameters, 0, PORTABLE)
