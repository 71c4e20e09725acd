"""Finding the parts of a nest that a schedule step names: stages, loops, buffers, elements."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tensordsl.schedules.loopnest import (
    CELL,
    Alloc,
    Buffer,
    For,
    LoopNest,
    Stmt,
    Store,
    buffers,
    children,
    stores,
    with_children,
)  # fmt: skip

from tensordsl.affine import Affine
from tensordsl.errors import ScheduleError, closest
from tensordsl.expr import Read

Path = tuple[Stmt, ...]
MOVES = frozenset({"copy", "partial", "merge"})


def depth_of(buffer: Buffer, path: Path) -> int:
    """The position of the buffer's allocation on a path; -1 for the caller's memory."""
    for d in range(len(path) - 1, -1, -1):
        s = path[d]
        if isinstance(s, Alloc) and s.buffer.name == buffer.name:
            return d
    return -1


def homes(nest: LoopNest) -> dict[str, Buffer]:
    """Every buffer by name, and by the name of an in-place output the input's buffer that it takes over."""
    known = buffers(nest)
    return known | {output: known[source] for output, source in nest.program.inplace.items() if source in known}


def stage_of(store: Store, path: Path) -> str:
    """The stage a store belongs to: the tensor it computes, or the cache it fills or empties."""
    if store.instance.kind not in MOVES:
        return store.instance.tensor
    source = store.value
    if isinstance(source, Read) and depth_of(source.source, path) > depth_of(store.buffer, path):  # type: ignore[arg-type]
        return source.source.name
    return store.buffer.name


def stages(nest: LoopNest) -> list[str]:
    """Every stage of a nest in execution order."""
    return list(dict.fromkeys(stage_of(s, p) for s, p in stores(nest.body)))


def stage_stores(nest: LoopNest, stage: str) -> list[tuple[Store, Path]]:
    """The stores of a stage.  Raises ScheduleError when there is no such stage."""
    found = [(s, p) for s, p in stores(nest.body) if stage_of(s, p) == stage]
    if not found:
        known = stages(nest)
        like = closest(stage, known)
        raise ScheduleError(
            f"there is no stage {stage!r}", legal=known, hint=f'did you mean "{like}"?' if like else None
        )
    return found


def stage_loops(nest: LoopNest, stage: str) -> list[str]:
    """The names of the loops around a stage, outermost first."""
    names: dict[str, None] = {}
    for _, path in stage_stores(nest, stage):
        for s in path:
            if isinstance(s, For):
                names[s.var] = None
    return list(names)


def own_loops(nest: LoopNest, stage: str) -> list[str]:
    """The names of the loops that contain nothing but this stage, outermost first."""
    names: dict[str, None] = {}
    for _, path in stage_stores(nest, stage):
        for d, s in enumerate(path):
            if isinstance(s, For) and all(stage_of(st, (*path[:d], *p)) == stage for st, p in stores(s)):
                names[s.var] = None
    return list(names)


def find_loops(nest: LoopNest, stage: str, loop: str) -> dict[int, tuple[For, Path]]:
    """The loops named ``loop`` (or ``stage.loop``) around a stage, by identity, with their paths."""
    found: dict[int, tuple[For, Path]] = {}
    paths = stage_stores(nest, stage)
    for name in (loop, f"{stage}.{loop}"):
        for _, path in paths:
            for d, s in enumerate(path):
                if isinstance(s, For) and s.var == name:
                    found[id(s)] = (s, path[:d])
        if found:
            return found
    names = stage_loops(nest, stage)
    like = closest(loop, names)
    raise ScheduleError(f'{stage} has no loop "{loop}"', legal=names, hint=f'did you mean "{like}"?' if like else None)


def edit(body: Stmt, targets: Iterable[int], f: Callable[[Stmt], Stmt]) -> Stmt:
    """Replace the statements with the given identities (inner ones first)."""
    ids = frozenset(targets)

    def go(s: Stmt) -> Stmt:
        t = with_children(s, tuple([go(c) for c in children(s)]))
        return f(t) if id(s) in ids else t

    return go(body)


@dataclass(frozen=True, slots=True)
class Element:
    """A logical element: ``tensor[index]``."""

    tensor: str
    index: tuple[Affine, ...]


def element_of(buffer: Buffer, index: tuple[Affine, ...], path: Path, external: str = "") -> Element:
    """What the cell of a buffer is meant to hold (see `Alloc.element`); external: the tensor in the caller's."""
    d = depth_of(buffer, path)
    if d < 0:
        return Element(external or buffer.name, index)
    alloc = path[d]
    assert isinstance(alloc, Alloc)
    if not alloc.tensor:
        return Element(buffer.name, index)
    cell = dict(zip(CELL, index))
    return Element(alloc.tensor, tuple(e.substitute(cell) for e in alloc.element))


def fresh(name: str, taken: Iterable[str]) -> str:
    """The name, with a number where it is taken."""
    used = set(taken)
    result, n = name, 1
    while result in used:
        n += 1
        result = f"{name}{n}"
    return result
