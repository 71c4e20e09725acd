"""The road in one page: Program -> Schedule -> LoopNest -> Source -> Kernel.

`compile` takes the best known schedule (see `lookup.py`), `tune` looks for a better one by
measuring.  `verify` and `bench` hold a kernel against the interpreter and the clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union, get_args

import msgspec
from tensordsl.autotune import lookup
from tensordsl.autotune.any_size import Sizes, compile_guarded, compile_operator
from tensordsl.autotune.builder import Builder
from tensordsl.autotune.cases import CASES, case_folder, workplace
from tensordsl.autotune.measure import Job, Measurer, Outcome, off_the_measuring_core
from tensordsl.autotune.pinning import PinLike, pinned
from tensordsl.autotune.records import Log, Record
from tensordsl.autotune.search import Search
from tensordsl.autotune.session import (
    Limit,
    Observer,
    Prepared,
    Session,
    StoppedBecause,
    Trial,
    Winner,
)  # fmt: skip
from tensordsl.autotune.space import DEFAULT, Candidate, Space
from tensordsl.autotune.workload import Cache, Workload, workload
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.checked import checked_kernel
from tensordsl.codegen.compile import CompiledKernel, compile_source, compile_sources
from tensordsl.codegen.runtime import Kernel
from tensordsl.codegen.source import Source
from tensordsl.codegen.toolchain import Toolchain, toolchain
from tensordsl.schedules import rounding
from tensordsl.schedules.schedule import Schedule

from tensordsl import targets
from tensordsl.errors import ProgramError, TensorDSLError, TuneError
from tensordsl.operators import Operator
from tensordsl.program import Program
from tensordsl.targets import Target

if TYPE_CHECKING:
    from tensordsl.codegen.library.build import Library

#: instruction set -> those whose code it runs as well
_RUNS = {"avx512": ("avx512", "avx2", "portable"), "avx2": ("avx2", "portable"), "neon": ("neon", "portable")}


def compile(
    program: Union[Program, Operator, Schedule],
    target: Union[str, Target] = "native",
    *,
    sizes: Sequence[Sizes] = (),
    log_dir: Union[str, Path, None] = None,
    cache: Cache = "warm",
    debug: bool = False,
    exact: bool = False,
    reproducible: bool = False,
) -> Kernel:
    """The kernel of a program by its best known schedule, without measuring; of a Schedule as it is.

    An Operator, or a program with open dimensions, gives one kernel for all their sizes (`GeneralKernel`).
    sizes: for which it has kernels of their own beside the general one, as dictionaries.
    log_dir: where tuning records are (see `lookup.log_directory`).  cache: as it was tuned for (see
    `tune`).  debug: plain loops that check every access to memory and name the line of a wrong one.
    exact, reproducible: the same bits on every machine (see `td.exact`, `td.reproducible`); a Schedule
    must be one of such a program.  Raises BuildError where there is no compiler.
    """
    machine = targets.target(target)
    if isinstance(program, Schedule):
        _check_rounding("compile", program.program, exact, reproducible)
        return kernel_of(program.validate(), machine, debug)

    def best(p: Program) -> Schedule:
        found = best_schedule(p, machine, log_dir, cache)
        lookup.announce(found, p, workload(p, machine.id, cache=cache))
        return found.schedule

    if isinstance(program, Operator) or (isinstance(program, Program) and program.free):
        if debug:
            raise ProgramError(
                f"compile: {program.name} is for all sizes, a debug build is for some", hint="bind them: op.bind(...)"
            )
        if exact or reproducible:
            raise ProgramError(
                f"compile: {program.name} is for all sizes, a fixed rounding is for some",
                hint="bind them: op.bind(...)",
            )
        return compile_operator(program, machine, sizes, best)
    _check_program("compile", program)
    program = _rounded("compile", program, exact, reproducible)
    if sizes:
        raise ProgramError(
            f"compile: {program.name} has no open dimensions", hint="compile the operator, or leave out sizes="
        )
    return kernel_of(best(program), machine, debug)


def best_schedule(
    program: Program, target: Target, log_dir: Union[str, Path, None] = None, cache: Cache = "warm"
) -> lookup.Found:
    """The best known schedule of a program, proven, with the rung it was found on."""
    _check_cache(cache)
    key = workload(program, target.id, cache=cache)
    return lookup.find(program, target, key, lookup.log_directory(log_dir), compiler_id())


def kernel_of(schedule: Schedule, target: Union[str, Target] = "native", debug: bool = False) -> Kernel:
    """A schedule as a callable kernel.  debug: one that checks every access to memory."""
    if schedule.program.free:
        if debug:
            raise ProgramError(f"compile: {schedule.program.name} is for all sizes, a debug build is for some")
        return compile_guarded([schedule], targets.target(target))
    if debug:
        return checked_kernel(schedule.nest, targets.target(target), schedule)
    source = to_c(schedule.nest, targets.target(target))
    return Kernel(compile_source(source), schedule.nest, schedule)


def build_library(
    programs: Union[Buildable, Sequence[Buildable]],
    directory: Union[str, Path],
    *,
    name: str,
    target: Union[str, Target] = "native",
    version: str = "1.0.0",
    log_dir: Union[str, Path, None] = None,
    cache: Cache = "warm",
    say: Union[Callable[[Program, lookup.Found], None], None] = None,
) -> Library:
    """Build a C library of programs by their best known schedules; of schedules, kernels and results
    of `tune` as they are.  An operator is a function for all its sizes; programs of some of its sizes
    beside it are kernels of their own, which are tried first.

    cache: as the programs were tuned for (see `tune`).  say: told what each kernel comes from (None:
    as `compile`).  Raises BuildError; an existing library then stays as it was.
    """
    from tensordsl.codegen.library import build

    machine = targets.target(target)

    def schedule(program: Program) -> Union[_Chosen, None]:
        if program.free:
            return None
        found = best_schedule(program, machine, log_dir, cache)
        if say is None:
            lookup.announce(found, program, workload(program, machine.id, cache=cache))
        else:
            say(program, found)
        return _Chosen(found.schedule, found.note, found.time_us)

    return build.build_library(programs, directory, name=name, target=machine, schedules=schedule, version=version)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What a library's manifest says of a kernel."""

    schedule: Schedule
    record: str
    time_us: Union[float, None]


