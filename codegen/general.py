"""Kernels for sizes known only at the call: the first kernel whose guard holds is taken.

A kernel is (nest, guard).  The guard of a fixed size is ``M == 128``, that of the general kernel what
its program assumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensordsl.codegen import rows
from tensordsl.codegen.compile import CompiledKernel
from tensordsl.codegen.runtime import Kernel, load, parameters
from tensordsl.schedules.loopnest import LoopNest
from tensordsl.schedules.schedule import Schedule

from tensordsl import instances
from tensordsl.errors import BuildError, ProgramError
from tensordsl.program import Program
from tensordsl.sizes import Size

#: Shapes whose kernel is remembered, so that it is found at once the next time.
_REMEMBERED = 1024


class Guarded:
    """A compiled kernel and the sizes it is for.  fixed: dimension -> its only value."""

    __slots__ = ("compiled", "fixed", "function", "nest", "parameters", "schedule")

    def __init__(self, compiled: CompiledKernel, schedule: Schedule) -> None:
        self.compiled, self.schedule = compiled, schedule
        self.nest: LoopNest = schedule.nest
        self.parameters = parameters(self.nest)
        self.function = load(compiled)
        self.fixed = {d: n for d, n in self.program.dims.items() if not isinstance(n, Size)}

    @property
    def program(self) -> Program:
        return self.nest.program

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Is the kernel for these sizes?"""
        return all(sizes[d] == n for d, n in self.fixed.items()) and instances.violated(self.program, sizes) is None

    def at(self, sizes: Mapping[str, int]) -> Kernel:
        own = {d.name: sizes[d.name] for d in self.program.free}
        return Kernel(self.compiled, self.nest, self.schedule, own, self.parameters, self.function)

    def __str__(self) -> str:
        texts = [f"{d} == {n}" for d, n in self.fixed.items()] + instances.guard_texts(self.program)
        return " and ".join(texts) or "all sizes"


class GeneralKernel(Kernel):
    """A kernel for all legal sizes: ``out = kernel(x, w)``, called as a `Kernel` of fixed sizes is.

    kernels: in the order in which their guards are tried; the last one is the general one, whose
    program says what the sizes of the arrays may be.  Raises BuildError for other sizes, and says
    which assumption they do not fulfil.
    """

    def __init__(self, kernels: Sequence[Guarded]) -> None:
        self.kernels = tuple(kernels)
        last = self.kernels[-1]
        self.program = last.program
        self.compiled, self.source, self.nest, self.schedule = (
            last.compiled,
            last.compiled.source,
            last.nest,
            last.schedule,
        )
        self.parameters = last.parameters
        self._inputs = tuple(p for p in self.parameters if p.role != "output")
        self._tensors = self.program.arguments
        self._pitched = tuple(n for n, t in enumerate(self._tensors) if isinstance(t.pitch, Size))
        self._known: dict[tuple[tuple[tuple[int, ...], ...], tuple[int, ...]], Kernel] = {}

    def __call__(self, *inputs: Any, out: Any = None) -> Any:
        shapes = tuple([x.shape if type(x) is np.ndarray else _shape(x) for x in inputs])
        pitches = tuple([rows.pitch(inputs[n]) for n in self._pitched]) if len(inputs) == len(self._inputs) else ()
        kernel = self._known.get((shapes, pitches))
        if kernel is None:
            kernel = self._find(shapes, pitches)
        return kernel(*inputs, out=out)

    def at(self, **sizes: int) -> Kernel:
        """The kernel that is taken for some sizes.  Raises BuildError for sizes that are not legal."""
        missing = [d.name for d in self.program.free if d.name not in sizes]
        if missing:
            raise BuildError(f"{self.name}: no size for {', '.join(missing)}")
        try:
            instances.require_legal(self.program, sizes)
        except ProgramError as e:
            raise BuildError(e.message, legal=e.legal) from None
        return next(k for k in self.kernels if k.holds(sizes)).at(sizes)

    def _find(self, shapes: tuple[tuple[int, ...], ...], pitches: tuple[int, ...]) -> Kernel:
        if len(shapes) != len(self._tensors):
            raise BuildError(
                f"{self.name} takes {len(self._tensors)} inputs, got {len(shapes)}",
                legal=", ".join(map(str, self._inputs)),
            )
        try:
            apart = {self._tensors[n].name: pitch for n, pitch in zip(self._pitched, pitches)}
            sizes = instances.sizes_of(self.program, list(zip(self._tensors, shapes)), apart)
        except ProgramError as e:
            raise BuildError(e.message, legal=e.legal, hint=e.hint) from None
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        kernel = self._known[shapes, pitches] = self.at(**sizes)
        return kernel

    def __repr__(self) -> str:
        lines = [f"GeneralKernel {self.name}({', '.join(map(str, self._inputs))}) for {self.target}"]
        return "\n".join([*lines, *(f"  {k}: {k.compiled.path}" for k in self.kernels)])


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of an array of any framework; a number has none."""
    return tuple(getattr(value, "shape", ()))
