"""From a program to a schedule without measuring: a ladder with a voice.

exact record -> record of the nearest shape whose constraints hold -> the model's pick -> default.
The rung is returned, and said once with the command that would tune the program.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tensordsl.autotune.records import Processor, Record, logs
from tensordsl.autotune.renaming import with_tensor_names
from tensordsl.autotune.workload import Workload, canonical_names, describe, with_names
from tensordsl.schedules.schedule import Schedule
from tensordsl.schedules.trace import Trace

from tensordsl.errors import RecordError, ScheduleError, TensorDSLError
from tensordsl.program import Program
from tensordsl.settings import settings
from tensordsl.targets import Target

Rung = Literal["record", "nearest", "model", "default"]

#: A winner must be this much faster than what it replaces, beyond the confidence interval.
MARGIN = 1.02
#: Shapes further apart than this (sum of |log2| of size ratios) say little about each other.
_FAR = 8.0
_TRIED = 4  # nearest shapes replayed before giving up
_MODEL_PICKS = 24  # candidates built for the model's pick
_MODEL_GAIN = 0.15  # log2: the model must promise 10 % before a guess replaces the default


@dataclass(frozen=True, slots=True)
class Found:
    """rung: how the schedule was found.  record: what it comes from, where it does from one.
    note: one sentence for the user.  time_us: of the very kernel on this processor, None where
    nobody measured that."""

    rung: Rung
    schedule: Schedule
    record: Record | None
    note: str
    time_us: float | None = None


def log_directory(given: str | Path | None = None) -> Path:
    """Where logs are read and written: as given, TD_LOG_DIR, ``tuning_logs`` of the working folder or
    of the checkout around it, or the user's folder."""
    if given is not None:
        if not isinstance(given, (str, os.PathLike)):
            raise RecordError(f"the folder of tuning logs is a path, got a {type(given).__name__}")
        return Path(given)
    set_by_user = settings().log_dir
    if set_by_user:
        return set_by_user
    name = Path("tuning_logs")
    if name.is_dir():
        return name
    checkout = _checkout(Path.cwd())
    if checkout is not None and (checkout / name).is_dir():
        return checkout / name
    from platformdirs import user_data_path

    return user_data_path("tensordsl") / name


def _checkout(folder: Path) -> Path | None:
    """The root of the git checkout a folder is in."""
    return next((p for p in (folder, *folder.parents) if (p / ".git").exists()), None)


def processor(target: Target) -> Processor:
    """The processor a target describes; where it names none, that of this machine."""
    if not (target.vendor or target.microarchitecture):
        from tensordsl.targets import target as find_target

        target = find_target("native")
    return Processor(target.vendor, target.family, target.model, target.microarchitecture)


def find(
    program: Program,
    target: Target,
    key: Workload,
    directory: Path,
    toolchain: str = "",
) -> Found:
    """The best known schedule of a program.  toolchain: whose records are preferred."""
    records = [r for log in logs(directory, target.id) for r in log.read(containing=key.structure)]
    exact = _exact(program, key, records, toolchain, processor(target))
    if exact:
        return exact
    found = _nearest(program, target, key, records, toolchain) or _model(program, target, key)
    if found is None:
        from tensordsl.schedules.default import default_schedule

        found = Found("default", default_schedule(program, target), None, "no record; the default schedule")
    return replace(found, note=f"{found.note} (records are looked for in {_shown(directory)})")


def _shown(directory: Path) -> Path:
    """A folder as short as it can be said."""
    here = Path.cwd()
    return directory.relative_to(here) if directory.is_relative_to(here) else directory


def best_record(records: Iterable[Record], toolchain: str = "", machine: Processor | None = None) -> Record | None:
    """What to use among the records of one workload: the last winner, those of this compiler and
    processor first; where a search was cut off, its best candidate if clearly faster than the default."""
    good = [r for r in records if r.status == "ok" and r.samples_us]
    if not good:
        return None

    def nearness(r: Record) -> tuple[bool, bool]:
        return (machine is not None and r.processor == machine, r.toolchain == toolchain)

    closest = max(nearness(r) for r in good)
    same = [r for r in good if nearness(r) == closest]
    winners = [r for r in same if r.kind == "winner"]
    if winners:
        return winners[-1]
    best = min(same, key=lambda r: r.time_us)
    default = next((r for r in reversed(same) if r.sketch == "default"), None)
    return default if default is not None and best.time_us * MARGIN > default.time_us else best


def replay(record: Record, program: Program) -> Schedule:
    """The schedule of a record on a program of the same structure, proven, with the program's own
    names of tensors (the trace and the loops keep the record's).  Raises ScheduleError."""
    trace = Trace.from_json(record.trace)
    own = canonical_names(program)
    try:
        if not record.names or record.names == own:
            return Schedule.replay(program, trace).validate()
        schedule = Schedule.replay(with_names(program, record.names), trace)
        names = {theirs[0]: ours[0] for theirs, ours in zip(record.names, own)}
        return with_tensor_names(schedule, names).validate()
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:  # a damaged log
        raise ScheduleError(f"the trace has arguments of the wrong kind: {error}") from None


def foreign_names(record: Record, program: Program) -> str:
    """What a record's trace calls the tensors and axes of a program, "" where the names are its own."""
    own = canonical_names(program)
    if not record.names or record.names == own:
        return ""
    pairs = {theirs: ours for old, new in zip(record.names, own) for theirs, ours in zip(old, new)}
    return ", ".join(f"{theirs} is {ours}" for theirs, ours in pairs.items() if theirs != ours)