@dataclass(frozen=True, slots=True)
class TuneResult:
    """kernel: the winner, ready to call.  history: every candidate tried.  log: the file with the
    winner's record.  gain: default time / time, the median of paired rounds and its confidence
    interval as (low, median, high)."""

    kernel: Kernel
    schedule: Schedule
    history: tuple[Trial, ...]
    stopped_because: StoppedBecause
    winner: Winner
    log: Path

    @property
    def time_us(self) -> float:
        return self.winner.outcome.time_us

    @property
    def record(self) -> str:
        """Where the schedule comes from, as the manifest of a library repeats it."""
        return f"winner of {len(self.history)} trials ({self.winner.candidate}, {self.time_us:.4g} us)"

    @property
    def default_time_us(self) -> float:
        return self.winner.default.time_us

    @property
    def gain(self) -> tuple[float, float, float]:
        return self.winner.gain


#: What a library is built of.
Buildable = Union[Program, Operator, Schedule, Kernel, TuneResult]


def tune(
    program: Program,
    target: Union[str, Target] = "native",
    trials: Union[int, None] = 64,
    seconds: Union[float, None] = None,
    log_dir: Union[str, Path, None] = None,
    *,
    cache: Cache = "warm",
    seed: int = 0,
    observer: Union[Observer, None] = None,
    exact: bool = False,
    reproducible: bool = False,
    pin: Union[PinLike, None] = None,
) -> TuneResult:
    """Search for the fastest schedule by measuring on this machine.

    trials: candidates known in the end, those of earlier runs included (None: no bound).  seconds:
    wall-clock bound of this run.  cache: tune for operands in the caches ("warm") or in memory
    ("cold").  exact, reproducible: as of `compile`.  Every result is appended to the log
    at once, so a killed run continues where it was; Ctrl-C ends the search and keeps the best.
    pin: a part of the schedule that stays as it is: values of holes, or a schedule whose steps are kept
    while the stages it does not touch are filled in.  The comparison is then with the pinned default,
    and the records serve runs with the same pin.
    Raises TuneError, BuildError, RecordError.
    """
    _check_program("tune", program)
    _check_fixed("tune", program)
    _check_cache(cache)
    program = _rounded("tune", program, exact, reproducible)
    if trials is not None and not (isinstance(trials, int) and trials >= 1):
        raise TuneError(f"tune: trials must be an integer of at least 1, or None, got {trials!r}")
    if seconds is not None and not (isinstance(seconds, (int, float)) and seconds > 0):
        raise TuneError(f"tune: seconds must be positive, or None, got {seconds!r}")
    machine = runnable(target)
    tools = toolchain()
    key = workload(program, machine.id, cache=cache)
    directory = lookup.log_directory(log_dir)
    log = Log.of(directory, key, program.name)
    fixed = None if pin is None else pinned(program, machine, pin)
    if fixed is not None:
        key = msgspec.structs.replace(key, pin=fixed.text)
    builder = Builder(program, machine, cold=cache == "cold", pin=fixed)
    search = Search(Space(builder.sketches, seed), builder.cost, seed)
    with case_folder() as folder:
        nest = builder.schedule(DEFAULT).nest
        place = workplace(program, nest, machine, folder, tools, cold=cache == "cold")
        with Measurer(place) as measurer:
            session = Session(
                builder, search, _Compiling(builder, tools), measurer, log, key, tools.id, lookup.processor(machine),
                Limit(trials, seconds), observer,
            )  # fmt: skip
            earlier = [r for r in _records(directory, key) if _same_machine(r, tools, machine)]
            session.resume(earlier)
            reason = session.run(_neighbours(directory, key, tools, machine))
            winner = session.finish(_incumbent(earlier, search))
    if pin is None:
        _keep_model(search, key)
    schedule = builder.schedule(winner.candidate)
    return TuneResult(
        kernel_of(schedule, machine), schedule, tuple(session.history), reason, winner, log.path.absolute()
    )


