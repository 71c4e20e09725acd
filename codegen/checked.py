"""Checked kernels: the debug build of a nest, with errors that name the line of the definition."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tensordsl.codegen.c.checked import MOST_LOOPS, VIOLATION, Checks, plain
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import compile_source
from tensordsl.codegen.runtime import Kernel
from tensordsl.codegen.source import Source
from tensordsl.schedules.loopnest import LoopNest
from tensordsl.schedules.schedule import Schedule

from tensordsl.errors import BuildError
from tensordsl.targets import Target


class CheckedKernel(Kernel):
    """A kernel of `compile(..., debug=True)`: an index outside its tensor or buffer raises BuildError with the
    access, the iteration and the line of the definition."""

    checks: Checks

    def _fail(self, code: int, inputs: Sequence[Any]) -> None:
        if code != VIOLATION:
            super()._fail(code, inputs)
        report = (ctypes.c_int64 * (3 + MOST_LOOPS))()
        library = ctypes.CDLL(str(self.compiled.path))
        library[f"{self.compiled.symbol}_violation"](report)
        site = self.checks.sites[report[0]]
        message, when = site.message(report[1], report[2], tuple(report[3:]))
        raise BuildError(
            f"{self.name}: {message}",
            location=site.location,
            context=self.nest,
            counterexample=when,
            hint="the loops do not compute the program: Schedule.validate says why",
        )


def checked_source(nest: LoopNest, target: Target) -> tuple[Source, Checks]:
    """The text of a checked kernel, and what its checks mean."""
    checks = Checks(nest)
    source = to_c(plain(nest), target, checks=checks)
    return replace(source, flags=("-g", "-O1")), checks


def checked_kernel(nest: LoopNest, target: Target, schedule: Schedule | None = None) -> CheckedKernel:
    """A nest, proven or not, as a kernel that checks every access."""
    source, checks = checked_source(nest, target)
    kernel = CheckedKernel(compile_source(source), nest, schedule)
    kernel.checks = checks
    return kernel
