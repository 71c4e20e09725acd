"""The command line.  Errors of the user are one message and exit status 2."""

from __future__ import annotations

import contextlib
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tensordsl.errors import entry_file

if TYPE_CHECKING:
    from tensordsl.autotune.lookup import Found
    from tensordsl.autotune.records import Log, Record
    from tensordsl.autotune.workload import Cache

    from tensordsl.program import Program
    from tensordsl.targets import Target

entry_file(__file__)

_FILE = click.argument("operators", metavar="FILE[:NAME]")
_FILES = click.argument("operators", metavar="FILE[:NAME]...", nargs=-1, required=True)
_SET = click.option("--set", "sizes", metavar="M=512", multiple=True, help="Size of a dimension; repeat for more.")
_TARGET = click.option("--target", default="native", show_default=True, help="Machine to generate code for.")
_LOGS = click.option("--log-dir", type=click.Path(file_okay=False), help="Tuning logs [default: TD_LOG_DIR, "
                     "tuning_logs of this folder or of the checkout around it, or the user's folder].")  # fmt: skip
_COLD = click.option("--cold", is_flag=True, help="Operands in memory, not in the caches: its own records and times.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tensordsl", prog_name="tensordsl")
def cli() -> None:
    """Tensor operators as math: tune them on this machine, look at them, build C libraries.

    FILE is a Python file; NAME is one of its Programs (or an operator, with --set).
    """


@cli.command()
@_FILES
@_SET
@_TARGET
@click.option("--trials", type=click.IntRange(min=1), help="Candidates to try in all [default: 64, without --seconds].")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Time limit for each program.")
@_COLD
@click.option("--seed", type=int, default=0, show_default=True, help="Start of the random numbers.")
@_LOGS
def tune(
    operators: Sequence[str], sizes: Sequence[str], target: str, trials: int | None, seconds: float | None, cold: bool,
    seed: int, log_dir: str | None,
) -> None:  # fmt: skip
    """Search for the fastest schedule by measuring on this machine."""
    from tensordsl.autotune import driver
    from tensordsl.autotune.progress import Progress, duration
    from tensordsl.autotune.space import DEFAULT
    from tensordsl.autotune.why import why

    machine = driver.runnable(target)
    if trials is None and seconds is None:
        trials = 64
    for name, program in _programs(operators, sizes).items():
        start = driver.best_schedule(program, machine, log_dir, _cache(cold))
        click.echo(f"{name}: {start.note}")
        limits = why(start.schedule, machine, cold=cold).limits
        with Progress(name, limits) as progress:
            result = driver.tune(
                program, machine, trials, seconds, log_dir, cache=_cache(cold), seed=seed,
                observer=progress,
            )  # fmt: skip
        found = why(result.schedule, machine, result.time_us, cold)
        gain, low, high = result.gain[1], result.gain[0], result.gain[2]
        resumed = sum(t.resumed for t in result.history)
        kept = result.winner.candidate == DEFAULT
        compared = (
            "the default schedule stays: nothing is 2 % faster"
            if kept
            else f"default {duration(result.default_time_us)}, gain {gain:.3f}x ({low:.3f} to {high:.3f})"
        )
        click.echo(
            f"{name}: {duration(result.time_us)}, {100 * (found.share or 0):.0f} % of {found.limits.limiting} peak; "
            f"{compared}"
        )
        click.echo(
            f"{name}: {len(result.history)} trials{f' ({resumed} from the log)' if resumed else ''}, stopped because: "
            f"{result.stopped_because}; winner {result.winner.candidate}; recorded in {_shown(result.log)}"
        )
        if result.stopped_because == "interrupted":
            raise KeyboardInterrupt


@cli.command()
@_FILES
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder of the library.")
@click.option("--name", required=True, help="Name of the library: the prefix of its functions.")
@_SET
@_TARGET
@_COLD
@_LOGS
def build(
    operators: Sequence[str], output: str, name: str, sizes: Sequence[str], target: str, cold: bool, log_dir: str | None
) -> None:
    """Build a C library: header, .so, .a and manifest."""
    from tensordsl.autotune import driver

    if not output:
        raise click.BadParameter("the name of the folder is empty", param_hint="'-o'")
    found = _programs(operators, sizes)

    def say(program: Program, chosen: Found) -> None:
        shown = next((n for n, p in found.items() if p is program), program.name)
        click.echo(f"{shown}: {chosen.note}")

    library = driver.build_library(
        list(found.values()), output, name=name, target=target, log_dir=log_dir, cache=_cache(cold), say=say
    )
    click.echo(str(library))


