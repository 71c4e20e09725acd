"""How a search goes: one live line on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from tensordsl.autotune.space import DEFAULT

if TYPE_CHECKING:
    from tensordsl.autotune.machine import Limits
    from tensordsl.autotune.session import Session

_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class State:
    """What there is to say.  time_left_s: None where nothing bounds the search."""

    phase: str
    trials: int
    total: int | None
    failed: int
    best_us: float
    default_us: float
    share: float | None
    resource: str
    elapsed_s: float
    time_left_s: float | None

    def line(self) -> str:
        """All of it in one line."""
        count = f"{self.trials}/{self.total}" if self.total else f"{self.trials}"
        parts = [f"{count} trials"]
        if math.isfinite(self.best_us):
            parts.append(f"best {duration(self.best_us)}")
            if math.isfinite(self.default_us):
                parts.append(f"{self.default_us / self.best_us:.2f}x default")
            if self.share is not None:
                parts.append(f"{100 * self.share:.0f} % of {self.resource} peak")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.phase != "searching":
            parts.append(self.phase)
        elif self.time_left_s is not None:
            parts.append(f"{self.time_left_s:.0f} s left")
        return ", ".join(parts)


def duration(time_us: float) -> str:
    """A time with the unit that suits it."""
    if time_us < 1e3:
        return f"{time_us:.3g} us"
    return f"{time_us / 1e3:.4g} ms" if time_us < 1e6 else f"{time_us / 1e6:.4g} s"


def state(session: Session, limits: Limits | None) -> State:
    """The state of a search.  limits: the least time by resource, where the machine was measured."""
    best = session.search.best
    best_us = best[1] if best else math.inf
    elapsed = time.monotonic() - session.started
    share = limits.bound_us / best_us if limits and math.isfinite(best_us) else None
    return State(
        session.phase, len(session.history), session.limit.trials,
        sum(t.outcome.status != "ok" for t in session.history), best_us,
        session.search.times.get(DEFAULT, math.inf), share, limits.limiting if limits else "",
        elapsed, _time_left(session, elapsed),
    )  # fmt: skip


def _time_left(session: Session, elapsed: float) -> float | None:
    left = []
    if session.limit.seconds is not None:
        left.append(session.limit.seconds - elapsed)
    measured = sum(not t.resumed for t in session.history)
    if session.limit.trials is not None and measured:
        left.append((session.limit.trials - len(session.history)) * elapsed / measured)
    return max(0.0, min(left)) if left else None


@dataclass
class Progress:
    """Shows a search.  limits: the roofline of its program, for the share of the peak."""

    title: str
    limits: Limits | None = None
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    every_s: float = _EVERY_S
    _last: float = 0.0
    _live: Any = None
    _phase: str = ""

    def __enter__(self) -> Progress:
        if self.stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live("", console=Console(file=self.stream), refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, session: Session) -> None:
        line = f"{self.title}: {state(session, self.limits).line()}"
        now = time.monotonic()
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif now - self._last >= self.every_s or session.phase != self._phase:
            self._last, self._phase = now, session.phase
            print(line, file=self.stream, flush=True)