def runnable(target: Union[str, Target]) -> Target:
    """The target, if this machine can run its code.  Raises TuneError otherwise."""
    machine, here = targets.target(target), targets.target("native")
    if machine.isa not in _RUNS.get(here.isa, ("portable",)):
        raise TuneError(
            f"kernels for {machine.id} cannot be measured on this machine ({here.id})",
            hint="tune on such a machine; the log it writes serves every build",
        )
    return machine


def _check_program(what: str, value: object) -> None:
    if not isinstance(value, Program):
        raise ProgramError(
            f"{what} takes a Program, got {_a(value)}",
            hint="bind the sizes of an operator first: op.bind(M=128, ...)" if isinstance(value, Operator) else None,
        )


def _check_fixed(what: str, program: Program) -> None:
    if program.free:
        raise TuneError(
            f"{what}: {program.name} is for all sizes of {', '.join(d.name for d in program.free)}, "
            "which nobody can measure",
            hint="measure it for some: program.at(...), or op.bind(...)",
        )
    apart = next((t for t in program.inputs if t.pitch != 0), None)
    if apart is not None:
        raise TuneError(
            f"{what}: the rows of {apart} lie apart, and kernels are measured on dense arrays",
            hint="measure the same operator with dense inputs",
        )


def _rounded(what: str, program: Program, exact: bool, reproducible: bool) -> Program:
    """The program with its rounding fixed where that is asked for (and was not done before)."""
    if program.rounding == "free" and exact != reproducible:
        return rounding.exact(program) if exact else rounding.reproducible(program)
    _check_rounding(what, program, exact, reproducible)
    return program


def _check_rounding(what: str, program: Program, exact: bool, reproducible: bool) -> None:
    wanted = {"written": "exact"} if exact else {"fused": "reproducible"}
    if exact and reproducible:
        raise ProgramError(
            f"{what}: a kernel is either exact or reproducible",
            hint="exact keeps the written order of every sum, reproducible an order that is as fast as any",
        )
    if (exact or reproducible) and program.rounding not in wanted:
        name = "exact" if exact else "reproducible"
        raise ProgramError(
            f"{what}: {name}=True, but the rounding of {program.name} is {program.rounding}",
            hint=f"schedule td.{name}(program)",
        )


def _check_cache(cache: str) -> None:
    if cache not in get_args(Cache):
        raise TuneError(f"there is no cache condition {cache!r}", legal=get_args(Cache))


def _schedule_of(what: str, value: object) -> Schedule:
    """A Schedule, or that of a kernel or of a search's result."""
    found = getattr(value, "schedule", None) if isinstance(value, (Kernel, TuneResult)) else value
    if not isinstance(found, Schedule):
        raise TuneError(
            f"{what} takes schedules, got {_a(value)}",
            hint="td.Schedule(program), or the .schedule of a result of td.compile or td.tune",
        )
    _check_fixed(what, found.program)
    return found


