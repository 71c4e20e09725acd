"""Schedules: values that say in which order a program is computed.

A `Schedule` holds the program (definition steps change it), the loop nest so far and the trace of
steps that made it.  Every primitive is a method that returns a new Schedule; it is declared once,
in `schedules/primitives/`, with the decorator `primitive`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from tensordsl.schedules.arguments import check_arguments
from tensordsl.schedules.loopnest import LoopNest, Stmt
from tensordsl.schedules.lower import lower
from tensordsl.schedules.regions import NoBox
from tensordsl.schedules.rounding import changes_rounding
from tensordsl.schedules.simplify import simplify
from tensordsl.schedules.trace import Step, Trace

from tensordsl.errors import ProgramError, ScheduleError, closest
from tensordsl.program import Program
from tensordsl.sizes import assuming

#: name -> the primitive, filled by the decorator when the families are imported
PRIMITIVES: dict[str, Callable[..., Schedule]] = {}
FAMILIES = (
    "loops",
    "copies",
    "partition",
    "kinds",
    "placement",
    "caches",
    "sliding",
    "definitions",
    "constants",
    "variants",
    "scattering",
    "streaming",
    "scanning",
    "storage",
    "hints",
    "pipeline",
    "decompose",
    "accumulators",
    "causal",
    "layout",
    "interleaving",
    "projection",
    "shearing",
)


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """program: what is computed; nest: the loops; trace: the steps so far.

    checked: prove the nest by value after each step (a person's calls); a sketch applies its steps
    unchecked and proves the result.  Raises ScheduleError where a step does not apply or would
    change the program's meaning.
    """

    program: Program
    nest: LoopNest
    trace: Trace
    checked: bool

    def __init__(
        self, program: Program, nest: LoopNest | None = None, trace: Trace | None = None, checked: bool = True
    ) -> None:
        if not isinstance(program, Program):
            raise ScheduleError(f"Schedule needs a Program, got {type(program).__name__}")
        object.__setattr__(self, "program", program)
        object.__setattr__(self, "nest", lower(program) if nest is None else nest)
        object.__setattr__(self, "trace", Trace() if trace is None else trace)
        object.__setattr__(self, "checked", checked)

    def __getattr__(self, name: str) -> Callable[..., Schedule]:
        if name.startswith("_"):
            raise AttributeError(name)
        return functools.partial(_primitive(name), self)

    def __dir__(self) -> Iterable[str]:
        load_primitives()
        return [*super().__dir__(), *PRIMITIVES]

    def with_nest(self, body: Stmt, program: Program | None = None) -> Schedule:
        """This schedule with other loops (and, after a definition step, another program)."""
        p = program or self.program
        nest = LoopNest(p, self.nest.parameters, simplify(body))
        return Schedule(p, nest, self.trace, self.checked)

    def unchecked(self) -> Schedule:
        """The same schedule; later steps are not proven one by one."""
        return replace_flag(self, False)

    def validate(self) -> Schedule:
        """Itself, proven by value.  Raises ScheduleError with a counterexample."""
        from tensordsl.schedules.polyhedral.validate import validate

        validate(self.nest)
        return self

    @staticmethod
    def replay(program: Program, trace: Trace, checked: bool = False) -> Schedule:
        """The schedule that a trace without holes describes.  Raises ScheduleError where a step does not apply."""
        if trace.holes():
            raise ScheduleError(f"replay: the trace has unfilled holes {', '.join(trace.holes())}")
        s = Schedule(program, checked=checked)
        for step in trace:  # a trace may come from a file: nothing but primitives is called
            s = _primitive(step.name)(s, *step.args, **dict(step.kwargs))
        return s

    def __str__(self) -> str:
        return str(self.nest)


def replace_flag(s: Schedule, checked: bool) -> Schedule:
    return Schedule(s.program, s.nest, s.trace, checked)


def _primitive(name: str) -> Callable[..., Schedule]:
    load_primitives()
    if name not in PRIMITIVES:
        like = closest(name, PRIMITIVES)
        raise ScheduleError(
            f"there is no primitive {name!r}",
            legal=sorted(PRIMITIVES),
            hint=f"did you mean {like!r}?" if like else None,
        )
    return PRIMITIVES[name]


def primitive(fn: Callable[..., Schedule]) -> Callable[..., Schedule]:
    """Declare a primitive: its name and arguments serve the trace and the error alike."""
    signature = inspect.signature(fn)
    name = fn.__name__

    @functools.wraps(fn)
    def apply(s: Schedule, *args: Any, **kwargs: Any) -> Schedule:
        args, kwargs = _plain(args), {k: _plain(v) for k, v in kwargs.items()}
        step = Step(name, args, tuple(kwargs.items()))
        try:
            bound = signature.bind(s, *args, **kwargs)
        except TypeError as e:
            raise ScheduleError(f"{step}: {e}", legal=_usage(fn)) from None
        try:
            check_arguments(fn, bound.arguments)
            with assuming(s.program.relations):
                new = fn(s, *args, **kwargs)
            _check_rounding(s, new, step)
            result = Schedule(new.program, new.nest, s.trace.then(step), s.checked)
            return result.validate() if s.checked else result
        except NoBox as e:
            raise ScheduleError(f"{step}: {e}", context=s.nest) from None
        except ProgramError as e:  # a definition step whose program would not be one
            raise ScheduleError(f"{step}: {e.message}", context=s.nest, counterexample=e.counterexample) from None
        except ScheduleError as e:
            e.message = f"{step}: {e.message}"
            e.args = (e.message,)
            if e.context is None:
                e.context = s.nest
            raise

    PRIMITIVES[name] = apply
    return apply


def _check_rounding(s: Schedule, new: Schedule, step: Step) -> None:
    """Raises ScheduleError where a step may change results that the program fixes to the last bit."""
    if new.program is s.program or s.program.rounding == "free":
        return
    if changes_rounding(step.name, s.program, str(step.args[0] if step.args else "")):
        raise ScheduleError(
            f"the step may change the rounding of results, which {s.program.name} fixes",
            hint="schedule the program itself instead of td.exact or td.reproducible of it",
        )


def _plain(value: Any) -> Any:
    """A value that a trace can hold: tuples for lists, Python's integers for numpy's."""
    if isinstance(value, (tuple, list)):
        return tuple(_plain(v) for v in value)
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _usage(fn: Callable[..., Any]) -> str:
    parameters = list(inspect.signature(fn).parameters.values())[1:]
    shown = [str(p).split(":")[0] if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return f"{fn.__name__}({', '.join(shown)})"


def load_primitives() -> None:
    """Import the families once, so that `PRIMITIVES` is complete."""
    if len(PRIMITIVES) == 0 or not _LOADED:
        for family in FAMILIES:
            try:
                importlib.import_module(f"tensordsl.schedules.primitives.{family}")
            except ModuleNotFoundError as e:
                if e.name != f"tensordsl.schedules.primitives.{family}":
                    raise
        _LOADED.append(True)


_LOADED: list[bool] = []
