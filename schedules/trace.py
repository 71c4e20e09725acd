"""A schedule as data: the list of its steps, as JSON and as Python."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union

from tensordsl.errors import ScheduleError

#: What an argument of a step may be: what JSON can hold, or a hole to be filled.
Argument = Union[None, bool, int, float, str, "Hole", tuple["Argument", ...], dict[str, "Argument"]]


@dataclass(frozen=True, slots=True)
class Hole:
    """A named integer that is not chosen yet: a trace with holes is a sketch."""

    name: str

    def __repr__(self) -> str:
        return f"<{self.name}>"


@dataclass(frozen=True, slots=True)
class Step:
    """One primitive and its arguments, positional ones first."""

    name: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self._call(_text)

    def to_python(self) -> str:
        """The call as Python; a hole is a variable of its name (dots as underscores)."""
        return self._call(lambda v: _text(v, True))

    def _call(self, text: Callable[[Any], str]) -> str:
        parts = [text(a) for a in self.args] + [f"{k}={text(v)}" for k, v in self.kwargs]
        return f"{self.name}({', '.join(parts)})"


def _text(value: Any, python: bool = False) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # Python reads it alike
    if isinstance(value, tuple):
        return f"({', '.join(_text(v, python) for v in value)}{',' if len(value) == 1 else ''})"
    if python and isinstance(value, Hole):
        return value.name.replace(".", "_")
    return repr(value)


@dataclass(frozen=True, slots=True)
class Trace:
    """The steps of a schedule, in order.  A trace without holes replays on the program it was made for."""

    steps: tuple[Step, ...] = ()

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def then(self, step: Step) -> Trace:
        return Trace((*self.steps, step))

    def holes(self) -> tuple[str, ...]:
        """The names of the holes, in order of appearance."""
        found: dict[str, None] = {}

        def go(x: Any) -> None:
            if isinstance(x, Hole):
                found[x.name] = None
            elif isinstance(x, (tuple, list)):
                for y in x:
                    go(y)

        for s in self.steps:
            go(s.args)
            go(tuple(v for _, v in s.kwargs))
        return tuple(found)

    def fill(self, values: Mapping[str, int]) -> Trace:
        """The trace with its holes replaced.  Raises ScheduleError for a hole without a value."""
        missing = [h for h in self.holes() if h not in values]
        if missing:
            raise ScheduleError(f"fill: no value for hole {missing[0]!r}", legal=sorted(values))

        def go(x: Any) -> Any:
            if isinstance(x, Hole):
                return values[x.name]
            return tuple(go(y) for y in x) if isinstance(x, (tuple, list)) else x

        return Trace(tuple(Step(s.name, go(s.args), tuple((k, go(v)) for k, v in s.kwargs)) for s in self.steps))

    def to_json(self) -> list[Any]:
        """A JSON value: one ``[name, args, kwargs]`` per step; holes as ``{"hole": name}``."""

        def go(x: Any) -> Any:
            if isinstance(x, Hole):
                return {"hole": x.name}
            return [go(y) for y in x] if isinstance(x, (tuple, list)) else x

        return [[s.name, go(s.args), {k: go(v) for k, v in s.kwargs}] for s in self.steps]

    @staticmethod
    def from_json(value: Any) -> Trace:
        """The inverse of `to_json`.  Raises ScheduleError for anything else."""

        def go(x: Any) -> Any:
            if isinstance(x, dict):
                if set(x) != {"hole"}:
                    raise ScheduleError(f"a trace argument is an object with keys {sorted(x)}")
                return Hole(str(x["hole"]))
            return tuple(go(y) for y in x) if isinstance(x, (tuple, list)) else x

        steps = []
        if not isinstance(value, (list, tuple)):
            raise ScheduleError(f"a trace is a list of steps, got {type(value).__name__}")
        for entry in value:
            if not (isinstance(entry, (list, tuple)) and len(entry) == 3 and isinstance(entry[0], str)
                    and isinstance(entry[1], (list, tuple)) and isinstance(entry[2], dict)):  # fmt: skip
                raise ScheduleError(f"a step of a trace is [name, args, kwargs], got {entry!r}")
            steps.append(Step(entry[0], go(entry[1]), tuple((k, go(v)) for k, v in entry[2].items())))
        return Trace(tuple(steps))

    def to_python(self, name: str = "s") -> str:
        """Statements that repeat the schedule on a variable that holds ``td.Schedule(program)``; holes are
        variables of their names."""
        return "\n".join(f"{name} = {name}.{step.to_python()}" for step in self.steps)

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))
