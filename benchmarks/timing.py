"""Interleaved timing of C functions: ratios within one run are the only figures that count.

Every contender is sampled in turn, round after round, each sample lasting at least a few hundred
microseconds inside one C call; the minimum of the rounds stands for a contender.  A register-only
multiply-add loop runs beside them: its rate is the machine's peak at that moment.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensordsl.codegen.runtime import CallStruct, Kernel

_PEAK = r"""
typedef float v __attribute__((vector_size(VB)));
long peak(long n) {
    v a0={0},a1={0},a2={0},a3={0},a4={0},a5={0},a6={0},a7={0},a8={0},a9={0},b={1},c={1};
    __asm__ volatile("" : "+x"(b), "+x"(c));
    for (long i = 0; i < n; i++) {
        a0+=b*c; a1+=b*c; a2+=b*c; a3+=b*c; a4+=b*c; a5+=b*c; a6+=b*c; a7+=b*c; a8+=b*c; a9+=b*c;
        __asm__ volatile("" : "+x"(a0),"+x"(a1),"+x"(a2),"+x"(a3),"+x"(a4));
        __asm__ volatile("" : "+x"(a5),"+x"(a6),"+x"(a7),"+x"(a8),"+x"(a9));
    }
    v s = a0+a1+a2+a3+a4+a5+a6+a7+a8+a9;
    return (long)s[0];
}
"""


def compile_c(text: str, *flags: str, compiler: str = "gcc") -> ctypes.CDLL:
    """A shared object from C text, built with -march=native and the given flags."""
    with tempfile.TemporaryDirectory(prefix="tensordsl-bench-") as name:
        source, library = Path(name) / "k.c", Path(name) / "k.so"
        source.write_text(text)
        command = [compiler, "-march=native", "-shared", "-fPIC", "-w", *flags, "-o", str(library), str(source), "-lm"]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(library))


def peak_kernel(vector_bytes: int = 64) -> tuple[Callable[[], Any], float]:
    """A register-only multiply-add loop of about a millisecond, and its floating-point operations."""
    text = _PEAK.replace("VB", str(vector_bytes)).replace('"+x"', '"+v"')
    f = compile_c(text, "-O2").peak
    steps = 300_000
    return (lambda: f(ctypes.c_long(steps))), steps * 10 * 2 * vector_bytes / 4


def aligned(shape: tuple[int, ...], dtype: str = "float32", fill: Any = None) -> np.ndarray:
    """An array that starts at a cache line."""
    size = int(np.prod(shape)) if shape else 1
    raw = np.zeros(size * np.dtype(dtype).itemsize + 4096, "uint8")
    start = -raw.ctypes.data % 4096
    out = raw[start : start + size * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
    if fill is not None:
        out[...] = fill
    return out


def pointers(arrays: Sequence[np.ndarray]) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(a.ctypes.data) for a in arrays]


def kernel_call(k: Kernel, arrays: Sequence[np.ndarray], kept: list[Any]) -> Callable[[], Any]:
    """A call without arguments with everything prepared, so that only the kernel is timed.

    kept: takes what must outlive the call.
    """
    workspace = aligned((max(1, k.source.workspace_bytes),), "uint8")
    c = CallStruct()
    c.size, c.workspace, c.workspace_bytes = ctypes.sizeof(CallStruct), workspace.ctypes.data, k.source.workspace_bytes
    kept += [workspace, c, k, *arrays]
    f, arguments = k._function, [ctypes.c_void_p(ctypes.addressof(c)), *pointers(arrays)]
    return lambda: f(*arguments)


def interleave(contenders: dict[str, Callable[[], Any]], rounds: int = 15, least_us: float = 300.0) -> dict[str, float]:
    """Minimum microseconds of one call, contenders sampled in turn."""
    repeats = {}
    for name, f in contenders.items():
        f()
        start = time.perf_counter()
        f()
        once = max((time.perf_counter() - start) * 1e6, 0.5)
        repeats[name] = max(1, int(least_us / once))
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, f in contenders.items():
            n = repeats[name]
            start = time.perf_counter()
            for _ in range(n):
                f()
            best[name] = min(best[name], (time.perf_counter() - start) / n * 1e6)
    return best


def quiet() -> None:
    """Ask for a scheduling group of its own and one core, where the system allows it."""
    try:
        os.setsid()
        Path("/proc/self/autogroup").write_text("-15")
    except (OSError, PermissionError):
        pass
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
