"""The process that runs candidates: it may crash or hang, and says beforehand what it is about to run.

Started by `measure.py` as ``python -m tensordsl.autotune.worker``; one JSON message a line each way.
Inputs are shared as .npy files.  Every array lies between red zones of poison: a read past an input
poisons the result, a write past an output is found.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from tensordsl.codegen.runtime import CallStruct

from tensordsl.dtypes import ALL

_ZONE = 4096  # bytes on each side of an array
_POISON = 0xFF  # four of them are a NaN in every float type, and -1 in every integer type
_SLOW_PHASE = 1.15  # times the best reference time, past which a round is repeated
_PAUSE_S = 0.1
_PATIENCE = 8  # repeated rounds per batch


class Parameter(msgspec.Struct, frozen=True):
    """A kernel's parameter.  role: scalar (by value), input, inplace or output, as in a `Kernel`."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Literal["scalar", "input", "inplace", "output"]


class Case(msgspec.Struct, frozen=True):
    """Inputs and what must come out.  Files ``<name>.<parameter>.npy``: inputs under ``in``, expected
    values under ``out``, allowed differences under ``tol`` (none: bitwise equality)."""

    name: str
    exact: bool


class Workplace(msgspec.Struct, frozen=True):
    """What does not change between candidates.  cold_bytes: memory to write between calls (0: warm).
    core: where to run.  reference_us: the least time of the reference loop seen so far."""

    folder: str
    parameters: tuple[Parameter, ...]
    cases: tuple[Case, ...]
    timing_library: str
    reference_steps: int
    cold_bytes: int = 0
    core: int | None = None
    reference_us: float | None = None


class Item(msgspec.Struct, frozen=True):
    """A compiled candidate."""

    number: int
    path: str
    symbol: str
    workspace_bytes: int


class Check(msgspec.Struct, tag="check", frozen=True):
    items: tuple[Item, ...]


class Time(msgspec.Struct, tag="time", frozen=True):
    """rounds: interleaved rounds.  sample_us: length of one sample, or one call where that is longer.
    slow_us: a candidate slower than this is measured in one round only."""

    numbers: tuple[int, ...]
    rounds: int
    sample_us: float
    slow_us: float | None


Command = Check | Time


class Checked(msgspec.Struct, tag="checked", frozen=True):
    """status: ok or wrong_result.  fatal: foreign memory was written, so the process ends itself.
    time_us: a first estimate."""

    number: int
    status: str
    error: str = ""
    fatal: bool = False
    time_us: float = 0.0


class Timed(msgspec.Struct, tag="timed", frozen=True):
    """samples_us: time of one call per round, by candidate.  reference_us: before each round."""

    samples_us: dict[int, list[float]]
    reference_us: list[float]


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """pinned: the core this process runs on, -1 where it could not be fixed."""

    pinned: int


class Unloadable(msgspec.Struct, tag="unloadable", frozen=True):
    """A shared object that the system does not load; the process ends.  reason: the system's words."""

    reason: str


Reply = Checked | Timed | Ready | Unloadable


