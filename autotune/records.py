"""Tuning logs: JSON lines, appended as they are measured, readable by eye.

One file per target and operator: ``<log_dir>/<target>/<operator>.jsonl``.  A record holds the
closed trace of its schedule, so it replays without the rules that proposed it.  Nothing in a log
is ever executed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from tensordsl.autotune.workload import Workload

from tensordsl.errors import RecordError, ScheduleError

SCHEMA = 1

#: A time of one call in microseconds.
Sample = Annotated[float, msgspec.Meta(gt=0)]

#: ok: measured and right.  The others say why a candidate has no time.
Status = Literal["ok", "build_error", "wrong_result", "timeout", "crash", "invalid"]
#: candidate: one trial of a search.  winner: what the final, paired comparison chose.
Kind = Literal["candidate", "winner"]

_LOCK_SECONDS = 30.0  # another process holds a log for the time of one write


class Processor(msgspec.Struct, frozen=True):
    """The machine a time was measured on."""

    vendor: str = ""
    family: int = 0
    model: int = 0
    name: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measurement.

    names: (tensor, its axes...) in canonical order, by which the trace of one program replays on
    another of the same structure.  samples_us: time of one call in each round.  reference_us: the
    machine's reference loop beside them.  default_us: samples of the default schedule taken
    in the same rounds (winners only).  gain: default time / time, from paired rounds, with the
    bounds of its confidence interval.  date: UTC, ISO 8601.
    """

    schema: int = msgspec.field(default_factory=lambda: SCHEMA)  # a factory: never left out
    kind: Kind = "candidate"
    operator: str
    workload: Workload
    toolchain: str
    processor: Processor = Processor()
    names: tuple[tuple[str, ...], ...] = ()
    sketch: str
    params: dict[str, int] = {}
    trace: Any = None
    status: Status
    error: str = ""
    samples_us: tuple[Sample, ...] = ()
    reference_us: tuple[Sample, ...] = ()
    default_us: tuple[Sample, ...] = ()
    gain: tuple[float, float, float] | None = None
    date: str = ""

    @property
    def time_us(self) -> float:
        """The minimum of the rounds (inf where there is no time)."""
        return min(self.samples_us) if self.status == "ok" and self.samples_us else float("inf")

    @property
    def candidate(self) -> tuple[str, tuple[tuple[str, int], ...]]:
        """What was tried, as a key."""
        return self.sketch, tuple(sorted(self.params.items()))


class Problem(msgspec.Struct, frozen=True):
    """A line of a log that cannot be used.  line: from 1."""

    path: str
    line: int
    reason: str
    torn: bool = False

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


class _Header(msgspec.Struct):
    schema: int


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Record)
_HEADER = msgspec.json.Decoder(_Header)


