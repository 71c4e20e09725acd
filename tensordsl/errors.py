"""The errors of the compiler: what is wrong, where the user wrote it, and what would be right.

Every error is rendered lazily from its fields (a search may raise thousands) and survives
pickling, so that a worker process can hand it to its parent.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
# The code folders are sub-packages in an installed tree and siblings in an editable one.
_INTERNAL = (
    *tuple(
        os.path.join(base, folder) + os.sep
        for base in (_PACKAGE, os.path.dirname(_PACKAGE))
        for folder in ("schedules", "codegen", "autotune")
    ),
    _PACKAGE + os.sep,
)
# A frame of Python's own library (a thread pool, contextlib) is never the user's line.
_PYTHON = os.path.dirname(os.__file__) + os.sep
_INSTALLED = tuple(os.path.join(_PYTHON, folder) + os.sep for folder in ("site-packages", "dist-packages"))
#: Files of this package that are called by machinery (the command line's by click), not by a user's line.
_ENTRY_FILES: set[str] = set()


class Location(NamedTuple):
    """A line of the user's program."""

    file: str
    line: int

    def __str__(self) -> str:
        path = os.path.relpath(self.file) if os.path.isabs(self.file) else self.file
        return f"{self.file if path.startswith('..') else path}:{self.line}"


def entry_file(file: str) -> None:
    """Declare a file (its ``__file__``) as an entry of the package: what calls it is no user's line."""
    _ENTRY_FILES.add(file)


def user_location() -> Location | None:
    """The first frame outside this package, or None where there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file in _ENTRY_FILES:
            return None
        if _is_users(file):
            return Location(file, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def traceback_location(error: BaseException) -> Location | None:
    """The innermost line outside this package that an exception passed through."""
    found, step = None, error.__traceback__
    while step is not None:
        if _is_users(step.tb_frame.f_code.co_filename):
            found = Location(step.tb_frame.f_code.co_filename, step.tb_lineno)
        step = step.tb_next
    return found


def _is_users(file: str) -> bool:
    if file.startswith((*_INTERNAL, "<")):
        return False
    if any(file.startswith(os.path.join(folder, "numpy") + os.sep) for folder in _INSTALLED):
        return False  # np.sort(x) calls us from there
    return not file.startswith(_PYTHON) or file.startswith(_INSTALLED)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like a mistyped one, for a hint."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return found[0] if found else None


class TensorDSLError(Exception):
    """Base of every error a user can cause.

    message: what is wrong, with both numbers.  location: the user's line (found by itself where
    not given).  context: the nest or the source, already marked.  legal: what would be legal, or a
    counterexample.  hint: what to do.
    """

    def __init__(
        self,
        message: str,
        *,
        location: Location | None = None,
        context: object = None,
        legal: str | Sequence[str] | None = None,
        counterexample: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.location = location or user_location()
        self.context = context
        self.legal = legal
        self.counterexample = counterexample
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.location:
            lines.append(f"  --> {self.location}")
        if self.context is not None:
            lines.append("in:")
            lines += [f"  {line}" for line in str(self.context).splitlines()]
        if self.legal is not None:
            legal = self.legal if isinstance(self.legal, str) else ", ".join(self.legal)
            lines.append(f"legal: {legal}")
        if self.counterexample:
            lines.append(f"counterexample: {self.counterexample}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {
            "message": self.message,
            "location": self.location,
            "context": None if self.context is None else str(self.context),
            "legal": self.legal,
            "counterexample": self.counterexample,
            "hint": self.hint,
        }
        return _rebuild, (type(self), fields)


def _rebuild(cls: type[TensorDSLError], fields: dict[str, Any]) -> TensorDSLError:
    error = cls.__new__(cls)
    Exception.__init__(error, fields["message"])
    error.__dict__.update(fields)
    return error


class ProgramError(TensorDSLError):
    """An operator that is not well defined: names, ranks, dtypes, indices, recurrences."""


class ScheduleError(TensorDSLError):
    """A schedule step that does not apply or would change the meaning of the program."""


class BuildError(TensorDSLError):
    """A kernel or library that could not be generated, compiled, loaded or called."""


class TuneError(TensorDSLError):
    """A search that cannot go on."""


class RecordError(TensorDSLError):
    """A tuning log that cannot be read or written."""


class InternalError(TensorDSLError):
    """A bug of tensordsl itself, with what is needed to report it."""

    def __init__(self, message: str, **fields: Any) -> None:
        fields.setdefault("hint", "this is a bug in tensordsl: please report it with the text above")
        super().__init__(message, **fields)
