"""Searching from end to end: resuming, stopping, winning; first on replayed times, then on this machine."""

from __future__ import annotations

import itertools

import pytest
from tensordsl.autotune.measure import Job, Outcome
from tensordsl.autotune.records import Log, Processor
from tensordsl.autotune.search import Search
from tensordsl.autotune.session import Limit, Prepared, Session, choose, gain
from tensordsl.autotune.space import DEFAULT, Candidate, Space
from tensordsl.autotune.workload import Workload
from tuner_fakes import FakeSketch, cost, time_us

from tensordsl.errors import TuneError

KEY = Workload("p" * 16, "s" * 16, ("float32[8]", "->", "float32[8]"), (8, 8), "x86_64-test")


class FakeProgram:
    name = "fake"
    inputs = tensors = ()


class FakeTrace:
    def to_json(self):
        return []


class FakeSchedule:
    trace = FakeTrace()

    def validate(self):
        return self


class FakeBuilder:
    program = FakeProgram()

    def schedule(self, c):
        return FakeSchedule()


class FakePreparer:
    def __init__(self, broken=()):
        self.broken = set(broken)

    def draft(self, candidates):
        pass

    def prepare(self, candidates):
        return [
            Prepared(c, None, "build_error", "no") if c in self.broken else Prepared(c, Job(c, "f", 0), "ok")
            for c in candidates
        ]


class Replay:
    """Times from the closed form: a measurer without a clock.  after: what happens when that many
    candidates were measured."""

    def __init__(self, after=None, action=None, times=time_us):
        self.measured: list[Candidate] = []
        self.after, self.action, self.times = after, action, times

    def measure(self, jobs, limit_us=None):
        for j in jobs:
            self.measured.append(j.path)
            if self.after is not None and len(self.measured) > self.after:
                self.action()
        return [Outcome("ok", "", (self.times(j.path) + 1, self.times(j.path)), (100.0, 100.0)) for j in jobs]

    def duel(self, jobs, rounds=21):
        return [Outcome("ok", "", tuple(self.times(j.path) + 0.1 * (n % 3) for n in range(rounds))) for j in jobs]


def session_of(path, limit, measuring=None, preparer=None, seed=0, sketch=None):
    search = Search(Space([sketch or FakeSketch()], seed), cost, seed)
    log = Log(path / "fake.jsonl")
    return Session(
        FakeBuilder(),
        search,
        preparer or FakePreparer(),
        measuring or Replay(),
        log,
        KEY,
        "gcc-test",
        Processor(),
        limit,
    )


@pytest.mark.parametrize(
    ("limit", "reason", "count"),
    [
        (Limit(trials=25), "trials", 25),
        (Limit(trials=1), "trials", 1),
        (Limit(trials=None, seconds=1e-9), "seconds", 10),
    ],
)
def test_limits(tmp_path, limit, reason, count):
    session = session_of(tmp_path, limit)
    assert session.run() == reason
    assert len(session.history) == count
    assert len(session.log.read()) == count


def test_space_exhausted(tmp_path):
    small = FakeSketch(holes={"m": (1, 2, 3), "n": (1, 2), "k": (1, 2)})
    session = session_of(tmp_path, Limit(trials=100), sketch=small)
    assert session.run() == "space exhausted"
    assert len(session.history) == 12


def test_converged(tmp_path):
    session = session_of(tmp_path, Limit(trials=None))
    assert session.run() == "converged"
    assert 96 < len(session.history) < 400