def file_name(name: str) -> str:
    """A name as a file name: anything unusual becomes an underscore."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", name).lstrip(".") or "_"


class Log:
    """One log file.  Appending is safe among processes; reading never fails on a bad line."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @staticmethod
    def of(directory: str | os.PathLike[str], workload: Workload, operator: str) -> Log:
        """The file of an operator on a target."""
        return Log(Path(directory) / file_name(workload.target) / f"{file_name(operator)}.jsonl")

    def append(self, record: Record) -> None:
        """Write one line, whole or not at all; a winner is also forced to the disk.

        Raises RecordError where the log cannot be written.
        """
        data = _ENCODER.encode(record) + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock():
                self._write(data, sync=record.kind == "winner")
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise RecordError(
                f"cannot write the tuning log {self.path}: {'the disk is full' if full else error.strerror or error}",
                hint="what was measured before is in the log; with room, or another --log-dir, the search goes on",
            ) from error

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        import filelock

        try:
            with filelock.FileLock(f"{self.path}.lock", timeout=_LOCK_SECONDS):
                yield
        except filelock.Timeout as error:
            raise RecordError(
                f"the tuning log {self.path} has been locked for {_LOCK_SECONDS:g} s",
                hint="another process is writing to it; try again when it is done",
            ) from error

    def _write(self, data: bytes, sync: bool) -> None:
        with open(self.path, "ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # a torn line: leave it alone, start a new one
                    data = b"\n" + data
            try:
                written = 0
                while written < len(data):
                    written += file.write(data[written:])
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise

    def scan(self, containing: str = "") -> Iterator[Record | Problem]:
        """Every line as a record or as the reason why it is none.  containing: only lines with
        this text (a digest) are decoded.  Raises RecordError where the file cannot be read."""
        return (item for _, item in self._numbered(containing))

    def _numbered(self, containing: str = "") -> Iterator[tuple[int, Record | Problem]]:
        needle = containing.encode()
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise RecordError(f"cannot read the tuning log {self.path}: {error.strerror}") from error
        lines = data.split(b"\n")
        last = len(lines) - 1
        for number, line in enumerate(lines):
            if line.strip() and needle in line:
                yield number + 1, self._parse(line, number + 1, torn=number == last)

    def _parse(self, line: bytes, number: int, torn: bool) -> Record | Problem:
        try:
            schema = _HEADER.decode(line).schema
            if schema != SCHEMA:
                newer = "a newer version of tensordsl" if schema > SCHEMA else "an older version of tensordsl"
                return Problem(str(self.path), number, f"schema {schema}, written by {newer}; this one reads {SCHEMA}")
            return _DECODER.decode(line)
        except msgspec.ValidationError as error:
            return Problem(str(self.path), number, f"not a record: {error}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if torn:
                return Problem(str(self.path), number, "torn: the writer was stopped in this line", torn=True)
            return Problem(str(self.path), number, f"damaged: {error}")

    def read(self, containing: str = "") -> list[Record]:
        """The usable records, oldest first; a warning names what was skipped."""
        found: list[Record] = []
        problems: list[Problem] = []
        for item in self.scan(containing):
            (found if isinstance(item, Record) else problems).append(item)  # type: ignore[arg-type]
        _warn(problems)
        return found

    def check(self) -> int:
        """The number of records.  Raises RecordError for the first line that is none, or whose
        schedule cannot be read."""
        count = 0
        for number, item in self._numbered():
            problem = item if isinstance(item, Problem) else self._trace_problem(item, number)
            if problem is not None:
                hint = "remove the line; it is skipped otherwise" if problem.torn else "correct or remove the line"
                raise RecordError(str(problem), hint=hint)
            count += 1
        return count

    def _trace_problem(self, record: Record, number: int) -> Problem | None:
        from tensordsl.schedules.trace import Trace

        try:
            if record.trace is not None or record.status == "ok":
                Trace.from_json(record.trace)
        except ScheduleError as error:
            return Problem(str(self.path), number, f"not a schedule: {error.message}")
        return None


_WARNED: set[tuple[str, int, str]] = set()


def _warn(problems: Iterable[Problem]) -> None:
    """Say once per line of a process what was skipped."""
    fresh = [p for p in problems if (p.path, p.line, p.reason) not in _WARNED]
    for p in fresh[:3]:
        warnings.warn(f"tuning log line skipped: {p}", stacklevel=3)
    if len(fresh) > 3:
        warnings.warn(f"{len(fresh) - 3} more lines skipped in {fresh[0].path}", stacklevel=3)
    _WARNED.update((p.path, p.line, p.reason) for p in fresh)


def logs(directory: str | os.PathLike[str], target: str | None = None) -> list[Log]:
    """Every log of a directory (of one target, or of all), sorted by path.  The directory may also
    be that of a single target, or one log."""
    base = Path(directory)
    if base.is_file():
        return [Log(base)]
    if target:
        return [Log(p) for p in sorted(base.glob(f"{file_name(target)}/*.jsonl"))]
    return [Log(p) for p in sorted([*base.glob("*.jsonl"), *base.glob("*/*.jsonl")])]