def _exact(
    program: Program, key: Workload, records: Sequence[Record], toolchain: str, machine: Processor
) -> Found | None:
    usable = [r for r in records if r.workload == key]
    for _ in range(_TRIED):
        record = best_record(usable, toolchain, machine)
        if record is None:
            break
        try:
            schedule = replay(record, program)
        except TensorDSLError as error:
            warnings.warn(f"a record of {record.date} for {record.operator} is not used: {error.args[0]}", stacklevel=4)
            usable = [r for r in usable if r.trace != record.trace]
            continue
        tuned = "winner" if record.kind == "winner" else "best so far of a search that was cut off"
        elsewhere = _elsewhere(record, toolchain, machine)
        note = f"record of {record.date[:10]} ({tuned}, {record.time_us:.4g} us{elsewhere})"
        return Found("record", schedule, record, note, None if elsewhere else record.time_us)
    return None


def _elsewhere(record: Record, toolchain: str, machine: Processor) -> str:
    """What a record was measured with, where that is not this machine and compiler."""
    parts = []
    if record.processor != machine:
        where = record.processor
        parts.append(f" on {where.name or where.vendor or 'an unknown processor'}")
        if where.name == machine.name:
            parts.append(f" ({where.vendor} family {where.family} model {where.model})")
    if toolchain and record.toolchain != toolchain:
        parts.append(f" with {record.toolchain}")
    return "".join(parts)


def _nearest(
    program: Program, target: Target, key: Workload, records: Sequence[Record], toolchain: str
) -> Found | None:
    shapes: dict[Workload, list[Record]] = {}
    for r in records:
        if r.workload != key and r.workload.same_conditions(key):
            shapes.setdefault(r.workload, []).append(r)
    near = sorted((w.distance(key), w.shapes, w) for w in shapes if w.distance(key) <= _FAR)
    for _, _, w in near[:_TRIED]:
        record = best_record(shapes[w], toolchain, processor(target))
        if record is None:
            continue
        try:
            schedule = _adapted(record, program, target)
        except TensorDSLError:
            continue
        if schedule is not None:
            default = ", where the default was best" if record.sketch == "default" else ""
            return Found("nearest", schedule, record, f"no record; as tuned for {describe(w.shapes)}{default}")
    return None


def _adapted(record: Record, program: Program, target: Target) -> Schedule | None:
    """A record of other sizes on this program: its sketch with its parameters, where they are allowed
    here; the default schedule of this one where the default was best there; the trace itself where no
    sketch of that name is known."""
    from tensordsl.autotune.space import DEFAULT
    from tensordsl.schedules.default import default_schedule
    from tensordsl.schedules.sketches import sketches

    if record.sketch == DEFAULT.sketch:
        return default_schedule(program, target)
    for sketch in sketches(program, target):
        if sketch.name == record.sketch:
            fits = set(record.params) == set(sketch.holes)
            if fits and sketch.allowed(dict(record.params)):
                return sketch.build(dict(record.params)).validate()
            return None
    return replay(record, program)


def model_path(key: Workload) -> Path:
    """Where the learned model of a structure is kept: beside the compiled kernels."""
    from tensordsl.autotune.records import file_name
    from tensordsl.codegen.cache import kernel_cache

    conditions = f"{key.structure}-{key.target}-{key.threads}-{key.cache}{'-exact' if key.exact else ''}"
    return kernel_cache().root / "models" / f"{file_name(conditions)}.json"


def _model(program: Program, target: Target, key: Workload) -> Found | None:
    """The learned model's favourite among some candidates, where it clearly prefers it to the default."""
    from tensordsl.autotune.cost_model import CostModel

    model = CostModel.load(model_path(key))
    if model is None:
        return None
    from tensordsl.autotune.builder import Builder
    from tensordsl.autotune.features import Cost
    from tensordsl.autotune.space import DEFAULT, Candidate, Space

    builder = Builder(program, target)
    space = Space(builder.sketches)
    built: list[tuple[Candidate, Cost]] = []
    for c in [DEFAULT, *(space.draw({}) for _ in range(_MODEL_PICKS))]:
        cost = builder.cost(c) if c is not None else None
        if c is not None and cost is not None:
            built.append((c, cost))
    if len(built) < 2 or built[0][0] != DEFAULT:
        return None
    predicted = model.predict([cost.vector() for _, cost in built])
    best = int(predicted.argmin())
    if predicted[best] > predicted[0] - _MODEL_GAIN:
        return None
    try:
        schedule = builder.schedule(built[best][0]).validate()
    except TensorDSLError:
        return None
    return Found("model", schedule, None, "no record; the model's pick from other shapes of this structure")


# ---------------------------------------------------------------- voice

_SAID: set[Workload] = set()


def announce(found: Found, program: Program, key: Workload) -> None:
    """Say once which rung a kernel comes from, with the command that would tune it."""
    if key in _SAID or found.rung == "record" or settings().quiet:
        return
    _SAID.add(key)
    shapes = describe(key.shapes)
    print(f"tensordsl: {program.name} {shapes}: {found.note}; {tune_command(program)} tunes it", file=sys.stderr)


def tune_command(program: Program) -> str:
    """The command line (or the call) that tunes a program."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not file or module.__name__.startswith("tensordsl"):
            continue
        for name, value in list(vars(module).items()):
            if value is program:
                path = Path(file)
                shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
                return f"`tensordsl tune {shown}:{name}`"
    return "`td.tune(program)`"