def test_interrupted_keeps_the_best(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    measuring = Replay(after=25, action=interrupt)
    session = session_of(tmp_path, Limit(trials=64), measuring)
    assert session.run() == "interrupted"
    assert len(session.history) == 20  # two whole batches
    winner = session.finish()
    assert winner.candidate == session.search.best[0]
    assert session.log.read()[-1].kind == "winner"


def test_a_killed_search_continues_from_its_log(tmp_path):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    first = session_of(tmp_path, Limit(trials=60), Replay(after=32, action=kill))
    with pytest.raises(Killed):
        first.run()
    recorded = {Candidate(*r.candidate) for r in first.log.read()}
    assert len(recorded) == 30
    measuring = Replay()
    second = session_of(tmp_path, Limit(trials=60), measuring)
    assert second.resume(second.log.read()) == 30
    assert second.run() == "trials"
    assert not set(measuring.measured) & recorded
    assert len(measuring.measured) == 30
    assert sum(t.resumed for t in second.history) == 30
    everything = [Candidate(*r.candidate) for r in second.log.read()]
    assert len(set(everything)) == len(everything) == 60


def test_a_finished_search_measures_nothing_again(tmp_path):
    session_of(tmp_path, Limit(trials=20)).run()
    measuring = Replay()
    again = session_of(tmp_path, Limit(trials=20), measuring)
    again.resume(again.log.read())
    assert again.run() == "trials"
    assert measuring.measured == []


def test_a_search_replays_exactly(tmp_path):
    logs = []
    for name in ("a", "b"):
        session = session_of(tmp_path / name, Limit(trials=45), seed=5)
        session.run()
        session.finish()
        logs.append([(r.candidate, r.kind, r.samples_us) for r in session.log.read()])
    assert logs[0] == logs[1]


def test_broken_candidates_are_recorded(tmp_path):
    class Broken(FakePreparer):
        def prepare(self, candidates):
            self.broken |= {c for c in candidates if dict(c.params).get("m") == 2}
            return super().prepare(candidates)

    session = session_of(tmp_path, Limit(trials=60), preparer=Broken())
    session.run()
    failed = [r for r in session.log.read() if r.status == "build_error"]
    assert failed and all(r.params["m"] == 2 and r.trace is None and r.error == "no" for r in failed)
    assert len(session.history) == 60


def test_a_broken_default_is_an_error(tmp_path):
    session = session_of(tmp_path, Limit(trials=10), preparer=FakePreparer([DEFAULT]))
    session.run()
    with pytest.raises(TuneError, match="the default schedule fails"):
        session.finish()


# ---------------------------------------------------------------- who wins


def outcome(*samples):
    return Outcome("ok", "", samples)


def constant(time, rounds=21, noise=0.0):
    wave = itertools.cycle((noise, -noise))
    return outcome(*(time * (1 + next(wave)) for _ in range(rounds)))


A, B = Candidate("a"), Candidate("b")


def test_gain_interval():
    low, middle, high = gain(constant(200.0), constant(100.0))
    assert (low, middle, high) == (2.0, 2.0, 2.0)
    low, middle, high = gain(constant(103.0, noise=0.1), constant(100.0))
    assert low <= 1.03 <= high and low < 1.0 < high
    assert gain(outcome(2.0), outcome(1.0))[0] == 0.0  # one round says nothing


@pytest.mark.parametrize(
    ("times", "incumbent", "winner"),
    [
        ({DEFAULT: constant(100.0), A: constant(90.0)}, None, A),
        ({DEFAULT: constant(100.0), A: constant(99.0)}, None, DEFAULT),  # below 2 %
        ({DEFAULT: constant(100.0), A: constant(96.0, noise=0.2)}, None, DEFAULT),  # within the noise
        ({DEFAULT: constant(100.0), A: constant(90.0), B: constant(89.5)}, A, A),  # no clear margin
        ({DEFAULT: constant(100.0), A: constant(90.0), B: constant(80.0)}, A, B),
        ({DEFAULT: constant(100.0), A: constant(120.0)}, A, DEFAULT),  # the incumbent aged
        ({DEFAULT: constant(100.0), A: constant(101.0)}, A, DEFAULT),
        ({DEFAULT: constant(100.0)}, None, DEFAULT),
    ],
)
def test_winner_rule(times, incumbent, winner):
    chosen = choose(times, incumbent)
    assert chosen.candidate == winner
    assert chosen.default is times[DEFAULT]
    if winner == DEFAULT:
        assert chosen.gain == (1.0, 1.0, 1.0)
