"""Runs compiled kernels where they can do no harm, at the edge of memory.

Every array ends where a forbidden page begins, or begins where one ends, so that reading or writing
one element too many kills the process; outputs are poisoned, the bytes on the other side watched.
Each kernel runs in a process of its own, forked from a small one.

    python -m tests.kernel_runner jobs.json        # prints one verdict a job, in order
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensordsl.codegen.compile import CompiledKernel
from tensordsl.codegen.runtime import _SCALARS, CallStruct, parameters
from tensordsl.schedules.loopnest import LoopNest

from tensordsl.dtypes import ALL

ROOT = Path(__file__).parent.parent
PAGE = mmap.PAGESIZE
#: Seconds a kernel of a test may take; a damaged one may never end.
LIMIT_S = 5
#: Exit codes of the process of one kernel.
VERDICTS = {0: "right", 10: "wrong value", 11: "wrote outside", 12: "changed an input", 13: "return code"}
_FILL = 0xA5  # in floats -3e-16, in integers a large number


@dataclass(frozen=True, slots=True)
class Job:
    """library, symbol: the kernel; parameters: (name, dtype, shape, role) in calling order; data: an
    .npz made by `save`; trials: how many there are in it."""

    library: str
    symbol: str
    parameters: tuple[tuple[str, str, tuple[int, ...], str], ...]
    workspace_bytes: int
    data: str
    trials: int


def job(kernel: CompiledKernel, nest: LoopNest, data: Path, trials: int) -> Job:
    described = tuple((p.name, p.dtype.name, p.shape, p.role) for p in parameters(nest))
    return Job(str(kernel.path), kernel.symbol, described, kernel.source.workspace_bytes, str(data), trials)


Arrays = dict[str, np.ndarray[Any, Any]]


def save(path: Path, nest: LoopNest, trials: Sequence[tuple[Arrays, Arrays, Arrays | None]]) -> None:
    """Inputs, expected outputs and bounds of the error (None: equal to the last bit) of each trial."""
    arrays = {}
    for k, (inputs, outputs, bounds) in enumerate(trials):
        for p in parameters(nest):
            if p.role != "output":
                given = np.asarray(inputs[p.name]).astype(p.dtype.numpy)
                # numpy's files know its own types only
                arrays[f"{k}/in/{p.name}"] = given if given.dtype.isbuiltin == 1 else given.view(f"u{given.itemsize}")
            output = p.name if p.role == "output" else p.output
            if output:
                arrays[f"{k}/out/{p.name}"] = np.asarray(outputs[output])
                if bounds is not None:
                    arrays[f"{k}/bound/{p.name}"] = np.asarray(bounds[output])
    np.savez(path, **arrays)


def run(jobs: Sequence[Job], folder: Path) -> list[str]:
    """The verdict on each kernel: "right", or what went wrong."""
    listing = folder / "jobs.json"
    listing.write_text(json.dumps([asdict(j) for j in jobs]))
    command = [sys.executable, "-m", "tests.kernel_runner", str(listing)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    verdicts = done.stdout.splitlines()
    assert len(verdicts) == len(jobs), done.stderr[-2000:]
    return verdicts


# ---------------------------------------------------------------- in the process of the runner


class Guarded:
    """Memory of some bytes between two forbidden pages; ``late``: it ends at the second one."""

    def __init__(self, size: int, late: bool) -> None:
        inner = -(-max(size, 1) // PAGE) * PAGE
        self.map = mmap.mmap(-1, inner + 2 * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (base, base + PAGE + inner):
            if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0):  # PROT_NONE
                raise OSError(ctypes.get_errno(), "mprotect")
        room = np.frombuffer((ctypes.c_char * inner).from_address(base + PAGE), np.uint8)
        room[:] = _FILL
        start = inner - size if late else 0
        self.bytes = room[start : start + size]
        self.outside = (room[:start], room[start + size :])
        self.address = base + PAGE + start

    def intact(self) -> bool:
        return all(bool((part == _FILL).all()) for part in self.outside)


_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_PARALLEL = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, _TASK, ctypes.c_void_p, ctypes.c_int64)


@_PARALLEL
def _backwards(pool: Any, task: Any, context: Any, count: int) -> int:
    """A parallel_for that runs one iteration after the other, the last one first."""
    for k in reversed(range(count)):
        task(context, k, k + 1)
    return 0


def execute(j: Job) -> int:
    """The exit code of one kernel (see `VERDICTS`)."""
    function = getattr(ctypes.CDLL(j.library), j.symbol)
    function.restype = ctypes.c_int32
    data = np.load(j.data)
    for trial in range(j.trials):
        for late in (True, False):
            own = {n.removeprefix(f"{trial}/"): data[n] for n in data.files if n.startswith(f"{trial}/")}
            for name, dtype, _, _ in j.parameters:
                if f"in/{name}" in own:
                    own[f"in/{name}"] = own[f"in/{name}"].view(ALL[dtype].numpy)
            code = _once(j, function, own, late)
            if code:
                return code
    return 0


def _once(j: Job, function: Any, arrays: dict[str, np.ndarray[Any, Any]], late: bool) -> int:
    memory: dict[str, Guarded] = {}
    arguments: list[Any] = []
    for name, dtype, shape, role in j.parameters:
        given = arrays.get(f"in/{name}")
        if role == "scalar":
            assert given is not None
            arguments.append(_SCALARS[dtype](given.tolist()))
            continue
        start = np.full(shape, np.nan if ALL[dtype].is_inexact else 0x5A, ALL[dtype].numpy) if given is None else given
        memory[name] = m = Guarded(start.nbytes, late)
        m.bytes[:] = np.frombuffer(np.ascontiguousarray(start).tobytes(), np.uint8)
        arguments.append(ctypes.c_void_p(m.address))
    # the kernel aligns the workspace itself: give it an odd address
    workspace = Guarded(j.workspace_bytes, late)
    call = CallStruct(size=ctypes.sizeof(CallStruct), workspace=workspace.address, workspace_bytes=j.workspace_bytes)
    call.parallel_for = ctypes.cast(_backwards, ctypes.c_void_p) if late else None
    if function(ctypes.byref(call), *arguments):
        return 13
    if not all(m.intact() for m in (*memory.values(), workspace)):
        return 11
    for name, dtype, shape, role in j.parameters:
        if role == "scalar":
            continue
        found = memory[name].bytes.tobytes()
        if role == "input":
            if found != arrays[f"in/{name}"].tobytes():
                return 12
        elif not _agrees(
            np.frombuffer(found, ALL[dtype].numpy).reshape(shape), arrays[f"out/{name}"], arrays.get(f"bound/{name}")
        ):
            return 10
    return 0


def _agrees(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], bound: np.ndarray[Any, Any] | None) -> bool:
    """Equality (zeros may have either sign), or the bound of the error."""
    if bound is None or not ALL[found.dtype.name].is_inexact:
        return np.array_equal(found, wanted.astype(found.dtype))
    return bool((np.abs(found.astype(wanted.dtype) - wanted) <= bound).all())


def main(listing: str) -> None:
    for fields in json.loads(Path(listing).read_text()):
        j = Job(**fields)
        child = os.fork()
        if child == 0:
            signal.setitimer(signal.ITIMER_REAL, LIMIT_S)  # its signal ends the process, also inside the kernel
            code = 1
            try:
                code = execute(j)
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            print("timeout" if number == signal.SIGALRM else f"crash: {signal.Signals(number).name}", flush=True)
        else:
            code = os.WEXITSTATUS(status)
            print(VERDICTS.get(code, f"exit code {code}"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
