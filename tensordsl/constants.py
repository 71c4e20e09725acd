"""Constants: tensors whose values are known when a kernel is built, and what follows from them alone.

The values are in the kernel, not among its arguments.  A definition that reads nothing but constants is
computed once, when the kernel is built (`folded`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tensordsl import dtypes
from tensordsl.errors import ProgramError, user_location
from tensordsl.tensor import Tensor

if TYPE_CHECKING:
    from tensordsl.program import Program


def constant(array: Any, name: str | None = None) -> Tensor:
    """A tensor with the values of an array (of its shape and type; Python floats are float32).

    Raises ProgramError for something that is no array of a type of the language.
    """
    import numpy as np  # the language itself needs no numpy

    values = np.asarray(array)
    if not isinstance(array, (np.ndarray, np.generic)) and values.dtype == np.float64:
        values = values.astype(np.float32)
    try:
        dtype = dtypes.dtype(values.dtype.name)
    except ProgramError:
        raise ProgramError(
            f"constant: an array of {values.dtype} is no tensor", location=user_location(), hint="convert it first"
        ) from None
    values = np.array(values, order="C")  # a copy: later changes of the array do not reach the program
    values.setflags(write=False)
    label = "constant" if name is None else name
    known = (int(values.min()), int(values.max())) if dtype.kind in "iu" and values.size else None
    where = user_location()
    return Tensor(label, values.shape, dtype, named=name is not None, location=where, values=known, value=values)


def constants_of(outputs: Sequence[Tensor]) -> list[Tensor]:
    """The constants that some tensors are computed from, in the order in which they are read."""
    found: list[Tensor] = []
    seen: set[int] = set()
    waiting = [t for t in reversed(outputs) if isinstance(t, Tensor)]
    while waiting:
        t = waiting.pop()
        if id(t) in seen:
            continue
        seen.add(id(t))
        if t.value is not None:
            found.append(t)
        if t.definition is not None:
            waiting.extend(r.source for r in reversed(t.definition.reads) if isinstance(r.source, Tensor))
    return found


def foldable(program: Program) -> list[str]:
    """The definitions that read constants alone (or nothing that is read), other than outputs."""
    known = {t.name for t in program.constants}
    outputs = {t.name for t in program.outputs}
    for g in program.groups:
        names = {t.name for t in g.tensors}
        used = {r.source.name for t in g.tensors if t.definition is not None for r in t.definition.reads}
        if used and used <= known | names and not names & outputs:
            known |= names
    return [t.name for t in program.tensors if t.name in known]


def folded(program: Program) -> Program:
    """The program with everything computed that follows from constants alone, in the types of the definitions."""
    from tensordsl.evaluation import Evaluator
    from tensordsl.program import Program

    names = foldable(program)
    if not names:
        return program
    needed = [n for n in names if any(c.name not in names for c in program.consumers(n))]
    part = Program([], [program[n] for n in needed])
    cells = Evaluator(part, "float64").run({t.name: t.value for t in part.constants})
    values = {t.name: cells[t.name].value.astype(t.dtype.name) for t in part.outputs}
    return program.with_values(values)
