"""The C compiler: which one, which version, and how it is called.

A compiler's failure is an error of the text it was given (`compile_unit` says which lines), of the
disk, or of the compiler itself; each is reported as what it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tensordsl.errors import BuildError
from tensordsl.settings import settings
from tensordsl.targets import Target

#: gcc -O1 loses a third of the speed (no contraction into fused multiply-adds); -ffast-math removes
#: the rounding steps that the vector math relies on.  Neither may appear here.
#: no-trapping-math: selects may be computed on both sides (no value changes); contraction is named
#: because gcc and clang differ in their default.
BASE_FLAGS = (
    "-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=fast", "-fno-strict-aliasing", "-fno-asynchronous-unwind-tables",
)  # fmt: skip
#: gcc 12 turns a guarded scalar load (``j < 7 ? p[j] : 0``) into a masked one, and that into a blend which reads
#: the whole vector, past the end of the array; kernels with vector loops have no such loop to lose.
#: It also takes the bound of a partial tile (``j < min(2, 19 - 2*i)``) for its count, and reads what a full one would.
GCC_FLAGS = ("-fno-tree-loop-if-convert", "-fno-aggressive-loop-optimizations")
#: Generated kernels spread over 20 candidates take 1 to 2 s; beyond this a candidate is hopeless.
TIMEOUT_S = 60.0
#: Lines of C shown on each side of a compiler's error.
CONTEXT_LINES = 2
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_DIAGNOSTIC = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+):(?:\d+:)? (?P<kind>fatal error|error): (?P<text>.*)$", re.M)


class Diagnostic(NamedTuple):
    """One error of the compiler: a line of the unit (1-based) and the compiler's words."""

    line: int
    text: str