class Guarded:
    """An array between red zones, its first element aligned to a cache line."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.raw = np.full(size + 2 * _ZONE + 64, _POISON, dtype=np.uint8)
        begin = _ZONE + (-(self.raw.ctypes.data + _ZONE)) % 64
        self.before = self.raw[:begin]
        self.after = self.raw[begin + size :]
        self.bytes = self.raw[begin : begin + size]
        self.array = self.bytes.view(dtype).reshape(shape)
        self.address = self.bytes.ctypes.data if size else self.raw.ctypes.data + begin

    def poison(self) -> None:
        self.bytes[:] = _POISON

    def intact(self) -> bool:
        return bool((self.before == _POISON).all() and (self.after == _POISON).all())


class Worker:
    def __init__(self, place: Workplace, progress: mmap.mmap) -> None:
        self.place = place
        self.progress = progress
        self.timing = _load(place.timing_library)
        for name in ("tuner_time", "tuner_time_cold", "tuner_reference"):
            getattr(self.timing, name).restype = ctypes.c_int64
        self.buffers = [Guarded(p.shape, ALL[p.dtype].numpy) for p in place.parameters]
        pointers = (ctypes.c_void_p * max(1, len(self.buffers)))(*[b.address for b in self.buffers])
        self.pointers = pointers
        self.workspace = Guarded((0,), np.dtype("uint8"))
        self.call = CallStruct(size=ctypes.sizeof(CallStruct))
        self.flush = np.zeros(max(1, place.cold_bytes), dtype=np.uint8)
        self.loaded: dict[int, tuple[Any, Item]] = {}
        self.estimates: dict[int, float] = {}
        self.best_reference = place.reference_us or float("inf")
        self._filled = ""

    # ------------------------------------------------------------ running

    def announce(self, number: int) -> None:
        """Say what runs from now on (-1: nothing), where the parent finds it after a crash."""
        self.progress[:16] = int(number).to_bytes(8, "little", signed=True) + time.monotonic_ns().to_bytes(8, "little")

    def run(self, number: int, count: int) -> float:
        """Nanoseconds of ``count`` calls.  Raises ValueError for a return code other than 0."""
        function, item = self.loaded[number]
        self._workspace(item.workspace_bytes)
        code = ctypes.c_int32()
        arguments = [function, ctypes.byref(self.call), self.pointers, ctypes.c_int64(count), ctypes.byref(code)]
        self.announce(number)
        if self.place.cold_bytes:
            flush = ctypes.c_void_p(self.flush.ctypes.data), ctypes.c_int64(self.place.cold_bytes)
            taken = self.timing.tuner_time_cold(*arguments, *flush)
        else:
            taken = self.timing.tuner_time(*arguments)
        self.announce(-1)
        if code.value:
            raise ValueError(f"the kernel returned {code.value}")
        return float(taken)

    def _workspace(self, size: int) -> None:
        if size > self.workspace.array.size:
            self.workspace = Guarded((size,), np.dtype("uint8"))
        self.call.workspace = self.workspace.address if size else None
        self.call.workspace_bytes = size

    # ------------------------------------------------------------ checking

    def check(self, item: Item) -> Checked:
        """Run every case once and compare."""
        library = _load(item.path)
        self.loaded[item.number] = (ctypes.cast(getattr(library, item.symbol), ctypes.c_void_p), item)
        taken = 0.0
        for case in self.place.cases:
            self._fill(case)
            self.workspace.poison()
            try:
                taken = self.run(item.number, 1)
                problem = self._compare(case, item)
            except ValueError as error:
                problem = str(error)
            if problem:
                self._filled = ""  # the inputs may have changed
                fatal = not all(b.intact() for b in (*self.buffers, self.workspace))
                return Checked(item.number, "wrong_result", f"{case.name} inputs: {problem}", fatal)
        self.estimates[item.number] = taken
        return Checked(item.number, "ok", time_us=taken / 1e3)

    def _file(self, case: Case, kind: str, p: Parameter) -> np.ndarray[Any, Any]:
        path = Path(self.place.folder) / f"{case.name}.{kind}.{p.name}.npy"
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array.view(ALL[p.dtype].numpy) if kind == "in" else array

    def _fill(self, case: Case) -> None:
        """Inputs of the case; outputs poisoned."""
        for p, b in zip(self.place.parameters, self.buffers):
            if p.role == "output":
                b.poison()
            elif p.role == "inplace" or self._filled != case.name:
                b.array[...] = self._file(case, "in", p)
        self._filled = case.name

    def _compare(self, case: Case, item: Item) -> str:
        """What is wrong with the outputs, "" where nothing is."""
        for p, b in zip(self.place.parameters, self.buffers):
            if not b.intact():
                return f"it writes outside of {p.name}"
            if p.role in ("scalar", "input"):
                if not _same_bytes(b.array, self._file(case, "in", p)):
                    return f"it writes to the input {p.name}"
                continue
            expected = self._file(case, "out", p)
            if case.exact or not ALL[p.dtype].is_inexact:
                wrong = b.array != expected.astype(b.array.dtype)
            else:
                wrong = _outside(b.array, expected, self._file(case, "tol", p))
            if wrong.any():
                return _describe(p, b.array, expected, wrong)
        if not self.workspace.intact():
            return f"it writes outside of its workspace of {item.workspace_bytes} bytes"
        return ""

    # ------------------------------------------------------------ timing

    def time(self, command: Time) -> Timed:
        """Round-robin over the candidates, the reference loop before each round."""
        self._fill(self.place.cases[-1])
        samples: dict[int, list[float]] = {n: [] for n in command.numbers}
        counts = {n: self._count(n, command.sample_us) for n in command.numbers}
        references: list[float] = []
        patience = _PATIENCE
        done = 0
        while done < command.rounds:
            before = self._reference()
            taken = {
                n: self.run(n, counts[n]) / counts[n] / 1e3
                for n in command.numbers
                if done == 0 or command.slow_us is None or min(samples[n]) <= command.slow_us
            }
            after = self._reference()
            if max(before, after) > _SLOW_PHASE * self.best_reference and patience:
                patience -= 1
                time.sleep(_PAUSE_S)
                continue
            references.append(before)
            for n, t in taken.items():
                samples[n].append(t)
            done += 1
        return Timed(samples, references)

    def _count(self, number: int, sample_us: float) -> int:
        """Calls that fill a sample; the estimate of the check is of a first call, so ask once more."""
        if self.place.cold_bytes:
            return 1
        estimate = min(self.estimates[number], self.run(number, 1))
        return max(1, round(sample_us * 1e3 / max(estimate, 20.0)))

    def _reference(self) -> float:
        taken = float(self.timing.tuner_reference(ctypes.c_int64(self.place.reference_steps))) / 1e3
        self.best_reference = min(self.best_reference, taken)
        return taken


class _NotLoaded(Exception):
    """A shared object that the system does not load."""


def _load(path: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise _NotLoaded(str(error)) from None


def _same_bytes(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b.astype(a.dtype)).tobytes()


def _outside(
    found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], tolerance: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Where a result is further from the reference than allowed; infinities and NaN must agree."""
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = expected.astype(found.dtype)
        close = (np.abs(found.astype(expected.dtype) - expected) <= tolerance) | np.isinf(tolerance)  # may overflow
    same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
    result: np.ndarray[Any, Any] = ~(close | same)
    return result


