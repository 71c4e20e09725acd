"""The speed goals in one run: tuned and default kernels beside numpy, torch and plain C loops.

python benchmarks/operators.py [gemm] [softmax] [layernorm] [conv2d] [--trials 64] [--no-torch]

One core; every contender is sampled in turn (see timing.py), so only the ratios count.  Times of
the compiler itself follow: expression to C text, and candidates tried per second.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # everything here is measured on one core
os.environ["TD_QUIET"] = "1"
import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from tensordsl.autotune.driver import kernel_of  # noqa: E402
from tensordsl.autotune.features import analyse  # noqa: E402
from tensordsl.codegen.c.printer import to_c  # noqa: E402
from tensordsl.schedules.default import default_schedule  # noqa: E402
from timing import aligned, compile_c, interleave, kernel_call, peak_kernel, pointers, quiet  # noqa: E402

import tensordsl as td  # noqa: E402
from tensordsl.targets import target  # noqa: E402

PLAIN_GEMM = """void f(const float*restrict a,const float*restrict b,float*restrict c){
 for(long i=0;i<512;i++){for(long j=0;j<512;j++)c[i*512+j]=0;
  for(long k=0;k<512;k++)for(long j=0;j<512;j++)c[i*512+j]+=a[i*512+k]*b[k*512+j];}}"""
PLAIN_SOFTMAX = """#include <math.h>
void f(const float*restrict x,float*restrict y){
 for(long i=0;i<512;i++){const float*r=x+i*1024;float*o=y+i*1024,m=-INFINITY,s=0;
  for(long j=0;j<1024;j++)m=r[j]>m?r[j]:m;
  for(long j=0;j<1024;j++){o[j]=expf(r[j]-m);s+=o[j];}
  for(long j=0;j<1024;j++)o[j]/=s;}}"""
PLAIN_LAYERNORM = """#include <math.h>
void f(const float*restrict x,const float*restrict g,const float*restrict b,float*restrict y){
 for(long i=0;i<1024;i++){const float*r=x+i*768;float*o=y+i*768,m=0,v=0;
  for(long j=0;j<768;j++)m+=r[j];
  m/=768;
  for(long j=0;j<768;j++)v+=(r[j]-m)*(r[j]-m);
  float d=1/sqrtf(v/768+1e-5f);
  for(long j=0;j<768;j++)o[j]=(r[j]-m)*d*g[j]+b[j];}}"""
PLAIN_CONV = """void f(const float*restrict x,const float*restrict w,float*restrict y){
 for(long o=0;o<64;o++)for(long h=0;h<56;h++){float*d=y+(o*56+h)*56;for(long j=0;j<56;j++)d[j]=0;
  for(long c=0;c<64;c++)for(long r=0;r<3;r++){long s=h+r-1;if(s<0||s>55)continue;
   for(long q=0;q<3;q++){long lo=q==0,hi=q==2?55:56;float f=w[((o*64+c)*3+r)*3+q];
    const float*e=x+(c*56+s)*56+q-1;for(long j=lo;j<hi;j++)d[j]+=f*e[j];}}}}"""


@td.operator("x: float32[M, N]")
def softmax(x: Any) -> Any:
    return td.ops.softmax(x, axis=-1)


@td.operator("x: float32[M, N], g: float32[N], b: float32[N]")
def layernorm(x: Any, g: Any, b: Any) -> Any:
    return td.ops.layer_norm(x, g, b)


@td.operator("x: float32[1, C, H, W], w: float32[O, C, R, S]")
def conv2d(x: Any, w: Any) -> Any:
    return td.ops.conv2d(x, w, padding=1)


@td.operator("a: float32[M, K], b: float32[K, N]")
def gemm(a: Any, b: Any) -> Any:
    return td.ops.matmul(a, b)


def numpy_softmax(x: np.ndarray, out: np.ndarray) -> None:
    np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)


def numpy_layernorm(x: np.ndarray, g: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    d = x - x.mean(axis=1, keepdims=True)
    out[...] = d / np.sqrt((d * d).mean(axis=1, keepdims=True) + 1e-5) * g + b


@dataclass(frozen=True)
class Goal:
    """A ratio that is asked for: ``over`` time / ``of`` time at least ``least`` ("peak": work at peak)."""

    of: str
    over: str
    least: float


@dataclass(frozen=True)
class Case:
    program: td.Program
    plain: str
    numpy: Callable[..., Any] | None
    torch: Callable[..., Any] | None
    goals: tuple[Goal, ...]


def torch_function(name: str) -> Callable[..., Any]:
    def run(*arrays: Any) -> Any:
        from torch.nn import functional as F

        if name == "softmax":
            return F.softmax(arrays[0], -1)
        if name == "layernorm":
            return F.layer_norm(arrays[0], (768,), arrays[1], arrays[2])
        return F.conv2d(arrays[0], arrays[1], padding=1) if name == "conv2d" else arrays[0] @ arrays[1]

    return run


ROWS = (Goal("tuned", "gcc -O3", 1.5), Goal("tuned", "torch", 1.5))
CASES = {
    "gemm": Case(
        gemm.bind(M=512, K=512, N=512),
        PLAIN_GEMM,
        lambda a, b, out: np.matmul(a, b, out=out),
        torch_function("gemm"),
        (Goal("tuned", "numpy", 1.0), Goal("default", "tuned", 0.7), Goal("default", "gcc -O3", 1.0)),
    ),
    "softmax": Case(softmax.bind(M=512, N=1024), PLAIN_SOFTMAX, numpy_softmax, torch_function("softmax"), ROWS),
    "layernorm": Case(
        layernorm.bind(M=1024, N=768), PLAIN_LAYERNORM, numpy_layernorm, torch_function("layernorm"), ROWS
    ),
    "conv2d": Case(
        conv2d.bind(C=64, H=56, W=56, O=64, R=3, S=3),
        PLAIN_CONV,
        None,
        torch_function("conv2d"),
        (Goal("tuned", "peak", 0.7), Goal("default", "gcc -O3", 1.0)),
    ),
}


def contenders(case: Case, tuned: td.Schedule, use_torch: bool, kept: list[Any]) -> dict[str, Callable[[], Any]]:
    """Every implementation as a call without arguments; all agree with the plain loops."""
    program = case.program
    rng = np.random.default_rng(0)
    inputs = [aligned(t.shape, fill=rng.standard_normal(t.shape)) for t in program.inputs]
    found: dict[str, Callable[[], Any]] = {}
    results: dict[str, np.ndarray] = {}

    def output(name: str) -> np.ndarray:
        results[name] = aligned(program.outputs[0].shape)
        return results[name]

    machine = target("native")
    for name, schedule in (("tuned", tuned), ("default", default_schedule(program, machine))):
        found[name] = kernel_call(kernel_of(schedule, machine), [*inputs, output(name)], kept)
    plain = compile_c(case.plain, "-O3").f
    arguments = pointers([*inputs, output("gcc -O3")])
    found["gcc -O3"] = lambda: plain(*arguments)
    if case.numpy is not None:
        function, out = case.numpy, output("numpy")
        found["numpy"] = lambda: function(*inputs, out)
    if use_torch and case.torch is not None:
        import torch

        torch.set_num_threads(1)
        tensors = [torch.from_numpy(a) for a in inputs]
        other = case.torch
        output("torch")[...] = other(*tensors).numpy()
        found["torch"] = lambda: other(*tensors)
    for run in found.values():
        run()
    for name, values in results.items():
        if not np.allclose(values, results["gcc -O3"], atol=1e-3):
            sys.exit(f"{program.name}: {name} gives another result")
    kept += [inputs, results]
    return found


def run_case(name: str, case: Case, trials: int, use_torch: bool) -> list[tuple[str, float, float]]:
    """Tune, time and print one operator; returns its goals as (text, reached, wanted)."""
    result = td.tune(case.program, trials=trials, log_dir="out/tuning_logs")
    kept: list[Any] = []
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    quiet()
    spin, spin_work = peak_kernel(target("native").vector_bytes)
    times = interleave({**contenders(case, result.schedule, use_torch, kept), "peak loop": spin}, rounds=21)
    if cores is not None:
        os.sched_setaffinity(0, cores)  # the next search compiles beside measuring
    peak = spin_work / times.pop("peak loop") / 1e3
    flops = analyse(result.schedule.nest, target("native")).instructions.flops
    print(f"{name} {' '.join(map(str, case.program.dims.values()))}: {result.winner.candidate}")
    for contender, t in times.items():
        rate = flops / t / 1e3
        print(f"  {contender:10s} {t:10.1f} us {rate:8.1f} GFLOP/s {100 * rate / peak:6.1f} % of peak")
    times["peak"] = flops / peak / 1e3
    return [
        (f"{name}: {g.of} against {g.over}", times[g.over] / times[g.of], g.least)
        for g in case.goals
        if g.over in times
    ]


def compiler_speed(trials: int) -> list[tuple[str, float, float]]:
    """Seconds from expression to C text (the first in a process is not counted), candidates a second."""
    machine = target("native")
    to_c(default_schedule(gemm.bind(M=96, K=96, N=96), machine).nest, machine)
    slowest = 0.0
    for operator, sizes in ((gemm, {"M": 512, "K": 512, "N": 512}), (softmax, {"M": 512, "N": 1024})):
        start = time.perf_counter()
        to_c(default_schedule(operator.bind(**sizes), machine).nest, machine)
        slowest = max(slowest, time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TD_CACHE_DIR"] = folder
        start = time.perf_counter()
        result = td.tune(gemm.bind(M=256, K=256, N=256), trials=trials, log_dir=folder)
        rate = len(result.history) / (time.perf_counter() - start)
    print(f"expression to C text: {slowest:.3f} s; tuning gemm 256: {rate:.1f} candidates/s")
    return [("0.3 s against expression to C text", 0.3 / slowest, 1.0), ("candidates a second", rate, 8.0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*CASES, []], help="operators (default: all, and the compiler)")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--no-torch", action="store_true")
    options = parser.parse_args()
    use_torch = not options.no_torch and _has_torch()
    goals: list[tuple[str, float, float]] = []
    if not options.names:
        goals += compiler_speed(options.trials)
    for name in options.names or CASES:
        goals += run_case(name, CASES[name], options.trials, use_torch)
    print()
    for text, reached, wanted in goals:
        print(f"{'reached' if reached >= wanted else 'MISSED '}  {reached:6.2f} of {wanted:.2f}  {text}")


def _has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    main()
