"""Candidate -> Schedule -> cost and C text, each made once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tensordsl.autotune.features import Cost, analyse
from tensordsl.autotune.space import DEFAULT, Candidate
from tensordsl.schedules.schedule import Schedule

from tensordsl.errors import ScheduleError, TensorDSLError, TuneError
from tensordsl.program import Program
from tensordsl.targets import Target

if TYPE_CHECKING:
    from tensordsl.autotune.pinning import Pin
    from tensordsl.autotune.space import SketchLike
    from tensordsl.codegen.source import Source

_KEPT = 400  # schedules in memory


class Builder:
    """The candidates of one program on one target.  cold: see `features.analyse`.  pin: what is fixed."""

    def __init__(self, program: Program, target: Target, cold: bool = False, pin: Pin | None = None) -> None:
        from tensordsl.schedules import sketches as rules

        self.program = program
        self.target = target
        self.cold = cold
        self.pin = pin
        self.sketches: Sequence[SketchLike] = rules.sketches(program, target) if pin is None else pin.sketches
        self._by_name = {s.name: s for s in self.sketches}
        self._schedules: OrderedDict[Candidate, Schedule] = OrderedDict()

    def schedule(self, c: Candidate) -> Schedule:
        """Raises ScheduleError where the sketch cannot be built with these parameters."""
        if c in self._schedules:
            self._schedules.move_to_end(c)
            return self._schedules[c]
        schedule = self._build(c)
        self._schedules[c] = schedule
        if len(self._schedules) > _KEPT:
            self._schedules.popitem(last=False)
        return schedule

    def _build(self, c: Candidate) -> Schedule:
        if c == DEFAULT:
            from tensordsl.schedules.default import default_schedule, first_valid

            if self.pin is not None:
                return first_valid(self.pin.sketches[0], self.pin.plain)
            return default_schedule(self.program, self.target)
        if c.sketch not in self._by_name:
            raise TuneError(f"there is no sketch {c.sketch!r}", legal=sorted(self._by_name))
        return self._by_name[c.sketch].build(dict(c.params))

    def cost(self, c: Candidate) -> Cost | None:
        """The analytical model's view, None where the candidate cannot be built."""
        try:
            return analyse(self.schedule(c).nest, self.target, self.cold)
        except (ScheduleError, TuneError):
            return None

    def source(self, c: Candidate) -> Source | TensorDSLError:
        """The C text, or why there is none."""
        from tensordsl.codegen.c.printer import to_c

        try:
            return to_c(self.schedule(c).nest, self.target)
        except TensorDSLError as error:
            return error
