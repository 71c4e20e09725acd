"""Steps that a derived schedule tried and did without: they cost speed, so somebody may ask which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tensordsl.errors import TensorDSLError

_NOTES: ContextVar[list[str] | None] = ContextVar("refused steps", default=None)


@contextmanager
def refusals() -> Iterator[list[str]]:
    """Collects, in order and each once, why steps were left out while schedules are derived inside."""
    found: list[str] = []
    token = _NOTES.set(found)
    try:
        yield found
    finally:
        _NOTES.reset(token)


def note(error: TensorDSLError, before: str = "") -> None:
    """A step was refused, and the schedule goes on without it."""
    found = _NOTES.get()
    text = before + error.message.partition("\n")[0]
    if found is not None and text not in found:
        found.append(text)
