"""LoopNest -> C: one kernel as header-free text for gcc and clang.

    source = to_c(nest, target("native"))

The function is ``int32_t SYMBOL(const td_call *call, parameters in order)``: arrays by pointer,
rank-0 inputs by value, then the sizes that are known only at the call.  It returns 0, or 1 (sizes
against the assumptions), 2 (workspace missing or too small), 3 (bad call struct), 4 (null pointer),
5 (an input holds a value outside its stated range), or what the caller's ``parallel_for`` returned
where that is not 0.
"""

from __future__ import annotations

from dataclasses import replace

from tensordsl.codegen.c import checked, functions, guards
from tensordsl.codegen.c.checked import Checks
from tensordsl.codegen.c.constants import data, reference
from tensordsl.codegen.c.extents import Lanes
from tensordsl.codegen.c.functions import FENCE
from tensordsl.codegen.c.names import Names
from tensordsl.codegen.c.private import private
from tensordsl.codegen.c.registers import Plan
from tensordsl.codegen.c.statements import statement
from tensordsl.codegen.c.writer import Place, Writer
from tensordsl.codegen.representation import represented
from tensordsl.codegen.source import Source
from tensordsl.schedules.components import split_components
from tensordsl.schedules.loopnest import Buffer, For, LoopNest, Stmt, Store, buffers, stores, walk

import tensordsl
from tensordsl.errors import InternalError
from tensordsl.ranges import type_range
from tensordsl.sizes import Size
from tensordsl.targets import Target

_ALIGN = 64  # bytes


def to_c(nest: LoopNest, target: Target, symbol: str | None = None, *, checks: Checks | None = None) -> Source:
    """The kernel of a nest.  symbol: the function's name (default: the program's name and _kernel).
    checks: of a debug build (see `checked`), for a nest made plain.

    Raises BuildError for what no CPU has (shared memory, thread loops, synchronisation).
    """
    symbol = symbol or f"{nest.name}_kernel"  # a suffix: no operator name clashes with C or with a field
    original, nest = nest, represented(replace(nest, body=split_components(nest.body)))
    body = private(nest.body)
    constants = {t.name: t for t in nest.program.constants}
    parameters = tuple(p for p in nest.parameters if not p.banks and p.name not in constants)  # banks: see there
    known = buffers(LoopNest(nest.program, nest.parameters, body))
    lanes = Lanes(body, target)
    plan = Plan(body, lanes)
    loops = dict.fromkeys(s.var for s, _ in walk(body) if isinstance(s, For))
    program = nest.program
    free = program.free
    sizes = dict.fromkeys([*map(str, free), *(d.name for d in free)])
    names = Names(known, [*loops, *(n for n in sizes if n not in loops)], spread=plan.names(), reserved=[symbol])
    fused = frozenset(t.name for t in program.tensors if t.definition is not None and t.definition.fused)
    w = Writer(target, symbol, names, lanes, plan, known, program.rounding, fused)
    w.function.variables.update(free)
    _roles(w, nest, body)
    w.checks = checks
    if checks is not None:
        w.prelude.need("TD_AT", checked.MACRO)
    statement(w, body, Place({}))
    f = w.function
    known_names = {*constants, *(p.name for p in parameters)}
    unknown = [*f.used_variables, *(n for n in f.used_buffers if n not in known_names)]
    used = [t for n, t in constants.items() if n in f.used_buffers]
    if unknown:
        raise InternalError(f"{symbol}: {', '.join(unknown)} used but not declared", context=nest)
    needed = w.workspace_bytes + _ALIGN if w.workspace_bytes != 0 else 0
    taken = ["const td_call *call", *_declarations(w, parameters), *guards.declarations(w, free)]
    head = f"TD_KERNEL int32_t {symbol}({', '.join(taken)}) {{"
    tail = [f"    {FENCE}"] if w.streams else []
    given = [reference(t, symbol, w.names[t.name]) for t in used]
    stated = [b for b in parameters if any(t.name == b.name and t.stated for t in nest.program.inputs)]
    start, end = _checks(w, nest, parameters, needed), ["    return 0;"]
    if checks is not None:
        w.finished.append(checked.before(symbol))
        start, end = [*start, *checked.first_lines(symbol)], checked.LAST_LINES
    start += [line for b in stated for line in _values_check(w, b)] + given
    kernel = "\n".join([head, *start, *f.lines, *tail, *end, "}", ""])
    text = "\n".join([_banner(nest, target), *(data(t, symbol, w.names[t.name]) for t in used), *w.finished, kernel])
    flags: tuple[str, ...] = ("-O3",) if stated or left_to_the_compiler(body) else ()
    if program.rounding != "free":
        flags += ("-ffp-contract=off",)
    callers = tuple(p for p in original.parameters if not p.banks and p.name not in constants)
    return Source(symbol, w.prelude.texts(), text, callers, needed, target, flags)


