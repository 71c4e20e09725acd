"""Loop nests as readable text."""

from __future__ import annotations

from collections.abc import Container, Iterator

from tensordsl.schedules.loopnest import (
    Alloc,
    For,
    If,
    LoopNest,
    Outline,
    Prefetch,
    Seq,
    Stmt,
    Store,
    Sync,
)  # fmt: skip

from tensordsl.affine import Affine

_OPERATION = {"": "=", "add": "+=", "mul": "*=", "max": "max=", "min": "min="}


def nest_text(nest: LoopNest, marked: Container[int] = ()) -> str:
    """The whole nest; statements whose ``id`` is in ``marked`` get an arrow in the margin."""
    head = f"{nest.name}({', '.join(str(p) for p in nest.parameters)})"
    return "\n".join([head, *stmt_lines(nest.body, marked, 1)])


def stmt_lines(s: Stmt, marked: Container[int] = (), depth: int = 0) -> Iterator[str]:
    pad = "  " * depth
    if id(s) in marked:
        pad = "->" + pad[2:] if depth else "-> "
    if isinstance(s, Seq):
        for item in s.items:
            yield from stmt_lines(item, marked, depth)
    elif isinstance(s, For):
        step = f" step {s.step}" if s.step != 1 else ""
        word = "for" if s.kind == "serial" else s.kind
        yield f"{pad}{word} {s.var} in {_bound(s.lo, 'max')}..{_bound(s.hi, 'min')}{step}:"
        yield from stmt_lines(s.body, marked, depth + 1)
    elif isinstance(s, If):
        yield f"{pad}if {' and '.join(f'{c} >= 0' for c in s.conditions) or 'true'}:"
        yield from stmt_lines(s.then, marked, depth + 1)
        if s.otherwise is not None:
            yield f"{pad}else:"
            yield from stmt_lines(s.otherwise, marked, depth + 1)
    elif isinstance(s, Store):
        cell = f"{s.buffer.name}[{', '.join(map(str, s.index))}]"
        sign = _OPERATION[s.op] if isinstance(s.op, str) else f"{s.op.name}="
        yield f"{pad}{cell} {sign} {s.value}{'  (non-temporal)' if s.nt else ''}"
    elif isinstance(s, Alloc):
        yield f"{pad}alloc {s.buffer}"
        yield from stmt_lines(s.body, marked, depth)
    elif isinstance(s, Outline):
        yield f"{pad}function {s.name}:"
        yield from stmt_lines(s.body, marked, depth + 1)
    elif isinstance(s, Prefetch):
        yield f"{pad}prefetch {s.buffer.name}[{', '.join(map(str, s.index))}]"
    elif isinstance(s, Sync):
        yield f"{pad}sync {s.kind}{f' {s.count}' if s.kind == 'wait' else ''}"


def _bound(xs: tuple[Affine, ...], word: str) -> str:
    return str(xs[0]) if len(xs) == 1 else f"{word}({', '.join(map(str, xs))})"