@cli.command()
@_FILE
@click.option("--program", "what", flag_value="program", help="The definitions.")
@click.option("--nest", "what", flag_value="nest", default=True, help="The loop nest (default).")
@click.option("--c", "what", flag_value="c", help="The C text.")
@click.option("--debug", "what", flag_value="debug", help="The C text of the debug build: every access checked.")
@click.option("--trace", "what", flag_value="trace", help="The schedule as Python.")
@click.option("--why", "what", flag_value="why", help="What limits it, and which steps the default does without.")
@_SET
@_TARGET
@_COLD
@_LOGS
def show(operators: str, what: str, sizes: Sequence[str], target: str, cold: bool, log_dir: str | None) -> None:
    """Print a program at one stage of its road."""
    from tensordsl.autotune import driver
    from tensordsl.autotune.lookup import foreign_names

    from tensordsl import targets

    machine = driver.runnable(target) if what == "why" else targets.target(target)
    for name, program in _programs([operators], sizes).items():
        if what == "program":
            click.echo(str(program))
            continue
        found = driver.best_schedule(program, machine, log_dir, _cache(cold))
        click.echo(f"{name}: {found.note}", err=True)
        click.echo(
            "\n".join(_why_lines(found, program, machine, cold)) if what == "why" else _SHOWN[what](found, machine)
        )
        names = foreign_names(found.record, program) if what == "trace" and found.record is not None else ""
        if names:
            click.echo(f"# names are those of the record: {names}")


def _c_text(found: Found, target: Target) -> str:
    from tensordsl.codegen.c.printer import to_c

    return to_c(found.schedule.nest, target).text


def _debug_text(found: Found, target: Target) -> str:
    from tensordsl.codegen.checked import checked_source

    return checked_source(found.schedule.nest, target)[0].text


def _why_lines(found: Found, program: Program, target: Target, cold: bool) -> Iterator[str]:
    from tensordsl.autotune.why import refused, why

    yield from why(found.schedule, target, found.time_us, cold).lines()
    yield from refused(program, target)


_SHOWN: Mapping[str, Callable[[Any, Any], str]] = {
    "nest": lambda found, target: str(found.schedule.nest),
    "trace": lambda found, target: found.schedule.trace.to_python(),
    "c": _c_text,
    "debug": _debug_text,
}


@cli.command()
@_FILES
@_SET
@_TARGET
@_COLD
@_LOGS
def verify(operators: Sequence[str], sizes: Sequence[str], target: str, cold: bool, log_dir: str | None) -> None:
    """Compare kernels with the interpreter on random, integer and special inputs."""
    from tensordsl.autotune import driver

    machine = driver.runnable(target)
    wrong = 0
    for name, program in _programs(operators, sizes).items():
        found = driver.best_schedule(program, machine, log_dir, _cache(cold))
        click.echo(f"{name}: {found.note}")
        for verdict in driver.verify(found.schedule, machine, program=program):
            how = "bit by bit" if verdict.exact else "within the derived tolerance"
            click.echo(f"{name}: {verdict.case} inputs: {verdict.error or f'agrees {how}'}")
            wrong += bool(verdict.error)
    if wrong:
        sys.exit(1)


@cli.command()
@_FILES
@_SET
@_TARGET
@_COLD
@_LOGS
def bench(operators: Sequence[str], sizes: Sequence[str], target: str, cold: bool, log_dir: str | None) -> None:
    """Time the best known kernel beside the default one."""
    from tensordsl.autotune import driver
    from tensordsl.autotune.progress import duration
    from tensordsl.autotune.session import gain
    from tensordsl.autotune.why import why
    from tensordsl.schedules.default import default_schedule

    machine = driver.runnable(target)
    rows = []
    for name, program in _programs(operators, sizes).items():
        found = driver.best_schedule(program, machine, log_dir, _cache(cold))
        click.echo(f"{name}: {found.note}", err=True)
        default = default_schedule(program, machine)
        same = str(found.schedule.nest) == str(default.nest)
        compared = [found.schedule] if same else [found.schedule, default]
        outcomes = driver.bench(compared, machine, cache=_cache(cold), program=program)
        for outcome in outcomes:
            _right(name, outcome)
        best, other = outcomes[0], outcomes[-1]
        share = why(found.schedule, machine, best.time_us, cold)
        low, middle, high = gain(other, best)
        rows.append((
            name, found.rung, duration(best.time_us), duration(other.time_us),
            "it is the default" if same else f"{middle:.3f}x ({low:.3f} to {high:.3f})",
            f"{100 * (share.share or 0):.0f} % {share.limits.limiting}",
        ))  # fmt: skip
    _table(("program", "rung", "time", "default", "gain", "of peak"), rows)


def _right(name: str, outcome: Any) -> None:
    from tensordsl.errors import BuildError

    if outcome.status != "ok":
        raise BuildError(f"{name}: {outcome.status}: {outcome.error}")


@cli.group()
def log() -> None:
    """Look at tuning logs."""