def left_to_the_compiler(body: Stmt) -> bool:
    """Is there an innermost loop of scalar code, whose vectors the compiler may still find (gcc: with -O3)?"""
    inner = [s for s, _ in walk(body) if isinstance(s, For) and not any(isinstance(x, For) for x, _ in walk(s.body))]
    return any(s.kind in ("serial", "parallel") and any(True for _ in stores(s.body)) for s in inner)


def _roles(w: Writer, nest: LoopNest, body: Stmt) -> None:
    """Which buffers are written, and which parameters come by value."""
    for s, _ in walk(body):
        if isinstance(s, Store):
            w.stored.add(s.buffer.name)
            w.stored.update(s.buffer.banks)
    inputs = {t.name for t in nest.program.inputs}
    known = {t.name for t in nest.program.constants}
    w.scalars = {b.name for b in nest.parameters if not b.shape and b.name in inputs - known - w.stored}


def _declarations(w: Writer, parameters: tuple[Buffer, ...]) -> list[str]:
    result = []
    for b in parameters:
        name = w.names[b.name]
        if b.name in w.scalars:
            result.append(f"{b.dtype.c_name} {name}")
        else:
            const = "" if b.name in w.stored else "const "
            result.append(f"{const}{b.dtype.c_name} *restrict {name}")
    return result


def _checks(w: Writer, nest: LoopNest, parameters: tuple[Buffer, ...], needed: int) -> list[str]:
    """What a caller may get wrong, before anything is touched."""
    lines = ["    if (call && call->size < sizeof(td_call)) return 3;"]
    lines += guards.checks(w, nest.program)
    missing = [guards.missing(w, b) for b in parameters if b.name not in w.scalars and b.size() != 0]
    if missing:
        lines.append(f"    if ({' || '.join(missing)}) return 4;")
    if needed != 0:
        least = str(needed) if not isinstance(needed, Size) else f"(uint64_t)({functions.count_text(w, needed)})"
        lines.append(f"    if (!call || !call->workspace || call->workspace_bytes < {least}) return 2;")
        lines.append(
            "    char *const workspace = (char *)call->workspace + "
            f"(-(__UINTPTR_TYPE__)call->workspace & {_ALIGN - 1});"
        )
    else:
        lines.append("    (void)call;")
    return lines


def _values_check(w: Writer, b: Buffer) -> list[str]:
    """An input whose elements are used as indices holds what the caller promises."""
    assert b.values is not None
    (low, high), name = b.values, w.names[b.name]
    if b.size() == 0:
        return []
    element = name if b.name in w.scalars else f"{name}[n]"
    whole = type_range(b.dtype)
    tests = [f"{element} < {low}"] if low > whole[0] else []
    tests += [f"{element} > {high}"] if high < whole[1] else []
    if not tests:
        return []
    fault = " | ".join(f"({x})" for x in tests)
    if b.name in w.scalars:
        return [f"    if ({fault}) return 5;"]
    return [
        "    {",
        "        int outside = 0;",
        f"        for (int64_t n = 0; n < {functions.count_text(w, b.size())}; n++) outside |= {fault};",
        "        if (outside) return 5;",
        "    }",
    ]


def _banner(nest: LoopNest, target: Target) -> str:
    lines = [f"tensordsl {tensordsl.__version__} for {target.id}", *str(nest.program).splitlines()]
    return "\n".join(["/*", *(f" * {line}".replace("*/", "* /").rstrip() for line in lines), " */"])
