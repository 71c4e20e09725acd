"""Every environment variable the compiler reads, in one typed table."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensordsl.errors import BuildError


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable: the field of `Settings` it sets, how its text is read, what it means."""

    name: str
    field: str
    parse: Callable[[str], Any]
    meaning: str


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("it must be at least 1")
    return value


def _size(text: str) -> int:
    """Bytes, with an optional unit K, M or G (powers of 1024)."""
    unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:].upper(), 1)
    return _positive(text[:-1] if unit > 1 else text) * unit


def _switch(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in known:
        raise ValueError("write 1 or 0")
    return known[text.lower()]


@dataclass(frozen=True, slots=True)
class Settings:
    """cc: the C compiler's command, None to search.  cache_dir: compiled kernels, None for the
    user's cache folder.  cache_bytes: bound on its size.  jobs: compilers run at once.
    debug: keep the C text and debug information with every compiled kernel.  log_dir: tuning logs,
    None to search.  quiet: do not say which record or rung a kernel comes from.
    """

    cc: str | None = None
    cache_dir: Path | None = None
    cache_bytes: int = 2**30
    jobs: int = 0  # 0: one per core this process may use
    debug: bool = False
    log_dir: Path | None = None
    quiet: bool = False

    @property
    def cores(self) -> int:
        """Compilers to run at once."""
        if self.jobs:
            return self.jobs
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1


VARIABLES: tuple[Variable, ...] = (
    Variable("CC", "cc", str, "the C compiler (as make and others read it)"),
    Variable("TD_CC", "cc", str, "the C compiler; comes before CC"),
    Variable("TD_CACHE_DIR", "cache_dir", lambda t: Path(t).expanduser(), "where compiled kernels are kept"),
    Variable("TD_CACHE_BYTES", "cache_bytes", _size, "bound on the size of that folder, such as 500M or 2G"),
    Variable("TD_JOBS", "jobs", _positive, "compilers run at once"),
    Variable("TD_LOG_DIR", "log_dir", lambda t: Path(t).expanduser(), "where tuning logs are read and written"),
    Variable("TD_QUIET", "quiet", _switch, "1: do not say which record a kernel comes from"),
    Variable("TD_DEBUG", "debug", _switch, "1: keep the C text and debug information of every kernel"),
)


def settings() -> Settings:
    """The settings of the environment as it is now.  Raises BuildError for a value that cannot be read."""
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        text = os.environ.get(variable.name, "").strip()
        if not text:
            continue
        try:
            values[variable.field] = variable.parse(text)
        except ValueError as error:
            raise BuildError(
                f"{variable.name}={text!r} cannot be read: {error}", hint=f"{variable.name}: {variable.meaning}"
            ) from None
    return Settings(**values)
