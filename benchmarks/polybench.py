"""Times the kernels of examples/polybench.py beside plain C loops and libraries on one core.

python benchmarks/polybench.py [kernel ...] [--lock FILE] [--rounds N] [--tune TRIALS [--logs DIR]]

Ours is the default schedule and, with --tune, the best one found by so many measurements (recorded in DIR).
The plain loops are the usual algorithms in their usual order (benchmarks/polybench_loops.py), sizes known at
compile time, arrays restrict, by gcc and clang -O3 -march=native with and without -ffast-math, and by clang
with Polly (at its two positions) where it has it.  Where scipy is installed, OpenBLAS and LAPACK compute what
they can (benchmarks/polybench_libraries.py).  All contenders of a kernel are sampled in turn, each on fresh
copies of the inputs; the minimum of the rounds counts.  The results are compared with ours first.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import functools
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "examples"), str(Path(__file__).parent), str(ROOT)]  # two files are named polybench
import polybench_libraries  # noqa: E402
import polybench_loops  # noqa: E402
from tensordsl.codegen.c.printer import to_c  # noqa: E402
from tensordsl.codegen.compile import compile_source  # noqa: E402
from tensordsl.codegen.runtime import CallStruct, Kernel, parameters  # noqa: E402
from tensordsl.schedules.default import default_schedule  # noqa: E402
from tensordsl.schedules.schedule import Schedule  # noqa: E402
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
FAST = ("-O3", "-ffast-math")
POLLY = ("-mllvm", "-polly", "-mllvm", "-polly-vectorizer=stripmine", "-mllvm", "-polly-tiling")
EARLY = (*POLLY, "-mllvm", "-polly-position=early")
COMPILERS = {
    "gcc": ("gcc", ("-O3",)),
    "gcc fast": ("gcc", FAST),
    "clang": ("clang", ("-O3",)),
    "clang fast": ("clang", FAST),
    "polly": ("clang", ("-O3", *POLLY)),
    "polly fast": ("clang", (*FAST, *POLLY)),
    "early": ("clang", ("-O3", *EARLY)),
    "early fast": ("clang", (*FAST, *EARLY)),
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


class Library:
    """A kernel by BLAS and LAPACK, with copies of the inputs that it may overwrite."""

    def __init__(self, name: str, given: Arrays) -> None:
        function = polybench_libraries.library(name)
        assert function is not None
        self.function, self.given = function, given
        self.found: tuple[np.ndarray[Any, Any], ...] = ()
        self.arguments: list[Any] = []

    def reset(self, given: Arrays) -> None:
        self.arguments = [np.array(x) if x.ndim else float(x) for x in given.values()]

    def __call__(self) -> float:
        start = time.perf_counter()
        self.found = self.function(*self.arguments)
        return time.perf_counter() - start


def ours(program: td.Program, s: Schedule, given: Arrays) -> Contender:
    """A schedule of ours."""
    source = to_c(s.nest, target("native"))
    kernel = Kernel(compile_source(source), s.nest, s)
    memory = {p.name: aligned(p.shape, p.dtype.name) for p in parameters(s.nest)}
    memory |= {name: value for name, value in given.items() if value.ndim == 0}
    workspace = aligned((max(1, source.workspace_bytes),), "uint8")
    call = CallStruct(ctypes.sizeof(CallStruct), 0, workspace.ctypes.data, source.workspace_bytes, None, None, None)
    memory["(workspace)"], kernel.function = workspace, kernel._function
    return Contender(kernel._function, [p.name for p in parameters(s.nest)], memory, call)


def default(program: td.Program) -> tuple[Schedule, float]:
    """The default schedule, and the seconds from its program to its C text."""
    start = time.process_time()
    s = default_schedule(program, target("native"))
    to_c(s.nest, target("native"))
    return s, time.process_time() - start


@functools.cache
def available(compiler: str, flags: tuple[str, ...]) -> bool:
    """Is there such a compiler, and does it know these options?"""
    if shutil.which(compiler) is None:
        return False
    command = [compiler, *flags, "-x", "c", "-fsyntax-only" if "-mllvm" not in flags else "-c", "-o", "/dev/null", "-"]
    return subprocess.run(command, input="int f(void) { return 0; }", text=True, capture_output=True).returncode == 0


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


def measure(name: str, rounds: int, lock: str | None, trials: int, logs: str) -> dict[str, float]:
    """Milliseconds by contender, and of "text": from the program to its C text."""
    program = polybench.KERNELS[name](*SIZES[name])
    given = inputs_of(name, program)
    schedule, text = default(program)
    ours_ = ours(program, schedule, given)
    contenders: dict[str, Contender | Library] = {"ours": ours_}
    if trials:
        with locked(lock):
            contenders["tuned"] = ours(program, td.tune(program, trials=trials, log_dir=logs).schedule, given)
    for label, (compiler, flags) in COMPILERS.items():
        if available(compiler, flags):
            contenders[label] = plain(name, given, compiler, flags)
    if polybench_libraries.library(name) is not None:
        contenders["library"] = Library(name, given)
    best = dict.fromkeys(contenders, float("inf"))
    with locked(lock):
        began = time.perf_counter()
        for k in range(rounds):
            for label, c in contenders.items():
                if k > 1 and best[label] > LONGEST_S / 20:
                    continue  # known well enough
                c.reset(given)
                best[label] = min(best[label], c())
                if k == 0 and label != "ours":
                    compare(f"{name}: {label}", results(program, name, c), outputs(program, ours_))
            if k >= 2 and time.perf_counter() - began > LONGEST_S:
                break
    return {label: t * 1e3 for label, t in best.items()} | {"text": text * 1e3}


def results(program: td.Program, name: str, c: Contender | Library) -> list[np.ndarray[Any, Any]]:
    """What a contender computed, as far as it can be compared."""
    if isinstance(c, Contender):
        return outputs(program, c)
    return [] if name in polybench_libraries.NOT_COMPARED else [c.found[k] for k in range(len(program.outputs))]


def compare(what: str, found: list[np.ndarray[Any, Any]], ours: list[np.ndarray[Any, Any]]) -> None:
    for a, b in zip(found, ours):
        error = float(np.max(np.abs(a.astype(float) - b))) / (1.0 + float(np.max(np.abs(a))))
        if not error <= NEAR:
            print(f"  WRONG: {what} differs from ours by {error:.1e} of the largest element", flush=True)


def fastest(t: dict[str, float]) -> float:
    """Milliseconds of the best compiler setting."""
    return min(t[x] for x in COMPILERS if x in t)


def row(name: str, t: dict[str, float], labels: list[str]) -> str:
    cells = "".join(f"{t[x]:11.2f}" if x in t else f"{'-':>11s}" for x in labels)
    mine = t.get("tuned", t["ours"])
    return f"{name:15s}{cells}{t['gcc'] / mine:9.2f}x{fastest(t) / mine:9.2f}x{t['text']:9.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", help="names (default: all)")
    parser.add_argument("--lock", help="a file to lock while a kernel is timed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tune", type=int, default=0, metavar="TRIALS", help="measurements for a tuned schedule")
    parser.add_argument("--logs", help="where they are recorded (default: nowhere that stays)")
    options = parser.parse_args()
    quiet()
    labels = ["ours", *(["tuned"] if options.tune else []), *(x for x in COMPILERS if available(*COMPILERS[x]))]
    if polybench_libraries.blas is not None:
        labels.append("library")
    head = f"{'':15s}{''.join(f'{x:>11s}' for x in labels)}{'/ gcc':>10s}{'/ best':>10s}{'text':>9s}"
    times: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.kernels or polybench.KERNELS:
            times[name] = measure(name, options.rounds, options.lock, options.tune, options.logs or folder)
            print(row(name, times[name], labels), flush=True)
    print(f"\nmilliseconds; speed against gcc -O3 and the best compiler setting; ms from program to C text\n{head}")
    for name in sorted(times, key=lambda n: times[n]["gcc"] / times[n]["ours"]):
        print(row(name, times[name], labels))
    for mine in labels[:2] if options.tune else labels[:1]:
        for label in labels[labels.index("gcc") :]:
            print(f"geometric mean, {mine} against {label}: {mean(times, mine, label)}")
        for what, of in (("the best compiler setting", fastest), ("the best of all", best_of_all)):
            ratio = geometric([of(t) / t[mine] for t in times.values()])
            print(f"geometric mean, {mine} against {what} of each kernel: {ratio:.2f}x")


def best_of_all(t: dict[str, float]) -> float:
    return min(fastest(t), t.get("library", float("inf")))


def mean(times: dict[str, dict[str, float]], mine: str, label: str) -> str:
    """Over the kernels that the other one computes."""
    ratios = [t[label] / t[mine] for t in times.values() if label in t]
    return f"{geometric(ratios):.2f}x over {len(ratios)}" if ratios else "-"


def geometric(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


if __name__ == "__main__":
    main()