class CompileFailure(Exception):
    """A unit that did not compile.  diagnostics: may be empty (a crash, a time limit)."""

    def __init__(self, message: str, diagnostics: Sequence[Diagnostic] = (), output: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.diagnostics = tuple(diagnostics)
        self.output = output


@dataclass(frozen=True, slots=True)
class Toolchain:
    """command: the compiler and its fixed arguments; kind: gcc or clang; version: as it says itself;
    machine: the machine it compiles for, such as x86_64-linux-gnu.
    """

    command: tuple[str, ...]
    kind: str
    version: str
    machine: str

    @property
    def id(self) -> str:
        """Names the compiler in cache keys and records: compilers with equal ids give equal code."""
        return f"{self.kind}-{self.version}-{self.machine}"

    def flags(self, target: Target, extra: Sequence[str] = ()) -> tuple[str, ...]:
        """Flags for code of a target, without those that say what is produced.

        Raises BuildError where this compiler is one for another architecture.
        """
        if target.architecture and self.architecture and target.architecture != self.architecture:
            raise BuildError(
                f"{self} compiles for {self.architecture}, the target {target} needs {target.architecture}",
                hint=f"set TD_CC to a compiler for it: {target.architecture}-linux-gnu-gcc, or "
                f'"clang --target={target.architecture}-linux-gnu"',
            )
        own = GCC_FLAGS if self.kind == "gcc" else ()
        return (*BASE_FLAGS, *own, *target.compiler_flags, *extra)

    @property
    def architecture(self) -> str:
        """x86_64 or aarch64; "" for others, which the targets do not tell apart."""
        return _ARCHITECTURES.get(self.machine.split("-")[0].lower(), "")

    def companion(self, name: str) -> str | None:
        """The program ``name`` (ar, objcopy) that reads what this compiler writes; None: not installed."""
        names = [name, f"llvm-{name}"]
        if self.kind == "clang" and self.architecture != _ARCHITECTURES.get(platform.machine().lower(), ""):
            names.reverse()  # those of the system know its own machine only
        for wanted in names:
            asked = subprocess.run(
                [*self.command, f"-print-prog-name={wanted}"], capture_output=True, text=True, timeout=TIMEOUT_S
            )
            found = shutil.which(asked.stdout.strip() or wanted) or shutil.which(wanted)
            if found:
                return found
        return None

    def __str__(self) -> str:
        return f"{self.kind} {self.version} ({self.machine})"


def toolchain(command: str | None = None) -> Toolchain:
    """The compiler named, or TD_CC, or CC, or the first of gcc, clang and cc that is installed.

    Raises BuildError where there is none.
    """
    named = command or settings().cc
    candidates = [named] if named else ["gcc", "clang", "cc"]
    for candidate in candidates:
        words = shlex.split(candidate)
        path = shutil.which(words[0]) if words else None
        if path:
            return _identify((path, *words[1:]), os.stat(path).st_mtime_ns)
    what = f"the C compiler {named!r} is not installed" if named else "no C compiler is installed"
    raise BuildError(
        what,
        hint="install gcc or clang (Debian: apt install gcc; macOS: xcode-select --install), or set TD_CC; without a "
        "compiler everything up to the C text works: interpret, schedules, their validation, to_c",
    )


@lru_cache(maxsize=16)
def _identify(command: tuple[str, ...], changed_ns: int) -> Toolchain:
    """Ask a compiler what it is (changed_ns: so that a replaced compiler is asked again)."""
    try:
        macros = subprocess.run(
            [*command, "-dM", "-E", "-x", "c", os.devnull], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        machine = subprocess.run([*command, "-dumpmachine"], capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{shlex.join(command)} cannot be run: {error}", hint="set TD_CC to gcc or clang") from None
    defined = dict(re.findall(r"^#define (\w+) (.*)$", macros.stdout, re.M))
    if macros.returncode or "__GNUC__" not in defined:
        raise BuildError(
            f"{shlex.join(command)} is not gcc or clang (it does not define __GNUC__)",
            context=_first_lines(macros.stderr) or None,
            hint="generated code uses the vector extensions of gcc and clang; set TD_CC to one of them",
        )
    kind = "clang" if "__clang__" in defined else "gcc"
    parts = ("__clang_major__", "__clang_minor__", "__clang_patchlevel__")
    if kind == "gcc":
        parts = ("__GNUC__", "__GNUC_MINOR__", "__GNUC_PATCHLEVEL__")
    version = ".".join(defined.get(p, "0") for p in parts)
    return Toolchain(command, kind, version, machine.stdout.strip() or sys.platform)


def compile_unit(
    tools: Toolchain, text: str, output: Path, flags: Sequence[str], timeout_s: float = TIMEOUT_S,
    running: Running | None = None,
) -> None:  # fmt: skip
    """Compile one unit into ``output``, whose folder also takes the text and temporary files.

    flags: all of them, such as -shared or -c.  Raises CompileFailure for what the text causes and
    BuildError for what it does not (full disk, missing compiler).
    """
    source = output.with_suffix(".c")
    write_text(source, text)
    libraries = ["-lm"] if "-shared" in flags else []
    run(tools.command, ["-pipe", *flags, source.name, "-o", output.name, *libraries], output.parent, timeout_s, running)
    if not output.exists():
        raise CompileFailure(f"{tools.kind} wrote no output")


class Running:
    """The compilers at work, so that an interrupted caller can end them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def add(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.add(process)
            stopped = self._stopped
        if stopped:
            _kill_group(process)

    def discard(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.discard(process)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            processes = list(self._processes)
        for process in processes:
            _kill_group(process)


def run(
    command: Sequence[str], arguments: Sequence[str], folder: Path, timeout_s: float = TIMEOUT_S,
    running: Running | None = None,
) -> str:  # fmt: skip
    """Run a tool in a folder and return what it printed.  It and its children are gone afterwards."""
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}
    try:
        process = subprocess.Popen(
            [*command, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise BuildError(
            f"{command[0]} cannot be run: {error.strerror}", hint="install gcc or clang, or set TD_CC"
        ) from None
    try:
        if running:
            running.add(process)
        printed, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise CompileFailure(f"compiling took longer than {timeout_s:g} s") from None
    finally:
        if process.poll() is None:
            _kill_group(process)
            process.communicate()
        if running:
            running.discard(process)
    if process.returncode == 0:
        return printed
    if _DISK_FULL.search(printed):
        raise disk_full(folder)
    found = [Diagnostic(int(m["line"]), m["text"]) for m in _DIAGNOSTIC.finditer(printed)]
    reason = found[0].text if found else (_first_lines(printed, 1) or _ending(process.returncode))
    raise CompileFailure(f"{Path(command[0]).name}: {reason}", found, printed)


def _ending(status: int) -> str:
    """How a tool that printed nothing ended."""
    with contextlib.suppress(ValueError):
        if status < 0:
            return f"it crashed ({signal.Signals(-status).name})"
    return f"exit status {status}"


def _kill_group(process: subprocess.Popen[str]) -> None:
    """End a tool and the passes it started (they are a session of their own)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def excerpt(text: str, diagnostics: Sequence[Diagnostic], most: int = 3) -> str:
    """The compiler's first errors and the lines of C around them."""
    lines = text.splitlines()
    shown: list[str] = []
    for d in diagnostics[:most]:
        shown.append(f"error: {d.text}")
        for n in range(max(1, d.line - CONTEXT_LINES), min(len(lines), d.line + CONTEXT_LINES) + 1):
            shown.append(f"{'>' if n == d.line else ' '}{n:5d} | {lines[n - 1]}")
    if len(diagnostics) > most:
        shown.append(f"and {len(diagnostics) - most} more errors")
    return "\n".join(shown)


def _first_lines(text: str, most: int = 5) -> str:
    return "\n".join([line for line in text.splitlines() if line.strip()][:most])


def disk_full(folder: Path) -> BuildError:
    disk = folder.absolute()
    while not disk.is_mount() and disk != disk.parent:
        disk = disk.parent
    return BuildError(
        f"the disk is full: nothing more can be written in {disk}",
        hint="free some space, or choose a folder on another disk (TD_CACHE_DIR for compiled kernels); "
        "nothing half-written was kept",
    )


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.  Raises BuildError for a full disk or a folder not ours."""
    try:
        path.write_bytes(data)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise storage_error(error, path) from None


def storage_error(error: OSError, path: Path, hint: str = "") -> BuildError:
    """The BuildError for a failed write.  hint: how to choose another place."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(path.parent)
    return BuildError(
        f"{path} cannot be written: {error.strerror or error}",
        hint=hint or "check the permissions of that folder, or choose another",
    )
