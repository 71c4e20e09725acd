"""Sizes known only at the call, at the entry of a kernel: its last parameters, and what it assumes of them."""

from __future__ import annotations

from collections.abc import Sequence

from tensordsl.codegen.c.addresses import affine_text
from tensordsl.codegen.c.writer import Writer
from tensordsl.schedules.loopnest import Buffer

from tensordsl.affine import Affine, Dim
from tensordsl.program import Program
from tensordsl.sizes import Size


def declarations(w: Writer, free: Sequence[Dim]) -> list[str]:
    """The parameters: the dimensions in order."""
    return [f"int64_t {w.names.loop(d.name)}" for d in free]


def checks(w: Writer, program: Program) -> list[str]:
    """Sizes against the assumptions are refused; then the variables that the loops use."""
    lines = []
    required = [part for d in program.free for part in legal(d, w.names.loop(d.name))]
    if required:
        lines.append(f"    if (!({' && '.join(required)})) return 1;")
    for d in program.free:
        if d.by > 1:
            n = w.names.loop(d.name)
            rest = f"({n} - {d.rest})" if d.rest else n
            lines.append(f"    const int64_t {w.names.loop(d)} = {rest} / {d.by};")
    lines += [f"    if ({affine_text(w, r)} < 0) return 1;" for r in program.relations]
    return lines


def legal(d: Dim, name: str) -> list[str]:
    """C conditions for the values that a dimension may have."""
    found = [f"{name} >= {d.least * d.by + d.rest}"]
    if d.most is not None:
        found.append(f"{name} <= {d.most * d.by + d.rest}")
    if d.by > 1:
        found.append(f"{name} % {d.by} == {d.rest}")
    return found


def missing(w: Writer, b: Buffer) -> str:
    """Is there no memory for a buffer that has elements?"""
    name, size = w.names[b.name], b.size()
    return f"(!{name} && {affine_text(w, Affine.of(size))} != 0)" if isinstance(size, Size) else f"!{name}"
