"""A nest for all sizes, at some of them: the same loops with numbers in the place of dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tensordsl.schedules.loopnest import Alloc, Buffer, For, If, LoopNest, Prefetch, Stmt, Store, rewrite, substitute

from tensordsl import accesses, expr, instances
from tensordsl.affine import Affine
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

    def source(b: Any) -> Any:
        return own(b) if isinstance(b, Buffer) else b

    def t(indices: tuple[Affine, ...]) -> tuple[Affine, ...]:
        return accesses.map_index_sources(indices, source)

    def stmt(s: Stmt) -> Stmt | None:
        match s:
            case For():
                return replace(s, lo=t(s.lo), hi=t(s.hi))
            case If():
                return replace(s, conditions=t(s.conditions))
            case Store():
                value = accesses.map_sources(expr.transform(s.value, instances.folded), source)
                instance = replace(s.instance, index=t(s.instance.index), points=t(s.instance.points))
                return replace(s, buffer=own(s.buffer), index=t(s.index), value=value, instance=instance)
            case Alloc():
                return replace(s, buffer=own(s.buffer), element=t(s.element))
            case Prefetch():
                return replace(s, buffer=own(s.buffer), index=t(s.index))
        return None

    body = substitute(nest.body, instances.values(nest.program.free, sizes))
    return LoopNest(program, tuple(map(own, nest.parameters)), rewrite(body, stmt))
