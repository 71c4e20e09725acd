"""The debug build: plain loops whose every access to memory is checked, with the line of the definition beside it.

Nothing is left to trust: loops run one iteration after the other, buffers are memory, hints are gone.
An index outside its dimension ends the kernel with the code `VIOLATION`; what was accessed, and in which
iteration, is then found by ``SYMBOL_violation``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tensordsl.codegen.c.addresses import affine_text, linear, pointer
from tensordsl.codegen.c.types import Value, assignment
from tensordsl.schedules.components import split_components
from tensordsl.schedules.loopnest import (
    Alloc,
    Buffer,
    For,
    LoopNest,
    Outline,
    Prefetch,
    Seq,
    Stmt,
    Store,
    children,
    map_accesses,
    seq,
    with_children,
)  # fmt: skip

from tensordsl.affine import ZERO, Affine
from tensordsl.errors import Location
from tensordsl.expr import Read

if TYPE_CHECKING:
    from tensordsl.codegen.c.writer import Place, Writer

#: What a checked kernel returns where an index was outside.
VIOLATION = 6
#: Loops whose values a violation reports.
MOST_LOOPS = 24
_WORDS = 3 + MOST_LOOPS
MACRO = f"""\
#define TD_AT(site, dim, index, extent, ...) __extension__ ({{ \\
    const int64_t td_i = (index); \\
    if (td_i < 0 || td_i >= (extent)) {{ \\
        const int64_t td_v[{_WORDS}] = {{site, dim, td_i, __VA_ARGS__}}; \\
        for (int td_k = 0; td_k < {_WORDS}; td_k++) td_seen[td_k] = td_v[td_k]; \\
        goto td_violated; \\
    }} \\
    td_i; }})
"""


@dataclass(frozen=True, slots=True)
class Site:
    """One access in the text: what it does, of which buffer, in which loops."""

    does: str
    buffer: Buffer
    loops: tuple[str, ...]
    location: Location | None

    def message(self, dim: int, index: int, values: tuple[int, ...]) -> tuple[str, str]:
        """What is wrong, and in which iteration."""
        extent = self.buffer.shape[dim]
        said = f"{self.does}: index {index} of {self.buffer.name} (dimension {dim}) is outside 0..{extent - 1}"
        at = ", ".join(f"{n} = {v}" for n, v in zip(self.loops, values))
        return said, f"when {at}" if at else "always"


class Checks:
    """The sites of a kernel, collected while it is printed."""

    def __init__(self, nest: LoopNest) -> None:
        self.sites: list[Site] = []
        self.lines = {t.name: t.location for t in (*nest.program.inputs, *nest.program.tensors)}
        self.statement: Store | None = None

    def begin(self, w: Writer, s: Store) -> None:
        """A comment with the line that a statement comes from."""
        self.statement = s
        line = self.lines.get(s.instance.tensor)
        w.line(f"/* {str(s.instance).replace('*/', '* /')}{f': {line}' if line else ''} */")

    def load(self, w: Writer, e: Read, place: Place) -> Value:
        assert isinstance(e.source, Buffer)
        if e.source.name in w.scalars:
            return Value(w.base(e.source.name), e.dtype)
        return Value(self.cell(w, e.source, e.index, place, f"reads {e}", e.location), e.dtype)

    def store(self, w: Writer, s: Store, text: str, place: Place) -> None:
        does = f"writes {s.buffer.name}[{', '.join(map(str, s.index))}]"
        w.line(assignment(self.cell(w, s.buffer, s.index, place, does, None), text))

    def cell(
        self, w: Writer, b: Buffer, index: tuple[Affine, ...], place: Place, does: str, location: Location | None
    ) -> str:
        """A cell whose every index is checked before it is touched."""
        assert self.statement is not None
        loops = tuple(w.ranges)[:MOST_LOOPS]
        instance = self.statement.instance
        label = f"{instance.kind} {instance.tensor} {does}"
        self.sites.append(Site(label, b, loops, location or self.lines.get(instance.tensor)))
        values = ", ".join(w.variable(v) for v in loops) or "0"
        strides = b.strides()
        bank: Affine | None = None
        parts: list[str] = []
        for d, (i, stride) in enumerate(zip(index, strides)):
            text = (
                f"TD_AT({len(self.sites) - 1}, {d}, {affine_text(w, i.substitute(place.env))}, {b.shape[d]}, {values})"
            )
            if d < len(b.fold) and b.fold[d]:
                text = f"({text} % {b.fold[d]})"
            if d == 0 and b.banks:
                bank = linear(w, b, index)[0]
                assert bank is not None
                bank, stride = bank.substitute(place.env), 0
            parts.append(f"{text} * {stride}")
        base, _ = pointer(w, b, bank, ZERO)
        return f"{base}[{' + '.join(parts) or 0}]"


def plain(nest: LoopNest) -> LoopNest:
    """The same computation with serial loops and all buffers in memory."""

    def memory(b: Buffer) -> Buffer:
        return b if b.scope == "external" else replace(b, scope="workspace")

    def go(s: Stmt) -> Stmt:
        if isinstance(s, Seq):
            return seq(*[go(x) for x in s.items if not isinstance(x, Prefetch)])
        if isinstance(s, Outline):
            return go(s.body)
        if isinstance(s, Prefetch):
            return Seq(())
        new = with_children(s, tuple([go(c) for c in children(s)]))
        if isinstance(new, For):
            return replace(new, kind="serial")
        if isinstance(new, Store):
            return replace(new, nt=False)
        return replace(new, buffer=memory(new.buffer)) if isinstance(new, Alloc) else new

    body = map_accesses(go(split_components(nest.body)), lambda b, index: (memory(b), index))
    return LoopNest(nest.program, nest.parameters, body)


def before(symbol: str) -> str:
    """What stands before the kernel: the report of the first violation, and how to get it."""
    return (
        f"static __thread int64_t {symbol}_seen[{_WORDS}];\n"
        f"TD_KERNEL void {symbol}_violation(int64_t *report) {{\n"
        f"    for (int k = 0; k < {_WORDS}; k++) report[k] = {symbol}_seen[k];\n"
        "}\n"
    )


def first_lines(symbol: str) -> list[str]:
    return [f"    int64_t *const td_seen = {symbol}_seen;", "    (void)td_seen;"]


#: The end of the kernel, in place of its last return.
LAST_LINES = ["    return 0;", "td_violated: __attribute__((unused));", f"    return {VIOLATION};"]
