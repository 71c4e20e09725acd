"""Times the schedules of examples/nests.py beside plain C loops and the machine's peak.

python benchmarks/hard_nests.py [gemm] [blur] [jacobi] [attention]
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # everything here is measured on one core
import numpy as np  # noqa: E402

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "examples")]
import nests  # noqa: E402
from tensordsl.codegen.c.printer import to_c  # noqa: E402
from tensordsl.codegen.compile import compile_source  # noqa: E402
from tensordsl.codegen.runtime import Kernel  # noqa: E402
from timing import aligned, compile_c, interleave, kernel_call, peak_kernel, quiet  # noqa: E402

import tensordsl as td  # noqa: E402
from tensordsl.interpreter import error_bound, interpret  # noqa: E402
from tensordsl.targets import target  # noqa: E402

PLAIN_BLUR = """void f(const float*restrict x,float*restrict h,float*restrict o){
 for(long r=0;r<H+2;r++)for(long c=0;c<W;c++)h[r*W+c]=x[r*(W+2)+c]+x[r*(W+2)+c+1]+x[r*(W+2)+c+2];
 for(long r=0;r<H;r++)for(long c=0;c<W;c++)o[r*W+c]=(h[r*W+c]+h[r*W+W+c]+h[r*W+2*W+c])*(1.0f/9.0f);}"""
PLAIN_JACOBI = """void f(float*restrict a,float*restrict b){
 for(long t=0;t<T;t++){float*s=t&1?b:a,*d=t&1?a:b;
 for(long i=1;i<N-1;i++)for(long j=1;j<N-1;j++)
  d[i*N+j]=0.2f*(s[i*N+j-1]+s[i*N+j+1]+(s[i*N-N+j]+s[i*N+N+j]))+0.2f*s[i*N+j];}}"""


def kernel(s: td.Schedule) -> Kernel:
    return Kernel(compile_source(to_c(s.nest, target("native"))), s.nest, s)


def report(title: str, times: dict[str, float], work: float, peak: float, checked: str) -> None:
    print(f"{title}  ({checked})")
    for name, t in times.items():
        print(f"  {name:34s} {t:10.1f} us  {work / t / 1e3:8.1f} G/s  {100 * work / t / 1e3 / peak:6.1f} % of peak")


def check(program: td.Program, k: Kernel, arrays: list[np.ndarray]) -> str:
    inputs = {t.name: a for t, a in zip(program.inputs, arrays)}
    reference = interpret(program, inputs)
    bound = error_bound(program, inputs)
    name = program.outputs[0].name
    error = np.abs(arrays[len(program.inputs)] - reference[name])
    assert (error <= bound[name]).all(), f"{program.name}: wrong by {(error / bound[name]).max():.1f} times the bound"
    return f"checked, error {error.max():.1e}"


def run(s: td.Schedule, work: float, title: str, others: dict[str, Any], rounds: int = 15, verify: bool = True) -> None:
    k, scratch = kernel(s), []
    rng = np.random.default_rng(0)
    arrays = [aligned(b.shape, fill=rng.standard_normal(b.shape)) for b in s.nest.parameters[:-1]]
    arrays.append(aligned(s.nest.parameters[-1].shape))
    f = kernel_call(k, arrays, scratch)
    f()
    checked = check(s.program, k, arrays) if verify else "not checked here: large"
    spin, flops = peak_kernel()
    contenders = {"peak": spin, "schedule": f, **{n: g(arrays) for n, g in others.items()}}
    times = interleave(contenders, rounds)
    peak = flops / times.pop("peak") / 1e3
    report(f"{title}, peak {peak:.1f} GFLOP/s", times, work, peak, checked)


def gemm(size: int) -> None:
    def numpy_gemm(a: list[np.ndarray]) -> Any:
        out = aligned((size, size))
        return lambda: np.matmul(a[0], a[1], out=out)

    for config in (
        {"packed": False, "mr": 8, "nr": 48},
        {"packed": False, "mr": 7, "nr": 64},
        {"packed": True, "mr": 8, "nr": 48},
        {"packed": True, "mr": 8, "nr": 48, "mc": size, "near": 4},
        {"packed": True, "mr": 13, "nr": 32, "kc": 512},
    ):
        s = nests.gemm(size, size, size, **config)
        run(s, 2.0 * size**3, f"gemm+bias+gelu {size} {config}", {"numpy matmul alone": numpy_gemm})


def blur() -> None:
    h = w = 2048
    lib = compile_c(PLAIN_BLUR, "-O3", f"-DH={h}L", f"-DW={w}L")
    tmp = aligned((h + 2, w))

    def plain(a: list[np.ndarray]) -> Any:
        out = aligned((h, w))
        args = [ctypes.c_void_p(x.ctypes.data) for x in (a[0], tmp, out)]
        return lambda: lib.f(*args) or out

    for config in ({"rows": 4}, {"rows": 4, "ahead": 0}, {"rows": 8}, {"rows": 4, "nt": False}):
        run(
            nests.blur(h, w, **config),
            6.0 * h * w,
            f"blur {h} {config}",
            {"gcc -O3": plain},
            verify=config == {"rows": 4},
        )


def jacobi() -> None:
    n, t = 2000, 50
    lib = compile_c(PLAIN_JACOBI, "-O3", f"-DN={n}L", f"-DT={t}L")

    def plain(a: list[np.ndarray]) -> Any:
        x, y = aligned((n, n), fill=a[0]), aligned((n, n), fill=a[0])
        return lambda: lib.f(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))

    for config in ({"rows": 8}, {"rows": 6}, {"rows": 4}):
        run(
            nests.jacobi(n, t, **config),
            6.0 * n * n * t,
            f"jacobi {n} x {t} {config}",
            {"gcc -O3": plain},
            7,
            verify=False,
        )


def attention() -> None:
    n, d = 512, 64
    for config in ({"keys": 128}, {"keys": 64}, {"keys": 128, "vectors": 4, "rows": 6}):
        run(nests.attention(n, d, **config), 4.0 * n * n * d, f"attention {n}x{d} {config}", {})


if __name__ == "__main__":
    quiet()
    chosen = sys.argv[1:] or ["gemm", "blur", "jacobi", "attention"]
    for name in chosen:
        if name == "gemm":
            gemm(512)
            gemm(1024)
        else:
            {"blur": blur, "jacobi": jacobi, "attention": attention}[name]()
