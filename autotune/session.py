"""One search: propose, compile, check and time, record; then the final comparison.

While one batch is measured on one core, the next is proposed and printed on another; compiling
takes all cores, with nothing measured meanwhile.  Every result is in the log before the next batch
is measured, so a killed run loses one batch at most.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal, Protocol

from tensordsl.autotune.builder import Builder
from tensordsl.autotune.lookup import MARGIN
from tensordsl.autotune.measure import Job, Outcome
from tensordsl.autotune.records import Log, Processor, Record, Status
from tensordsl.autotune.search import Search
from tensordsl.autotune.space import DEFAULT, Candidate
from tensordsl.autotune.workload import Workload, canonical_names

from tensordsl.errors import ScheduleError, TensorDSLError, TuneError

StoppedBecause = Literal["trials", "seconds", "space exhausted", "interrupted", "converged"]

BATCH = 10
_FINALISTS = 4
#: Trials without an improvement of 1 % after which a search without a fixed number of trials ends.
_PATIENCE = 96
#: A candidate this much slower than the best is timed in one round only.
_SLOW = 4.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A candidate ready to measure, or why it is not.  status: ok, build_error or invalid."""

    candidate: Candidate
    job: Job | None
    status: Status
    error: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate and what came of it.  resumed: from an earlier run's record."""

    candidate: Candidate
    outcome: Outcome
    resumed: bool = False

    @property
    def time_us(self) -> float:
        return self.outcome.time_us


class Preparer(Protocol):
    """Candidates -> compiled kernels.  draft: what can be done beside measuring."""

    def draft(self, candidates: Sequence[Candidate]) -> None: ...
    def prepare(self, candidates: Sequence[Candidate]) -> list[Prepared]: ...


class Measuring(Protocol):
    """What `Measurer` does (a test replays a log instead)."""

    def measure(self, jobs: Sequence[Job], limit_us: float | None = None) -> list[Outcome]: ...
    def duel(self, jobs: Sequence[Job], rounds: int = ...) -> list[Outcome]: ...


class Observer(Protocol):
    """Who watches a search (see `progress.py`)."""

    def update(self, session: Session) -> None: ...


@dataclass(frozen=True, slots=True)
class Limit:
    """When to stop.  trials: candidates known in all, those of earlier runs included.  seconds:
    wall-clock time of this run."""

    trials: int | None = 64
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Winner:
    """gain: default time / time with its confidence interval (1.0 for the default itself)."""

    candidate: Candidate
    outcome: Outcome
    default: Outcome
    gain: tuple[float, float, float]


