"""Kernels for sizes known at the call: those of given sizes by their best known schedules, then the
general one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Union

from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.compile import CompiledKernel, compile_sources
from tensordsl.codegen.general import GeneralKernel, Guarded
from tensordsl.schedules.schedule import Schedule

from tensordsl.errors import ProgramError
from tensordsl.operators import Operator
from tensordsl.program import Program
from tensordsl.targets import Target

#: Some or all sizes of an operator.
Sizes = Mapping[str, int]


def programs(operator: Union[Operator, Program], sizes: Sequence[Sizes] = ()) -> list[Program]:
    """The programs for given sizes, those with the most first, and the one for all sizes."""
    general = operator.symbolic() if isinstance(operator, Operator) else operator
    given: list[Program] = []
    for some in sizes:
        if not isinstance(some, Mapping):
            raise ProgramError(f"sizes are dictionaries, got {some!r}", hint='such as sizes=[{"M": 128}]')
        if isinstance(operator, Operator):
            given.append(operator.symbolic(**some) if set(some) < set(operator.dims) else operator.bind(**some))
        else:
            given.append(operator.at(**some))
    return [*sorted(given, key=lambda p: len(p.free)), general]


def compile_guarded(schedules: Iterable[Schedule], target: Target) -> GeneralKernel:
    """Schedules in the order of their guards, the general one last, as one kernel.  Raises BuildError."""
    chosen = list(schedules)
    kernels = []
    for s, found in zip(chosen, compile_sources([to_c(s.nest, target) for s in chosen])):
        if not isinstance(found, CompiledKernel):
            raise found
        kernels.append(Guarded(found, s))
    return GeneralKernel(kernels)


def compile_operator(
    operator: Union[Operator, Program], target: Target, sizes: Sequence[Sizes], best: Callable[[Program], Schedule]
) -> GeneralKernel:
    """The kernels of an operator.  best: the schedule of a program of fixed sizes."""
    from tensordsl.schedules.default import default_schedule

    found = programs(operator, sizes)
    return compile_guarded([default_schedule(p, target) if p.free else best(p) for p in found], target)
