"""Kernels whose sizes are known at the call, in a library: guards, workspace formulas and what they are called."""

from __future__ import annotations

from collections.abc import Mapping

from tensordsl.codegen.c.addresses import affine_text
from tensordsl.codegen.c.guards import legal
from tensordsl.codegen.library.names import parameter_name

from tensordsl import instances
from tensordsl.affine import Affine, Dim, Interval
from tensordsl.program import Program
from tensordsl.sizes import Size


class _Dimensions:
    """The variables of sizes in terms of the parameters of an exported function."""

    def __init__(self, program: Program) -> None:
        self._dims = {str(d): d for d in program.free}
        self.ranges: Mapping[str, Interval] = {}

    def variable(self, name: str) -> str:
        d = self._dims[name]
        value = parameter_name(d.name)
        value = f"({value} - {d.rest})" if d.rest else value
        return value if d.by == 1 else f"({value} / {d.by})"


def size_text(program: Program, size: int) -> str:
    """A size in C, where the dimensions are parameters."""
    return affine_text(_Dimensions(program), Affine.of(size))


def guard(program: Program) -> str:
    """The C condition for the sizes that a kernel is for ("": all of them)."""
    found = [f"{parameter_name(d)} == {n}" for d, n in program.dims.items() if not isinstance(n, Size)]
    found += [part for d in program.free for part in legal(d, parameter_name(d.name))]
    found += [f"{affine_text(_Dimensions(program), r)} >= 0" for r in program.relations]
    return " && ".join(found)


def passed(program: Program) -> list[str]:
    """The dimensions that a kernel takes after its tensors."""
    return [parameter_name(d.name) for d in program.free]


def key(program: Program) -> tuple[str, ...]:
    """What tells the kernels of one operator apart."""
    return tuple([str(n) for n in program.dims.values()] + instances.guard_texts(program))


def label(program: Program) -> str:
    """A part of a C name that says which sizes a kernel is for."""
    parts = [str(n) if not isinstance(n, Size) else d for d, n in program.dims.items()]
    for d in program.free:
        parts += _limits(d)
    return "_".join(parts + [f"r{n}" for n in range(len(program.relations))])


def _limits(d: Dim) -> list[str]:
    by = [f"{d.name}x{d.by}" if not d.rest else f"{d.name}x{d.by}p{d.rest}"] if d.by > 1 else []
    least = [f"from{d.least * d.by + d.rest}"] if d.least else []
    return by + least + ([f"to{d.most * d.by + d.rest}"] if d.most is not None else [])


def sizes_text(program: Program) -> str:
    """The sizes for people."""
    fixed = [f"{d}={n}" for d, n in program.dims.items() if not isinstance(n, Size)]
    if not program.free:
        return ", ".join(fixed)
    texts = instances.guard_texts(program)
    free = f"any {', '.join(d.name for d in program.free)}" + (f" with {', '.join(texts)}" if texts else "")
    return ", ".join([*fixed, free])