_LOG_PATH = click.argument("path", required=False, type=click.Path())


@log.command()
@_LOG_PATH
def best(path: str | None) -> None:
    """The record that is used on this machine, for every workload."""
    from tensordsl.autotune.driver import compiler_id
    from tensordsl.autotune.lookup import best_record, processor
    from tensordsl.autotune.progress import duration
    from tensordsl.autotune.workload import describe

    from tensordsl import targets

    compiler, machine = compiler_id(), processor(targets.target("native"))
    rows = []
    for file in _logs(path):
        for workload, records in _by_workload(file).items():
            r = best_record(records, compiler, machine)
            if r is None:
                continue
            gained = f"{r.gain[0]:.2f}x" if r.gain else "-"
            what = f"{r.sketch} {' '.join(f'{k}={v}' for k, v in r.params.items())}".strip()
            where = (r.operator, describe(workload.shapes), workload.target, r.processor.name, workload.cache)
            rows.append((*where, duration(r.time_us), gained, what, r.date[:10]))
    _table(("operator", "shapes", "target", "processor", "cache", "time", "gain", "schedule", "date"), rows)


@log.command()
@_LOG_PATH
def stats(path: str | None) -> None:
    """How many records of each status the logs hold."""
    rows = []
    for file in _logs(path):
        records = file.read()
        counts = Counter(r.status if r.kind == "candidate" else r.kind for r in records)
        workloads = len({r.workload for r in records})
        statuses = " ".join(f"{k} {v}" for k, v in counts.items())
        rows.append((_shown(file.path), str(len(records)), str(workloads), statuses))
    _table(("log", "records", "workloads", "statuses"), rows)


@log.command()
@_LOG_PATH
def check(path: str | None) -> None:
    """Read every line strictly; the first that is no record of a schedule is an error."""
    files = _logs(path)
    total = sum(file.check() for file in files)
    click.echo(f"{total} records in {len(files)} logs: all well-formed")


def _logs(path: str | None) -> list[Log]:
    from tensordsl.autotune.lookup import log_directory
    from tensordsl.autotune.records import logs

    from tensordsl.errors import RecordError

    place = log_directory(path)
    found = logs(place)
    if not found:
        raise RecordError(
            f"there is no tuning log in {_shown(place)}" if place.exists() else f"there is no {_shown(place)}",
            hint="`tensordsl tune` writes them; give their folder or a file",
        )
    return found


def _by_workload(file: Log) -> dict[Any, list[Record]]:
    found: dict[Any, list[Record]] = {}
    for r in file.read():
        found.setdefault(r.workload, []).append(r)
    return found


def _programs(specs: Sequence[str], sizes: Sequence[str]) -> dict[str, Program]:
    """Every Program named, by a name of its own: that of its variable, with the file where two have it."""
    from tensordsl.autotune.operator_files import parse_sizes, programs, split

    found: dict[str, Program] = {}
    origin: dict[str, Path] = {}
    for spec in specs:
        file = split(spec)[0]
        for name, program in programs(spec, parse_sizes(sizes)).items():
            own = name if origin.setdefault(name, file.resolve()) == file.resolve() else f"{file}:{name}"
            found[own] = program
    return found


def _cache(cold: bool) -> Cache:
    return "cold" if cold else "warm"


def _shown(path: Path) -> str:
    """A path as short as it can be said."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal; elsewhere columns that other programs can cut."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*head)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    for line in _columns([head, *rows]):
        click.echo(line)


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point.  Exit status: 0 well, 1 wrong results or a bug, 2 an error of the user or of their
    machine, 130 Ctrl-C."""
    from tensordsl.errors import InternalError, TensorDSLError

    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            sys.exit(cli.main(args=None if arguments is None else list(arguments), prog_name="tensordsl",
                              standalone_mode=False) or 0)  # fmt: skip
        except click.exceptions.Abort:
            _fail("interrupted", 130)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted", 130)
        except TensorDSLError as error:
            _fail(f"{type(error).__name__}: {error}", 1 if isinstance(error, InternalError) else 2)
        except BrokenPipeError:
            sys.exit(0)
        except (OSError, MemoryError) as error:  # of the machine: a full disk behind the output, no memory
            _fail(f"{type(error).__name__}: {_reason(error)}", 2)
        except Exception as error:
            bug = InternalError(f"{type(error).__name__}: {error}", context=traceback.format_exc())
            _fail(f"InternalError: {bug}", 1)


def _reason(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return str(error) or "there is not enough memory"
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as its text alone: the line of ours that raised it says nothing to a user."""
    click.echo(f"warning: {message}", err=True)


def _fail(message: str, status: int) -> None:
    with contextlib.suppress(OSError):  # where not even that can be written, the status says it
        click.echo(message, err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
