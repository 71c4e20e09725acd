"""The default schedule beside gcc on plain loops: is any program slower than -O3?

python benchmarks/default_schedule.py [NAME...] [--lock FILE] [--rounds 11]

Every program of default_programs.py, by its default schedule (nothing is tuned), beside the plain
loops of plain_c.py compiled with gcc -O3 -march=native, and again with -ffast-math.  The fastest of
the loop forms counts.  Kernels are checked against the interpreter first.  One core; contenders are
sampled in turn, so only the ratios count: above 1 the default schedule is faster.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # everything here is measured on one core
os.environ["TD_QUIET"] = "1"
import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from default_programs import PROGRAMS  # noqa: E402
from plain_c import forms  # noqa: E402
from tensordsl.autotune.driver import kernel_of  # noqa: E402
from tensordsl.codegen.c.printer import to_c  # noqa: E402
from tensordsl.codegen.runtime import CallStruct  # noqa: E402
from tensordsl.schedules.default import default_schedule  # noqa: E402
from timing import aligned, compile_c, quiet  # noqa: E402

from tensordsl.interpreter import error_bound, interpret, random_inputs  # noqa: E402
from tensordsl.targets import target  # noqa: E402

#: C calls f many times, so that a call from Python does not hide a kernel of a microsecond.
_REPEAT = """
typedef int (*function)();
void repeat(function f, void **a, long n) {
    for (long i = 0; i < n; i++) {
        f(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
        __asm__ volatile("" ::: "memory");
    }
}
"""
FLAGS = {"-O3": ("-O3",), "-ffast-math": ("-O3", "-ffast-math")}
#: Programs timed between two releases of the lock.
BATCH = 12


@dataclass
class Case:
    """A program ready to be timed.  functions: contender -> (address, arguments)."""

    name: str
    functions: dict[str, tuple[int, Any]]
    seconds: float
    kept: list[Any]


@dataclass(frozen=True)
class Row:
    """Microseconds of one call, and seconds from expression to C text."""

    name: str
    default: float
    plain: float
    fast: float
    form: str
    seconds: float

    @property
    def ratio(self) -> float:
        return self.plain / self.default


def prepare(name: str) -> Case:
    """Build and check every contender of a program.  Raises ValueError where one computes something else."""
    machine = target("native")
    start = time.perf_counter()
    program = PROGRAMS[name]()
    schedule = default_schedule(program, machine)
    to_c(schedule.nest, machine)
    seconds = time.perf_counter() - start
    inputs = random_inputs(program, np.random.default_rng(0))
    arrays = [aligned(t.shape, t.dtype.name, inputs[t.name]) for t in program.inputs]
    wanted, bound = interpret(program, inputs), error_bound(program, inputs)
    # all contenders write the same memory: where it lies in the caches is worth some percent
    outputs = [aligned(t.shape, t.dtype.name) for t in program.outputs]
    kept: list[Any] = [arrays, outputs]
    functions: dict[str, tuple[int, Any]] = {}

    def add(contender: str, address: int, first: list[int], exact: bool) -> None:
        for o in outputs:
            o.reshape(-1).view("uint8").fill(0xA5)
        pointers = [*first, *(a.ctypes.data for a in (*arrays, *outputs))]
        arguments = (ctypes.c_void_p * 8)(*pointers)
        _repeat(address, arguments, 1)
        for t, got in zip(program.outputs, outputs):
            slack = bound[t.name] if exact else 8 * bound[t.name] + 2e-4 * np.abs(wanted[t.name]).max()
            wrong = ~(np.abs(got.astype("float64") - wanted[t.name].astype("float64")) <= slack)
            if wrong.any():
                raise ValueError(f"{contender} is wrong in {int(wrong.sum())} elements of {t.name}")
        functions[contender] = address, arguments
        kept.append(arguments)

    kernel = kernel_of(schedule, machine)
    workspace = aligned((max(1, kernel.source.workspace_bytes),), "uint8")
    call = CallStruct()
    call.size, call.workspace = ctypes.sizeof(CallStruct), workspace.ctypes.data
    call.workspace_bytes = kernel.source.workspace_bytes
    kept += [kernel, workspace, call]
    add("default", _address(kernel._function), [ctypes.addressof(call)], exact=True)
    for form, text in forms(program):
        for flag, options in FLAGS.items():
            library = compile_c(text, *options)
            kept.append(library)
            add(f"{flag} {form}", _address(library.f), [], exact=False)
    return Case(name, functions, seconds, kept)


def attempt(name: str, failed: list[str]) -> Case | None:
    """`prepare`, where a program that cannot be built or computes something else is noted."""
    try:
        return prepare(name)
    except Exception as e:  # the promise is that none does
        failed.append(f"{name}: {type(e).__name__}: {e}")
        return None


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _repeat(address: int, arguments: Any, count: int) -> None:
    _repeater()(ctypes.c_void_p(address), arguments, ctypes.c_long(count))


_REPEATERS: list[Any] = []


def _repeater() -> Any:
    if not _REPEATERS:
        _REPEATERS.append(compile_c(_REPEAT, "-O2").repeat)
    return _REPEATERS[0]


def measure(case: Case, rounds: int) -> Row:
    """The fastest form of each flag is found with few rounds, then timed beside the default."""
    first = sample(case, list(case.functions), 3)
    chosen = {"default": "default"}
    for flag in FLAGS:
        chosen[flag] = min((n for n in first if n.startswith(flag)), key=first.__getitem__)
    times = sample(case, list(chosen.values()), rounds)
    t = {role: times[n] for role, n in chosen.items()}
    form = chosen["-O3"].removeprefix("-O3 ")
    return Row(case.name, t["default"], t["-O3"], t["-ffast-math"], form, case.seconds)


def sample(case: Case, names: list[str], rounds: int, least_us: float = 300.0) -> dict[str, float]:
    """Minimum microseconds of one call; contenders in turn, each sample of at least least_us."""
    repeats = {}
    for n in names:
        f, arguments = case.functions[n]
        _repeat(f, arguments, 1)
        start = time.perf_counter()
        _repeat(f, arguments, 1)
        once = max((time.perf_counter() - start) * 1e6 - 1.0, 0.05)
        repeats[n] = max(1, int(least_us / once))
    best = dict.fromkeys(names, float("inf"))
    for _ in range(rounds):
        for n in names:
            f, arguments = case.functions[n]
            start = time.perf_counter()
            _repeat(f, arguments, repeats[n])
            best[n] = min(best[n], (time.perf_counter() - start) / repeats[n] * 1e6)
    return best


@contextlib.contextmanager
def locked(path: str | None, kind: int) -> Iterator[None]:
    """Hold a lock file that others hold while they measure (exclusive) or compile (shared)."""
    if path is None:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, kind)
        yield


def table(rows: list[Row]) -> str:
    lines = [
        f"{'program':22s} {'default us':>11s} {'-O3 us':>11s} {'ratio':>7s} {'fast-math':>10s}  {'text s':>6s}  form"
    ]
    for r in sorted(rows, key=lambda r: r.ratio):
        lines.append(
            f"{r.name:22s} {r.default:11.4g} {r.plain:11.4g} {r.ratio:7.2f} {r.fast / r.default:10.2f}"
            f"  {r.seconds:6.3f}  {r.form}"
        )
    behind = sum(r.ratio < 1 for r in rows)
    lines.append(f"{len(rows)} programs, {behind} slower than gcc -O3")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="programs (default: all)")
    parser.add_argument("--lock", help="a lock file shared with other measurements")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    names = options.names or list(PROGRAMS)
    default_schedule(PROGRAMS["add_tiny"](), target("native"))  # imports
    rows: list[Row] = []
    failed: list[str] = []
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    for n in range(0, len(names), BATCH):
        with locked(options.lock, fcntl.LOCK_SH):
            cases = [case for name in names[n : n + BATCH] if (case := attempt(name, failed)) is not None]
        with locked(options.lock, fcntl.LOCK_EX):
            quiet()
            rows += [measure(case, options.rounds) for case in cases]
        if cores is not None:
            os.sched_setaffinity(0, cores)
    print(table(rows))
    if failed:
        sys.exit("\n".join(["failed:", *failed]))


if __name__ == "__main__":
    main()