@dataclass
class Session:
    """A search in progress.  history: every trial, those of earlier runs first."""

    builder: Builder
    search: Search
    preparer: Preparer
    measuring: Measuring
    log: Log
    key: Workload
    toolchain: str
    processor: Processor
    limit: Limit
    observer: Observer | None = None
    history: list[Trial] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    phase: str = "searching"
    _improved_at: int = 0

    # ------------------------------------------------------------ the loop

    def resume(self, records: Iterable[Record]) -> int:
        """Take over the finished candidates of earlier runs; returns how many."""
        count = 0
        for r in records:
            c = Candidate(*r.candidate)
            if r.kind != "candidate" or c in self.search.times or not (c == DEFAULT or self.search.space.allows(c)):
                continue
            outcome = Outcome(r.status, r.error, r.samples_us, r.reference_us)
            self.history.append(Trial(c, outcome, resumed=True))
            self.search.known(c, outcome.time_us)
            count += 1
        self._improved_at = count
        return count

    def run(self, first: Iterable[Candidate] = ()) -> StoppedBecause:
        """Search until a limit is reached.  Ctrl-C ends it with what is known.

        first: candidates to try right after the defaults.
        """
        self.search.seed_with([*self.search.space.defaults(), *first])
        self._tell()
        with ThreadPoolExecutor(1, thread_name_prefix="tensordsl-prepare") as pool:
            waiting: Future[list[Candidate]] | None = None
            try:
                waiting = pool.submit(self._next, self._room(0))
                while True:
                    batch = self.preparer.prepare(waiting.result())
                    if not batch:
                        return self._reason() or "space exhausted"
                    reason = self._reason(len(batch))
                    waiting = None if reason else pool.submit(self._next, self._room(len(batch)))
                    # proposals and reports alternate in a fixed order, so that a seed decides everything
                    results = self._measure(batch)
                    if waiting is not None:
                        waiting.exception()
                    self._report(results)
                    reason = reason or self._reason()
                    if reason or waiting is None:
                        return reason or "space exhausted"
            except KeyboardInterrupt:
                if waiting is not None:
                    waiting.cancel()
                return "interrupted"

    def _room(self, pending: int) -> int:
        """Candidates to propose next."""
        if self.limit.trials is None:
            return BATCH
        return max(0, min(BATCH, self.limit.trials - len(self.history) - pending))

    def _next(self, count: int) -> list[Candidate]:
        candidates = self.search.propose(count) if count else []
        self.preparer.draft(candidates)
        return candidates

    def _reason(self, pending: int = 0) -> StoppedBecause | None:
        known = len(self.history) + pending
        if self.limit.trials is not None and known >= self.limit.trials:
            return "trials"
        if self.limit.seconds is not None and time.monotonic() - self.started >= self.limit.seconds:
            return "seconds"
        if self.limit.trials is None and known - self._improved_at >= _PATIENCE:
            return "converged"
        return None

    def _measure(self, batch: Sequence[Prepared]) -> list[Trial]:
        ready = [p for p in batch if p.job is not None]
        best = self.search.best
        limit = None if best is None else _SLOW * best[1]
        outcomes = self.measuring.measure([p.job for p in ready if p.job is not None], limit) if ready else []
        found = {p.candidate: o for p, o in zip(ready, outcomes)}
        return [Trial(p.candidate, found.get(p.candidate) or Outcome(p.status, p.error)) for p in batch]

    def _report(self, trials: Sequence[Trial]) -> None:
        for t in trials:
            before = self.search.best
            self.history.append(t)
            self.search.report(t.candidate, t.time_us)
            if before is None or t.time_us < 0.99 * before[1]:
                self._improved_at = len(self.history)
            self.log.append(self._record(t))
        self._tell()

    def _tell(self) -> None:
        if self.observer is not None:
            self.observer.update(self)

    def _record(self, t: Trial) -> Record:
        return self.record(t.candidate, t.outcome)

    def record(self, c: Candidate, outcome: Outcome) -> Record:
        """What the log keeps of a candidate.  Failed ones keep no trace: nobody replays them."""
        trace = None
        if outcome.status == "ok":
            with contextlib.suppress(ScheduleError):
                trace = self.builder.schedule(c).trace.to_json()
        return Record(
            operator=self.builder.program.name,
            workload=self.key,
            toolchain=self.toolchain,
            processor=self.processor,
            names=canonical_names(self.builder.program),
            sketch=c.sketch,
            params=dict(c.params),
            trace=trace,
            status=outcome.status,
            error=outcome.error[:500],
            samples_us=outcome.samples_us,
            reference_us=outcome.reference_us,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    # ------------------------------------------------------------ the end

    def default_time_us(self) -> float:
        return self.search.times.get(DEFAULT, math.inf)

    def finish(self, incumbent: Candidate | None = None) -> Winner:
        """The final comparison, paired and interleaved in a fresh process, of the few best, the
        incumbent of earlier runs and the default; the winner's record is on the disk afterwards.

        Raises TuneError when not even the default schedule works.
        """
        self.phase = "comparing the best"
        self._tell()
        failed = next((t for t in self.history if t.candidate == DEFAULT and t.outcome.status != "ok"), None)
        if failed is not None:
            raise TuneError(
                f"{self.builder.program.name}: the default schedule fails: {failed.outcome.status}: "
                f"{failed.outcome.error}",
                hint="this is a bug in tensordsl: please report it with the program",
            )
        finalists = self._finalists(incumbent)
        ready = [p for p in self.preparer.prepare(finalists) if p.job is not None]
        if not ready or ready[0].candidate != DEFAULT:
            raise TuneError(f"{self.builder.program.name}: the default schedule does not compile")
        outcomes = self.measuring.duel([p.job for p in ready if p.job is not None])
        found = {p.candidate: o for p, o in zip(ready, outcomes) if o.status == "ok"}
        if DEFAULT not in found:
            raise TuneError(f"{self.builder.program.name}: the default schedule fails in the final comparison")
        winner = choose(found, incumbent if incumbent in found else None)
        record = replace_winner(self.record(winner.candidate, winner.outcome), winner)
        self.log.append(record)
        self.phase = "done"
        self._tell()
        return winner

    def _finalists(self, incumbent: Candidate | None) -> list[Candidate]:
        """The default, the incumbent and the few fastest, all proven."""
        chosen = [DEFAULT]
        if incumbent is not None and incumbent != DEFAULT and self._valid(incumbent):
            chosen.append(incumbent)
        for c in self.search.leaders(4 * _FINALISTS):
            if len(chosen) > _FINALISTS:
                break
            if c not in chosen and self._valid(c):
                chosen.append(c)
        return chosen

    def _valid(self, c: Candidate) -> bool:
        """Whether a finalist is proven; a refused one is out of the race and recorded as invalid."""
        try:
            self.builder.schedule(c).validate()
        except TensorDSLError as error:
            self.search.report(c, math.inf)
            self.log.append(self.record(c, Outcome("invalid", str(error))))
            return False
        return True


def replace_winner(record: Record, winner: Winner) -> Record:
    import msgspec

    low, middle, high = winner.gain
    return msgspec.structs.replace(
        record, kind="winner", default_us=winner.default.samples_us,
        gain=(round(middle, 4), round(low, 4), round(high, 4)),
    )  # fmt: skip


def choose(found: dict[Candidate, Outcome], incumbent: Candidate | None) -> Winner:
    """The rule of winning: faster than what stands now by 2 % beyond the confidence interval of the
    paired rounds; otherwise what stands stays.  What stands is the incumbent if it is not slower
    than the default, else the default."""
    default = found[DEFAULT]
    standing = DEFAULT
    if incumbent is not None and incumbent != DEFAULT and gain(default, found[incumbent])[0] > 1.0:
        standing = incumbent
    challengers = sorted((c for c in found if c != standing), key=lambda c: (-gain(found[standing], found[c])[1], c))
    for c in challengers:
        low, _, _ = gain(found[standing], found[c])
        if low >= MARGIN and (c == DEFAULT or gain(default, found[c])[0] > 1.0):
            standing = c
            break
    own = (1.0, 1.0, 1.0) if standing == DEFAULT else gain(default, found[standing])
    return Winner(standing, found[standing], default, own)


def gain(base: Outcome, other: Outcome) -> tuple[float, float, float]:
    """(low, median, high) of base time / other time over paired rounds: the 95 % interval of the
    median by order statistics, which assumes nothing about the noise."""
    ratios = sorted(b / o for b, o in zip(base.samples_us, other.samples_us))
    n = len(ratios)
    if n == 0:
        return (0.0, 1.0, math.inf)
    tail, k = 0.5**n, 0
    while k + 1 <= n // 2 and tail + math.comb(n, k + 1) * 0.5**n <= 0.025:
        k += 1
        tail += math.comb(n, k) * 0.5**n
    middle = ratios[n // 2] if n % 2 else math.sqrt(ratios[n // 2 - 1] * ratios[n // 2])
    if tail > 0.025:  # too few rounds to say anything
        return (0.0, middle, math.inf)
    return (ratios[k], middle, ratios[n - 1 - k])
