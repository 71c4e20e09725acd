"""Times the kernels of examples/polybench.py, default schedule, beside plain C loops on one core.

python benchmarks/polybench.py [kernel ...] [--lock FILE] [--rounds N]

The plain loops are the usual algorithms in their usual order (benchmarks/polybench_loops.py), sizes known at
compile time, arrays restrict, by gcc and clang -O3 -march=native with and without -ffast-math.  All
contenders of a kernel are sampled in turn, each on fresh copies of the inputs; the minimum of the rounds
counts.  The results are compared with those of plain gcc first.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "examples"), str(Path(__file__).parent), str(ROOT)]  # two files are named polybench
import polybench_loops  # noqa: E402
from tensordsl.codegen.c.printer import to_c  # noqa: E402
from tensordsl.codegen.compile import compile_source  # noqa: E402
from tensordsl.codegen.runtime import CallStruct, Kernel, parameters  # noqa: E402
from tensordsl.schedules.default import default_schedule  # noqa: E402
from timing import aligned, compile_c, quiet  # noqa: E402

import polybench  # noqa: E402  # isort: skip
import tensordsl as td  # noqa: E402
from tensordsl.targets import target  # noqa: E402
from tests.polybench_references import inputs_of  # noqa: E402

#: PolyBench's LARGE sizes where they take 20 to 500 ms, else half of them or MEDIUM; stencils with fewer steps.
SIZES: dict[str, tuple[int, ...]] = {
    "gemm": (1000, 1100, 1200), "two_mm": (400, 450, 550, 600), "three_mm": (400, 450, 500, 550, 600),
    "syrk": (1000, 1200), "syr2k": (500, 600), "symm": (500, 600), "trmm": (500, 600), "doitgen": (140, 150, 160),
    "correlation": (600, 700), "covariance": (600, 700), "gramschmidt": (600, 500), "cholesky": (1000,), "lu": (400,),
    "ludcmp": (400,), "atax": (1900, 2100), "bicg": (1900, 2100), "mvt": (2000,), "gemver": (2000,),
    "gesummv": (1300,), "trisolv": (2000,), "durbin": (4000,), "deriche": (4096, 2160), "floyd_warshall": (500,),
    "nussinov": (500,), "adi": (100, 200), "fdtd_2d": (100, 1000, 1200), "heat_3d": (100, 120),
    "jacobi_1d": (1000, 4000), "jacobi_2d": (100, 1300), "seidel_2d": (100, 400),
}  # fmt: skip
COMPILERS = {
    "gcc": ("gcc", ("-O3",)),
    "gcc fast": ("gcc", ("-O3", "-ffast-math")),
    "clang": ("clang", ("-O3",)),
    "clang fast": ("clang", ("-O3", "-ffast-math")),
}
#: Largest difference from the plain loops, relative to the largest element.
NEAR = 1e-9
#: Seconds after which a kernel has been sampled enough.
LONGEST_S = 12.0
Arrays = dict[str, np.ndarray[Any, Any]]


class Contender:
    """A C function and memory of its own for its arguments.

    names: of the arguments in order; those that are no input are outputs or scratch.
    """

    def __init__(self, function: Any, names: list[str], memory: Arrays, call: CallStruct | None = None) -> None:
        self.function, self.names, self.memory, self.call = function, names, memory, call
        self.arguments = [] if call is None else [ctypes.c_void_p(ctypes.addressof(call))]
        for n in names:
            a = memory[n]
            self.arguments.append(ctypes.c_double(a.item()) if a.ndim == 0 else ctypes.c_void_p(a.ctypes.data))

    def reset(self, given: Arrays) -> None:
        for name, value in given.items():
            if value.ndim:
                self.memory[name][...] = value

    def __call__(self) -> float:
        """Seconds of one call."""
        start = time.perf_counter()
        self.function(*self.arguments)
        return time.perf_counter() - start


def ours(program: td.Program, given: Arrays) -> tuple[Contender, float]:
    """The default schedule, and the seconds from its program to its C text."""
    start = time.perf_counter()
    machine = target("native")
    s = default_schedule(program, machine)
    source = to_c(s.nest, machine)
    seconds = time.perf_counter() - start
    kernel = Kernel(compile_source(source), s.nest, s)
    memory = {p.name: aligned(p.shape, p.dtype.name) for p in parameters(s.nest)}
    memory |= {name: value for name, value in given.items() if value.ndim == 0}
    workspace = aligned((max(1, source.workspace_bytes),), "uint8")
    call = CallStruct(ctypes.sizeof(CallStruct), 0, workspace.ctypes.data, source.workspace_bytes, None, None, None)
    memory["(workspace)"], kernel.function = workspace, kernel._function
    return Contender(kernel._function, [p.name for p in parameters(s.nest)], memory, call), seconds


def plain(name: str, given: Arrays, compiler: str, flags: tuple[str, ...]) -> Contender:
    """The plain loops of a kernel by a compiler."""
    loops = polybench_loops.LOOPS[name]
    library = compile_c(loops.text(SIZES[name]), *flags, compiler=compiler)
    dtype = "int32" if loops.type == "int" else "float64"
    memory = {n: aligned(shape, dtype) for n, shape in loops.shapes(SIZES[name]).items()}
    memory |= {n: value for n, value in given.items() if value.ndim == 0}
    memory["(library)"] = library  # type: ignore[assignment]
    contender = Contender(library.f, loops.names, memory)
    if name in polybench_loops.COPIES:
        scratch, source = polybench_loops.COPIES[name]
        memory[scratch][...] = given[source]
    return contender


def outputs(program: td.Program, c: Contender) -> list[np.ndarray[Any, Any]]:
    found = []
    for t in program.outputs:
        name = program.inplace.get(t.name, t.name)
        found.append(c.memory[name if name in c.memory else f"{name}_"])
    return found


@contextlib.contextmanager
def locked(path: str | None) -> Iterator[None]:
    """Nobody else measures or compiles meanwhile."""
    if path is None:
        yield
        return
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def measure(name: str, rounds: int, lock: str | None) -> dict[str, float]:
    """Milliseconds by contender, and of "text": from the program to its C text."""
    program = polybench.KERNELS[name](*SIZES[name])
    given = inputs_of(name, program)
    ours_, text = ours(program, given)
    contenders = {"ours": ours_}
    for label, (compiler, flags) in COMPILERS.items():
        if shutil.which(compiler):
            contenders[label] = plain(name, given, compiler, flags)
    best = dict.fromkeys(contenders, float("inf"))
    with locked(lock):
        began = time.perf_counter()
        for k in range(rounds):
            for label, c in contenders.items():
                c.reset(given)
                best[label] = min(best[label], c())
                if k == 0 and label != "ours":
                    compare(f"{name}: {label}", outputs(program, c), outputs(program, ours_))
            if k >= 2 and time.perf_counter() - began > LONGEST_S:
                break
    return {label: t * 1e3 for label, t in best.items()} | {"text": text * 1e3}


def compare(what: str, found: list[np.ndarray[Any, Any]], ours: list[np.ndarray[Any, Any]]) -> None:
    for a, b in zip(found, ours):
        error = float(np.max(np.abs(a.astype(float) - b))) / (1.0 + float(np.max(np.abs(a))))
        if not error <= NEAR:
            print(f"  WRONG: {what} differs from ours by {error:.1e} of the largest element", flush=True)


def row(name: str, t: dict[str, float], labels: list[str]) -> str:
    cells = "".join(f"{t[x]:11.2f}" for x in labels)
    best = min(v for x, v in t.items() if x not in ("ours", "text"))
    return f"{name:15s}{cells}{t['gcc'] / t['ours']:9.2f}x{best / t['ours']:9.2f}x{t['text']:9.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", help="names (default: all)")
    parser.add_argument("--lock", help="a file to lock while a kernel is timed")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    quiet()
    labels = ["ours", *(x for x, (compiler, _) in COMPILERS.items() if shutil.which(compiler))]
    head = f"{'':15s}{''.join(f'{x:>11s}' for x in labels)}{'/ gcc':>10s}{'/ best':>10s}{'text':>9s}"
    times: dict[str, dict[str, float]] = {}
    for name in options.kernels or polybench.KERNELS:
        times[name] = measure(name, options.rounds, options.lock)
        print(row(name, times[name], labels), flush=True)
    print(f"\nmilliseconds; speed against gcc -O3 and against the best compiler; ms from program to C text\n{head}")
    for name in sorted(times, key=lambda n: times[n]["gcc"] / times[n]["ours"]):
        print(row(name, times[name], labels))
    for label in labels[1:]:
        print(f"geometric mean against {label}: {mean(times, lambda t, x=label: t[x] / t['ours']):.2f}x")
    best = mean(times, lambda t: min(t[x] for x in labels[1:]) / t["ours"])
    print(f"geometric mean against the best of each kernel: {best:.2f}x")


def mean(times: dict[str, dict[str, float]], ratio: Callable[[dict[str, float]], float]) -> float:
    return math.exp(sum(math.log(ratio(t)) for t in times.values()) / len(times))


if __name__ == "__main__":
    main()