def _a(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


class _Compiling:
    """Candidates -> C (away from the core that measures) -> shared objects, a batch at a time."""

    def __init__(self, builder: Builder, tools: Toolchain) -> None:
        self.builder = builder
        self.tools = tools
        self._texts: dict[Candidate, Union[Source, TensorDSLError]] = {}

    def draft(self, candidates: Sequence[Candidate]) -> None:
        with off_the_measuring_core():
            self._texts.update((c, self.builder.source(c)) for c in candidates)

    def prepare(self, candidates: Sequence[Candidate]) -> list[Prepared]:
        texts = [self._texts.pop(c) if c in self._texts else self.builder.source(c) for c in candidates]
        good = [t for t in texts if isinstance(t, Source)]
        done = iter(compile_sources(good, self.tools) if good else [])
        return [self._prepared(c, t, next(done) if isinstance(t, Source) else t) for c, t in zip(candidates, texts)]

    def _prepared(
        self, c: Candidate, text: Union[Source, TensorDSLError], result: Union[CompiledKernel, TensorDSLError]
    ) -> Prepared:
        if isinstance(text, TensorDSLError):
            return Prepared(c, None, "invalid", str(text))
        if isinstance(result, TensorDSLError):
            return Prepared(c, None, "build_error", str(result))
        return Prepared(c, Job(result.path, result.symbol, text.workspace_bytes), "ok")


def _records(directory: Path, key: Workload) -> list[Record]:
    from tensordsl.autotune.records import logs

    found = [r for log in logs(directory, key.target) for r in log.read(containing=key.program)]
    return [r for r in found if r.workload == key]


def _same_machine(r: Record, tools: Toolchain, machine: Target) -> bool:
    return r.toolchain == tools.id and r.processor == lookup.processor(machine)


def _incumbent(records: Sequence[Record], search: Search) -> Candidate | None:
    winners = [Candidate(*r.candidate) for r in records if r.kind == "winner"]
    return next((c for c in reversed(winners) if search.space.allows(c)), None)


def _neighbours(directory: Path, key: Workload, tools: Toolchain, machine: Target) -> list[Candidate]:
    """The winners of the nearest shapes, to be tried first."""
    from tensordsl.autotune.records import logs

    shapes: dict[Workload, list[Record]] = {}
    for log in logs(directory, key.target):
        for r in log.read(containing=key.structure):
            if r.workload != key and r.workload.same_conditions(key):
                shapes.setdefault(r.workload, []).append(r)
    near = sorted(shapes, key=lambda w: (w.distance(key), w.shapes))[:4]
    best = [lookup.best_record(shapes[w], tools.id, lookup.processor(machine)) for w in near]
    return [Candidate(*r.candidate) for r in best if r is not None]


def _keep_model(search: Search, key: Workload) -> None:
    """The learned model outlives the search, for shapes that nobody measures."""
    if search.model.trained:
        with contextlib.suppress(OSError):  # only the model's rung is lost
            search.model.save(lookup.model_path(key))


def compiler_id() -> str:
    """The compiler whose records are preferred ("": there is none)."""
    try:
        return toolchain().id
    except TensorDSLError:
        return ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One case of a verification.  error: "" where the kernel agrees with the interpreter."""

    case: str
    exact: bool
    error: str


def verify(
    schedule: Union[Schedule, Kernel, TuneResult],
    target: Union[str, Target] = "native",
    cases: Sequence[str] = CASES,
    program: Union[Program, None] = None,
) -> list[Verdict]:
    """Run a schedule's kernel in a child process and compare it with the interpreter.

    program: the definition to hold it against (None: the schedule's, which its steps may have rewritten).
    Raises TuneError, BuildError.
    """
    schedule = _schedule_of("verify", schedule)
    unknown = [c for c in cases if c not in CASES]
    if unknown:
        raise TuneError(f"verify: there are no inputs {unknown[0]!r}", legal=CASES)
    machine, tools = runnable(target), toolchain()
    source = to_c(schedule.nest, machine)
    compiled = compile_source(source, tools)
    job = Job(compiled.path, compiled.symbol, source.workspace_bytes)
    verdicts = []
    for name in cases:
        with case_folder() as folder:
            place = workplace(program or schedule.program, schedule.nest, machine, folder, tools, names=(name,))
            with Measurer(place) as measurer:
                [outcome] = measurer.check([job])
        error = "" if outcome.status == "ok" else f"{outcome.status}: {outcome.error}"
        verdicts.append(Verdict(name, place.cases[0].exact, error))
    return verdicts


def bench(
    schedules: Sequence[Union[Schedule, Kernel, TuneResult]],
    target: Union[str, Target] = "native",
    rounds: int = 21,
    cache: Cache = "warm",
    program: Union[Program, None] = None,
) -> list[Outcome]:
    """Time schedules of one program side by side, in a child process.  They are checked first, against
    ``program`` (None: that of the first schedule).  Raises TuneError, BuildError."""
    _check_cache(cache)
    chosen = [_schedule_of("bench", s) for s in schedules]
    if not chosen or rounds < 1:
        raise TuneError(f"bench takes at least one schedule and one round, got {len(chosen)} and {rounds}")
    machine, tools = runnable(target), toolchain()
    sources = [to_c(s.nest, machine) for s in chosen]
    compiled = [compile_source(s, tools) for s in sources]
    jobs = [Job(c.path, c.symbol, s.workspace_bytes) for c, s in zip(compiled, sources)]
    first = chosen[0]
    with case_folder() as folder:
        place = workplace(program or first.program, first.nest, machine, folder, tools, cold=cache == "cold")
        with Measurer(place) as measurer:
            return measurer.duel(jobs, rounds)
