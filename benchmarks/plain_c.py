"""Plain C loops of a program, as a careful C programmer writes them: the yardstick of the default schedule.

Nothing of the code generator is used, so neither its vectors nor its mathematics help the loops.
There is no one way to write a loop nest; `forms` gives the usual ones and the fastest counts:

    scalar   each element summed in a local variable, reduction loops innermost
    swept    the reduction loops outside the last loop, which adds into memory

each with the expressions written out where they are used once, and (``arrays``) with every guarded
helper, such as a padded image, as an array of its own.  Tensors that share their rows share a loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tensordsl.schedules.analysis import cost, definition_of, instances
from tensordsl.schedules.primitives.definitions import inline_in_program

from tensordsl import expr
from tensordsl.affine import Affine
from tensordsl.dtypes import DType
from tensordsl.expr import Axis, Const, Expr, Index, Op, Read
from tensordsl.program import Program
from tensordsl.tensor import Tensor

_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
    "ne": "!=", "and": "&", "or": "|",
}  # fmt: skip
_HEAD = """#include <math.h>
#include <stdint.h>
static inline long floor_div(long a, long b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
"""


@dataclass(frozen=True)
class Form:
    """One way to write the loops.  inline: helper tensors are computed where they are read."""

    name: str
    swept: bool
    inline: bool


FORMS = (
    Form("scalar", False, True),
    Form("swept", True, True),
    Form("scalar arrays", False, False),
    Form("swept arrays", True, False),
)


def forms(program: Program) -> Iterator[tuple[str, str]]:
    """(name, C text of ``void f(inputs..., outputs...)``), texts that differ only."""
    seen: set[str] = set()
    for form in FORMS:
        text = plain_c(program, form)
        if text not in seen:
            seen.add(text)
            yield form.name, text


def plain_c(program: Program, form: Form) -> str:
    program = _inlined(program, guarded=form.inline)
    outputs = {t.name for t in program.outputs}
    lines = [_HEAD]
    for t in program.tensors:
        if t.name not in outputs:
            lines.append(f"static {t.dtype.c_name} {t.name}_t[{_size(t.shape)}] __attribute__((aligned(64)));")
    arguments = [f"const {t.dtype.c_name} *restrict {t.name}_t" for t in program.inputs]
    arguments += [f"{t.dtype.c_name} *restrict {t.name}_t" for t in program.outputs]
    lines.append(f"void f({', '.join(arguments)}) {{")
    for group in _rows_shared(program.tensors):
        lines += _group(group, form)
    return "\n".join([*lines, "}", ""])


def _inlined(program: Program, guarded: bool) -> Program:
    """Helpers computed where they are read; with guarded=False a helper with a condition stays."""
    while (t := next((t for t in program.tensors if _inlines(program, t, guarded)), None)) is not None:
        program = inline_in_program(program, t, definition_of(t))
    return program


def _inlines(program: Program, t: Tensor, guarded: bool) -> bool:
    """Is a helper read once per element, or is it nothing but another index?"""
    d = definition_of(t)
    if d.reducer is not None or d.order is not None or any(t is o for o in program.outputs):
        return False
    conditional = any(isinstance(e, Op) and e.name == "select" for e in expr.walk(d.body))
    if conditional and not guarded:
        return False
    readers = program.consumers(t.name)
    sites = [r for c in readers for r in definition_of(c).reads if r.source is t]
    once = len(sites) == 1 and instances(readers[0]) <= _size(t.shape)
    return once or not cost(d.body) or (conditional and all(isinstance(x, (Read, Const)) for x in _sides(d.body)))


def _sides(e: Expr) -> list[Expr]:
    """What a choice chooses from."""
    return [x for a in e.args[1:] for x in _sides(a)] if isinstance(e, Op) and e.name == "select" else [e]


# ---------------------------------------------------------------- loops


def _rows_shared(tensors: tuple[Tensor, ...]) -> list[list[Tensor]]:
    """Neighbours whose elements need each other only at the same first index share that loop."""
    groups: list[list[Tensor]] = []
    for t in tensors:
        if groups and _joins(groups[-1], t):
            groups[-1].append(t)
        else:
            groups.append([t])
    return groups


def _joins(group: list[Tensor], t: Tensor) -> bool:
    if not t.shape or len(definition_of(t).axes) < 1 or not group[-1].shape or group[-1].shape[0] != t.shape[0]:
        return False
    own = definition_of(t).axes[0].name
    names = {g.name for g in group}
    reads = [r for r in definition_of(t).reads if r.source.name in names]
    return bool(reads) and all(r.index[0] == Affine.of(own) for r in reads)


def _group(group: list[Tensor], form: Form) -> list[str]:
    if len(group) == 1:
        return _definition(group[0], definition_of(group[0]).axes, form, 1, {})
    first = definition_of(group[0]).axes[0]
    lines = [_for("row", first.extent, 1)]
    for t in group:
        axes = definition_of(t).axes
        lines += _definition(t, axes[1:], form, 2, {axes[0].name: Affine.of("row")})
    return [*lines, "    }"]


def _for(name: str, extent: int, depth: int) -> str:
    return f"{'    ' * depth}for (long {name} = 0; {name} < {extent}; {name}++) {{"


def _nest(axes: tuple[Axis, ...], body: list[str], depth: int) -> list[str]:
    lines = [_for(f"{a.name}_", a.extent, depth + d) for d, a in enumerate(axes)]
    lines += ["    " * (depth + len(axes)) + line for line in body]
    return lines + ["    " * (depth + d) + "}" for d in reversed(range(len(axes)))]


def _definition(t: Tensor, axes: tuple[Axis, ...], form: Form, depth: int, env: dict[str, Affine]) -> list[str]:
    d = definition_of(t)
    names = {a.name: Affine.of(f"{a.name}_") for a in d.axes + d.reduce_axes} | env
    cell = f"{t.name}_t[{_flat(tuple(names[a.name] for a in d.axes), t.shape)}]"
    value = _text(expr.substitute(d.body, names))
    if d.reducer is None:
        return _nest(axes, [f"{cell} = {value};"], depth)
    start = _text(d.reducer.identity(t.dtype))
    if form.swept and axes:
        rest = _nest(axes[-1:], [f"{cell} = {start};"], 0)
        rest += _nest(
            (*d.reduce_axes, axes[-1]), [f"{cell} = {_combined(d.reducer.combine, cell, value, t.dtype)};"], 0
        )
        return _nest(axes[:-1], rest, depth)
    c, total = t.dtype.c_name, f"{t.name}_sum"
    inner = [f"{c} {total} = {start};"]
    inner += _nest(d.reduce_axes, [f"{total} = {_combined(d.reducer.combine, total, value, t.dtype)};"], 0)
    return _nest(axes, [*inner, f"{cell} = {total};"], depth)


def _combined(name: str, a: str, b: str, t: DType) -> str:
    return _operation(name, [a, b], t, t)


# ---------------------------------------------------------------- expressions


def _size(shape: tuple[int, ...]) -> int:
    n = 1
    for e in shape:
        n *= e
    return n


def _flat(index: tuple[Affine, ...], shape: tuple[int, ...]) -> str:
    total = Affine()
    for i, n in zip(index, shape):
        total = total * n + i
    return _affine(total)


def _affine(a: Affine) -> str:
    parts = []
    for atom, k in a.terms:
        if isinstance(atom, str):
            text = atom
        elif atom.kind == "div":
            text = f"floor_div({_affine(atom.argument)}, {atom.by})"
        else:
            inner = _affine(atom.argument)
            text = f"({inner} - {atom.by} * floor_div({inner}, {atom.by}))"
        parts.append(text if k == 1 else f"{k} * {text}")
    if a.const or not parts:
        parts.append(str(a.const))
    return " + ".join(parts)


def _text(e: Expr) -> str:
    if isinstance(e, Const):
        return _literal(e)
    if isinstance(e, Index):
        return f"({_affine(e.affine)})"
    if isinstance(e, Read):
        return f"{e.source.name}_t[{_flat(e.index, e.source.shape)}]"
    assert isinstance(e, Op), e
    if e.name == "cast":
        return f"({e.dtype.c_name})({_text(e.args[0])})" if e.dtype.kind != "b" else f"({_text(e.args[0])} != 0)"
    return _operation(e.name, [_text(a) for a in e.args], e.dtype, e.args[-1].dtype)


def _literal(e: Const) -> str:
    if not e.dtype.is_float:
        return str(int(e.value))
    if e.value in (float("inf"), float("-inf")):
        return "INFINITY" if e.value > 0 else "-INFINITY"
    return f"{float(e.value)!r}{'f' if e.dtype.bits == 32 else ''}"


def _operation(name: str, a: list[str], t: DType, operand: DType) -> str:
    suffix = "f" if operand.bits == 32 else ""
    if name in _SIGNS:
        text = f"({a[0]} {_SIGNS[name]} {a[1]})"
    elif name in ("max", "min"):
        text = f"({a[0]} {'>' if name == 'max' else '<'} {a[1]} ? {a[0]} : {a[1]})"
    elif name == "select":
        text = f"({a[0]} ? {a[1]} : {a[2]})"
    elif name == "neg":
        text = f"(-{a[0]})"
    elif name == "not":
        text = f"(!{a[0]})" if t.kind == "b" else f"(~{a[0]})"
    elif name == "abs":
        text = f"fabs{suffix}({a[0]})" if t.is_float else f"({a[0]} < 0 ? -{a[0]} : {a[0]})"
    elif name == "rsqrt":
        text = f"(1 / sqrt{suffix}({a[0]}))"
    elif name == "floordiv" and not t.is_float:
        text = f"floor_div({a[0]}, {a[1]})" if t.kind == "i" else f"({a[0]} / {a[1]})"
    elif name == "mod" and not t.is_float:
        text = f"({a[0]} - {a[1]} * floor_div({a[0]}, {a[1]}))" if t.kind == "i" else f"({a[0]} % {a[1]})"
    else:
        text = f"{name}{suffix}({', '.join(a)})"
    return f"({t.c_name}){text}" if t.kind in "iu" and t.bits < 32 else text
