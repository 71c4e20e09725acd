"""Measuring candidates in a child process: checked first, then timed side by side.

A candidate that crashes or hangs costs itself only: the child says what it is about to run, is
started again, and the rest of the batch goes on.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec
from tensordsl.autotune.records import Status
from tensordsl.autotune.worker import (
    Check,
    Checked,
    Command,
    Item,
    Ready,
    Reply,
    Time,
    Timed,
    Unloadable,
    Workplace,
)  # fmt: skip

from tensordsl.errors import TuneError

SAMPLE_US = 200.0
ROUNDS = 5
#: Rounds of the final comparison.
DUEL_ROUNDS = 21
#: A candidate is stopped when one sample takes this long, or this many times the limit given.
TIMEOUT_S = 10.0
_START_TIMEOUT_S = 60.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Job:
    """A compiled kernel to measure.  path: shared object; symbol: its function."""

    path: Path
    symbol: str
    workspace_bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """samples_us: time of one call, one value per round.  reference_us: the reference loop's."""

    status: Status
    error: str = ""
    samples_us: tuple[float, ...] = ()
    reference_us: tuple[float, ...] = ()

    @property
    def time_us(self) -> float:
        return min(self.samples_us) if self.status == "ok" and self.samples_us else float("inf")


class _Stopped(Exception):
    """The child is gone.  number: what it ran (-1: nothing of ours); status: why."""

    def __init__(self, number: int, status: Status, error: str) -> None:
        super().__init__(error)
        self.number, self.status, self.error = number, status, error


