"""A nest for all sizes, at some of them: the same loops with numbers in the place of dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tensordsl.schedules.loopnest import Alloc, Buffer, LoopNest, Prefetch, Stmt, Store, map_values, rewrite, substitute

from tensordsl import instances
from tensordsl.expr import Expr, Read
from tensordsl.sizes import Size


def at_sizes(nest: LoopNest, sizes: Mapping[str, int]) -> LoopNest:
    """The nest of ``nest.program.at(sizes)``.  Raises ProgramError for illegal sizes."""
    program = instances.at(nest.program, sizes)
    known: dict[Buffer, Buffer] = {}

    def number(e: int) -> int:
        return e.at(sizes) if isinstance(e, Size) else e

    def own(b: Buffer) -> Buffer:
        if b not in known:
            known[b] = replace(b, shape=tuple(map(number, b.shape)), pitch=number(b.pitch))
        return known[b]

    def value(e: Expr) -> Expr | None:
        return (
            replace(e, source=own(e.source))
            if isinstance(e, Read) and isinstance(e.source, Buffer)
            else instances.folded(e)
        )

    def stmt(s: Stmt) -> Stmt | None:
        return replace(s, buffer=own(s.buffer)) if isinstance(s, (Store, Alloc, Prefetch)) else None

    body = substitute(nest.body, instances.values(nest.program.free, sizes))
    return LoopNest(program, tuple(map(own, nest.parameters)), rewrite(map_values(body, value), stmt))
