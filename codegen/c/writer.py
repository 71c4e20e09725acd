"""The state of printing: the functions being written, what each one captures, and cached facts.

A `Function` is C text in the making with the loop variables and buffers it knows.  What it uses
beyond those is *captured*: a task gets it through its context struct, an outlined function as
arguments (see `functions`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from tensordsl.codegen.c.extents import Lanes
from tensordsl.codegen.c.names import Names
from tensordsl.codegen.c.prelude import Prelude
from tensordsl.schedules.loopnest import Buffer
from tensordsl.schedules.simplify import Context

from tensordsl.affine import Affine, Interval
from tensordsl.program import Rounding
from tensordsl.targets import Target

if TYPE_CHECKING:
    from tensordsl.codegen.c.checked import Checks
    from tensordsl.codegen.c.registers import Form, Plan

LANE = "@"  # the variable of the lane of the vector loop being printed
LANE_AFFINE = Affine.of(LANE)


class Mask(NamedTuple):
    """The active lanes: ``bits`` (literal) where every condition is >= 0 and no excluded group holds."""

    bits: int
    conditions: tuple[Affine, ...] = ()
    excluded: tuple[tuple[Affine, ...], ...] = ()


class Place(NamedTuple):
    """Where code is printed: values of expanded loop variables, lanes (0: scalar code), active lanes."""

    env: dict[str, Affine]
    lanes: int = 0
    mask: Mask | None = None


class PointerKey(NamedTuple):
    """What an outlined function gets as one pointer: a buffer (or one bank) at a place that does not vary inside."""

    buffer: str
    bank: Affine | int | None
    free: Affine


class Function:
    """One C function being written."""

    def __init__(self, kind: Literal["kernel", "task", "outline"]) -> None:
        self.kind = kind
        self.lines: list[str] = []
        self.depth = 1
        self.blocks: list[dict[object, str]] = [{}]  # named values per open C block
        self.loops: list[int] = [0]  # the depth of blocks at each open C loop
        self.variables: set[str] = set()  # loop variables declared inside
        self.buffers: set[str] = set()  # buffers declared inside
        self.used_variables: dict[str, None] = {}
        self.used_buffers: dict[str, None] = {}
        self.pointers: dict[PointerKey, tuple[str, int]] = {}  # -> name, constant included
        self.texts: dict[object, tuple[str, str]] = {}  # printed addresses
        self.counters: dict[str, int] = {}

    def fresh(self, prefix: str) -> str:
        n = self.counters[prefix] = self.counters.get(prefix, 0) + 1
        return f"{prefix}{n}"


class Writer:
    """Everything the rules of printing share."""

    def __init__(
        self, target: Target, symbol: str, names: Names, lanes: Lanes, plan: Plan, buffers: dict[str, Buffer],
        rounding: Rounding = "free", fused: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.target = target
        self.symbol = symbol
        self.names = names
        self.prelude = Prelude(target, rounding)
        self.lanes = lanes
        self.plan = plan
        self.buffers = buffers
        self.scalars: set[str] = set()  # parameters passed by value
        self.stored: set[str] = set()  # names of buffers and banks that are written
        self.ranges: dict[str, Interval] = {}
        self.contexts: list[Context] = [Context()]  # the C loops and branches around, the last one as it is now
        self.functions: list[Function] = [Function("kernel")]
        self.finished: list[str] = []  # texts of further functions, callees first
        self.outlines: dict[str, str] = {}  # text without its name -> name
        self.inlined: dict[int, bool] = {}  # outlines printed in place
        self.forms: dict[str, Form] = {}  # of the register buffers in scope
        self.registers: set[str] = set()  # named values in use, to be declared
        self.merged: set[str] = set()  # those that a mask leaves partly as they were
        self.fused = fused  # sums whose products are added with one rounding
        self.tasks = 0
        self.parallel = False  # inside a parallel loop
        self.workspace = 0  # bytes carved out at this point
        self.workspace_bytes = 0  # and at most
        self.checks: Checks | None = None  # of a debug build: every access is checked
        self.streams = False  # non-temporal stores were printed
        self.linear: dict[tuple[int, int], tuple[object, Affine | None, Affine]] = {}
        self.shared: dict[int, tuple[object, frozenset[int]]] = {}
        self.affine_conditions: dict[int, tuple[object, tuple[Affine, ...] | None]] = {}
        self.transposed: dict[str, list[tuple[dict[object, str], object]]] = {}

    @property
    def function(self) -> Function:
        return self.functions[-1]

    def line(self, text: str) -> None:
        f = self.functions[-1]
        f.lines.append("    " * f.depth + text)

    def open(self, head: str, loop: bool = False) -> None:
        """``head {``, with a fresh set of named values."""
        f = self.functions[-1]
        self.line(f"{head} {{" if head else "{")
        f.depth += 1
        f.blocks.append({})
        if loop:
            f.loops.append(len(f.blocks) - 1)

    def close(self, loop: bool = False, tail: str = "}") -> None:
        f = self.functions[-1]
        f.depth -= 1
        f.blocks.pop()
        if loop:
            f.loops.pop()
        self.line(tail)

    def named(self, key: object, anywhere: bool = True) -> str | None:
        """A value named in an open block (anywhere=False: not outside the innermost loop)."""
        f = self.functions[-1]
        first = 0 if anywhere else f.loops[-1]
        for block in reversed(f.blocks[first:]):
            name = block.get(key)
            if name is not None:
                return name
        return None

    def name(self, key: object, c_type: str, prefix: str, text: str, keep: str | None = None) -> str:
        """Declare a named value in the innermost block.  keep: the barrier that holds it in a register."""
        f = self.functions[-1]
        name = f.fresh(prefix)
        self.line(f"{c_type} {name} = {text};" if keep else f"const {c_type} {name} = {text};")
        if keep:
            self.line(f"{keep}({name});")
        f.blocks[-1][key] = name
        return name

    def variable(self, name: str) -> str:
        """The C variable of a loop, captured where it is declared outside the function."""
        f = self.functions[-1]
        if name not in f.variables:
            f.used_variables[name] = None
        return self.names.loop(name)

    def base(self, name: str) -> str:
        """The C pointer (or array, or scalar parameter) of a buffer, captured where needed."""
        f = self.functions[-1]
        if name not in f.buffers:
            f.used_buffers[name] = None
        return self.names[name]