def _describe(
    p: Parameter, found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], wrong: np.ndarray[Any, Any]
) -> str:
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    count = int(wrong.sum())
    place = f"{p.name}[{', '.join(map(str, where))}]"
    return f"{place} is {found[where]!s}, not {expected[where]!s} ({count} of {wrong.size} elements differ)"


def _pin(core: int | None) -> int:
    if core is None or not hasattr(os, "sched_setaffinity"):
        return -1
    try:
        os.sched_setaffinity(0, {core})
    except OSError:
        return -1
    return core


def _end_with_parent() -> None:
    """A parent that is killed cannot end a hanging kernel: ask the system to (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL


def main() -> None:
    """Serve commands until the input ends.  Arguments: the progress file."""
    _end_with_parent()
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a kernel prints must not look like a reply
    with open(sys.argv[1], "r+b") as file:
        progress = mmap.mmap(file.fileno(), 16)
    encode = msgspec.json.Encoder().encode
    decode = msgspec.json.Decoder(Command).decode
    place = msgspec.json.decode(sys.stdin.buffer.readline(), type=Workplace)
    pinned = _pin(place.core)
    try:
        worker = Worker(place, progress)
        replies.write(encode(Ready(pinned)) + b"\n")
        for line in sys.stdin.buffer:
            command = decode(line)
            if isinstance(command, Check):
                for item in command.items:
                    reply = worker.check(item)
                    replies.write(encode(reply) + b"\n")
                    if reply.fatal:
                        os._exit(0)
            else:
                replies.write(encode(worker.time(command)) + b"\n")
    except _NotLoaded as error:
        replies.write(encode(Unloadable(str(error))) + b"\n")


if __name__ == "__main__":
    main()