class Measurer:
    """Measures batches of candidates of one workload.  A context manager; not for threads."""

    def __init__(self, place: Workplace, timeout_s: float = TIMEOUT_S) -> None:
        self.place = place
        self.timeout_s = timeout_s
        self.restarts = 0
        self.pinned = -1
        self.reference_us = place.reference_us
        self._child: _Child | None = None

    def __enter__(self) -> Measurer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def measure(self, jobs: Sequence[Job], limit_us: float | None = None) -> list[Outcome]:
        """Check and time a batch.  limit_us: slower candidates are timed in one round only."""
        return self._run(jobs, ROUNDS, limit_us)

    def check(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Compare with what is expected, without timing."""
        return self._run(jobs, 0, None)

    def duel(self, jobs: Sequence[Job], rounds: int = DUEL_ROUNDS) -> list[Outcome]:
        """The final comparison, in a fresh process: sample n of every job is of the same round."""
        self.close()
        return self._run(jobs, rounds, None)

    def _run(self, jobs: Sequence[Job], rounds: int, limit_us: float | None) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        waiting = [Item(n, str(j.path), j.symbol, j.workspace_bytes) for n, j in enumerate(jobs)]
        idle_deaths = 0
        while len(outcomes) < len(jobs):
            rest = [i for i in waiting if i.number not in outcomes]
            try:
                outcomes.update(self._attempt(rest, rounds, limit_us, outcomes))
            except _Stopped as stop:
                self.restarts += 1
                self.close()
                if stop.number >= 0:
                    outcomes[stop.number] = Outcome(stop.status, stop.error)
                    continue
                idle_deaths += 1
                if idle_deaths > 2:
                    raise TuneError(
                        f"the measuring process keeps dying before it runs a kernel: {stop.error}",
                        hint="memory may be short, or another program ends it",
                    ) from None
        return [outcomes[n] for n in range(len(jobs))]

    def _attempt(
        self, items: Sequence[Item], rounds: int, limit_us: float | None, outcomes: dict[int, Outcome]
    ) -> dict[int, Outcome]:
        """Outcomes of what is left.  Failed checks are stored at once, in case the child dies later."""
        child = self._started()
        good: list[int] = []
        pending = list(items)
        while pending:
            child.send(Check(tuple(pending)))
            for item in list(pending):
                reply = child.receive(self.timeout_s)
                assert isinstance(reply, Checked)
                pending.remove(item)
                if reply.status == "ok":
                    good.append(item.number)
                    continue
                outcomes[item.number] = Outcome("wrong_result", reply.error)
                if reply.fatal:  # the child ended itself: what it had loaded is checked again
                    self.close()
                    raise _Stopped(item.number, "wrong_result", reply.error)
        if not rounds:
            return {n: Outcome("ok") for n in good}
        if not good:
            return {}
        child.send(Time(tuple(good), rounds, SAMPLE_US, limit_us))
        timed = child.receive(self.timeout_s)
        assert isinstance(timed, Timed)
        self.reference_us = min([*timed.reference_us, *([self.reference_us] if self.reference_us else [])])
        reference = tuple(round(t, 3) for t in timed.reference_us)
        return {
            n: Outcome("ok", "", tuple(round(t, 4) for t in samples), reference)
            for n, samples in timed.samples_us.items()
        }

    def _started(self) -> _Child:
        if self._child is None:
            self._child = _Child(msgspec.structs.replace(self.place, reference_us=self.reference_us))
            self.pinned = self._child.pinned
        return self._child


class _Child:
    """The measuring process and the pipes to it."""

    def __init__(self, place: Workplace) -> None:
        with room_for_files():
            self._folder = tempfile.TemporaryDirectory(prefix="tensordsl-measure-")
            path = Path(self._folder.name) / "progress"
            path.write_bytes((-1).to_bytes(8, "little", signed=True) + bytes(8))
            with open(path, "r+b") as file:
                self._progress = mmap.mmap(file.fileno(), 16)
            self._errors = open(Path(self._folder.name) / "errors", "w+b")  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tensordsl.autotune.worker", str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        self._buffer = b""
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Reply).decode
        try:
            self.send(place)
            ready = self.receive(_START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise
        assert isinstance(ready, Ready)
        self.pinned = ready.pinned

    def send(self, message: Workplace | Command) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(self._encode(message) + b"\n")
        except OSError:
            raise self._death() from None

    def receive(self, timeout_s: float) -> Reply:
        """The next reply.  Raises _Stopped when the child died or one run took too long, and
        TuneError where it could not load a kernel."""
        reply: Reply = self._decode(self._line(timeout_s))
        if isinstance(reply, Unloadable):
            raise TuneError(
                f"a compiled kernel cannot be loaded: {reply.reason}",
                hint="was the folder of compiled kernels cleared meanwhile?  Run again: what was measured is kept",
            )
        return reply

    def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        source = self._process.stdout.fileno()
        quiet_since = time.monotonic()
        while b"\n" not in self._buffer:
            if select.select([source], [], [], _POLL_S)[0]:
                data = os.read(source, 1 << 16)
                if not data:
                    raise self._death()
                self._buffer += data
                continue
            number, since = self._running()
            now = time.monotonic()
            began = since if number >= 0 else quiet_since
            allowed = timeout_s if number >= 0 else max(_START_TIMEOUT_S, timeout_s)
            if number >= 0:
                quiet_since = now
            if now - began > allowed:
                self._process.kill()
                raise _Stopped(number, "timeout", f"one sample took longer than {timeout_s:g} s")
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _running(self) -> tuple[int, float]:
        """What the child runs (-1: nothing) and since when (seconds of the monotonic clock)."""
        raw = self._progress[:16]
        return int.from_bytes(raw[:8], "little", signed=True), int.from_bytes(raw[8:], "little") / 1e9

    def _death(self) -> _Stopped:
        number, _ = self._running()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        code = self._process.poll()
        self._errors.seek(0)
        said = self._errors.read()[-2000:].decode(errors="replace").strip().splitlines()
        reason = _signal_name(-code) if code is not None and code < 0 else f"it ended with status {code}"
        return _Stopped(number, "crash", reason + (f": {said[-1]}" if said and number < 0 else ""))

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._errors.close()
        self._progress.close()
        self._folder.cleanup()


@contextlib.contextmanager
def room_for_files() -> Iterator[None]:
    """Turns failures to write temporary files into a TuneError that says where."""
    try:
        yield
    except OSError as error:  # numpy gives no errno where a disk is full
        reason = error.strerror or str(error)
        raise TuneError(
            f"temporary files cannot be written in {os.environ.get('TMPDIR') or '/tmp'}: {reason}",
            hint="inputs and expected results are kept there meanwhile: make room, or set TMPDIR to another disk",
        ) from None


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def measuring_core() -> int | None:
    """The core for the child: the last one allowed, where there are at least two."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1] if len(allowed) > 1 else None


@contextlib.contextmanager
def off_the_measuring_core() -> Iterator[None]:
    """Keep this thread (and the compilers it starts) away from the core that measures."""
    core = measuring_core()
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, before - {core})
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
