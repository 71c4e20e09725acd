"""Functions beside the kernel: tasks of parallel loops, outlined bodies, and the workspace they share.

An outlined function gets what does not vary in it as arguments, so equal bodies at other places are
one text.  A task gets everything it uses through a context struct.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tensordsl.codegen.c import registers
from tensordsl.codegen.c.addresses import affine_text, bound_text, pointer
from tensordsl.codegen.c.extents import static_extent
from tensordsl.codegen.c.names import identifier
from tensordsl.codegen.c.writer import Function, Place, PointerKey, Writer
from tensordsl.schedules.loopnest import Alloc, Buffer, For, Outline, Seq, Stmt, walk

from tensordsl.affine import Affine, Interval, Quasi, interval, is_symbolic
from tensordsl.errors import BuildError
from tensordsl.sizes import larger, made

Print = Callable[[Writer, Stmt, Place], None]
_ALIGN = 64  # bytes: a cache line and a full vector
FENCE = "__sync_synchronize();  /* non-temporal stores are seen before what follows */"


def declare(w: Writer, var: str, lo: tuple[Affine, ...], hi: tuple[Affine, ...]) -> Interval | None:
    """A loop variable comes into scope with its range; returns what its name meant before."""
    kept = w.ranges.get(var)
    lows = [interval(b, w.ranges)[0] for b in lo]
    highs = [interval(b, w.ranges)[1] for b in hi]
    low = max((x for x in lows if x is not None), default=None)
    high = min((x for x in highs if x is not None), default=None)
    w.ranges[var] = (low, None if high is None else high - 1)
    w.contexts.append(w.contexts[-1].inside(For(var, lo, hi, Seq(()))))
    w.function.variables.add(var)
    return kept


def undeclare(w: Writer, var: str, kept: Interval | None) -> None:
    w.function.variables.discard(var)
    w.contexts.pop()
    if kept is None:
        del w.ranges[var]
    else:
        w.ranges[var] = kept


# ---------------------------------------------------------------- outlined bodies


def can_outline(w: Writer, s: Outline) -> bool:
    """A body that uses named registers from outside, workspace or threads stays where it is."""
    found = w.inlined.get(id(s))
    if found is None:
        inside = [x for x, _ in walk(s.body)]
        found = w.inlined[id(s)] = (
            registers.uses(s.body, w.forms)
            or any(isinstance(x, For) and x.kind == "parallel" for x in inside)
            or any(isinstance(x, Alloc) and x.buffer.scope == "workspace" for x in inside)
        )
    return not found


def outline(w: Writer, s: Outline, place: Place, print_: Print) -> None:
    """A call; the function is printed unless an equal one exists."""
    f = Function("outline")
    w.functions.append(f)
    print_(w, s.body, place)
    w.functions.pop()
    parameters, arguments = [], []
    for name in f.used_buffers:
        parameters.append(_parameter(w, name, restrict=False))
        arguments.append(w.base(name))
    for key, (name, const) in f.pointers.items():
        b = w.buffers[key.buffer]
        alone = not any(other is not key and _may_meet(w, key, other) for other in f.pointers)
        alone = alone and not any(n in (b.banks or (b.name,)) for n in f.used_buffers)
        parameters.append(_pointer_type(w, b, alone) + name)
        arguments.append(_argument(w, b, key, const))
    for name in f.used_variables:
        parameters.append(f"int64_t {w.names.loop(name)}")
        arguments.append(w.variable(name))
    body = "\n".join(f.lines)
    text = f"({', '.join(parameters) or 'void'}) {{\n{body}\n}}\n"
    symbol = w.outlines.get(text)
    if symbol is None:
        symbol = w.outlines[text] = f"{w.symbol}_{identifier(s.name)}_{len(w.outlines)}"
        w.finished.append(f"static __attribute__((noinline)) void {symbol}{text}")
    w.line(f"{symbol}({', '.join(arguments)});")


def _may_meet(w: Writer, a: PointerKey, b: PointerKey) -> bool:
    """May two pointers lead to one piece of memory?"""
    memory = [w.buffers[k.buffer].banks or (k.buffer,) for k in (a, b)]
    if not set(memory[0]) & set(memory[1]):
        return False
    if a.buffer != b.buffer or a.bank is None or b.bank is None:
        return True
    first, second = Affine.of(a.bank), Affine.of(b.bank)
    n = len(memory[0])
    if first.is_constant and second.is_constant:
        return first.const % n == second.const % n
    if (p := _slot(first, n)) is None or (q := _slot(second, n)) is None:
        return True
    apart = p - q
    return not apart.is_constant or apart.const % n == 0


def _slot(bank: Affine, n: int) -> Affine | None:
    """What a bank number is the remainder of."""
    atom = bank.terms[0][0] if len(bank.terms) == 1 and not bank.const else None
    return atom.argument if isinstance(atom, Quasi) and atom.kind == "mod" and atom.by == n else None


def _argument(w: Writer, b: Buffer, key: PointerKey, const: int) -> str:
    bank = Affine((), key.bank) if isinstance(key.bank, int) else key.bank
    base, offset = pointer(w, b, bank, key.free + const)
    return f"{base} + {offset}" if offset else base


def _is_stored(w: Writer, b: Buffer) -> bool:
    return b.name in w.stored or any(n in w.stored for n in b.banks)


def _pointer_type(w: Writer, b: Buffer, restrict: bool) -> str:
    const = "" if _is_stored(w, b) else "const "
    return f"{const}{b.dtype.c_name} *{'restrict ' if restrict else ''}"


def _parameter(w: Writer, name: str, restrict: bool) -> str:
    b = w.buffers[name]
    if name in w.scalars:
        return f"{b.dtype.c_name} {w.names[name]}"
    return f"{_pointer_type(w, b, restrict)}{w.names[name]}"


# ---------------------------------------------------------------- parallel loops


def parallel(w: Writer, s: For, lo: tuple[Affine, ...], hi: tuple[Affine, ...], place: Place, print_: Print) -> None:
    """A task over a range of trips, run by the caller's parallel_for where there is one."""
    if len(lo) > 1 and s.step != 1:
        raise BuildError(f"{w.symbol}: parallel loop {s.var} starts at a maximum of bounds and has step {s.step}")
    f = Function("task")
    number = w.tasks
    w.tasks += 1
    task = f"{w.symbol}_task_{number}"
    v = w.names.loop(s.var)
    extent = static_extent(lo, hi, s.step, s.var, w.ranges)
    carved, w.workspace, most, w.workspace_bytes = w.workspace, 0, w.workspace_bytes, 0
    w.functions.append(f)
    w.parallel = True
    kept = declare(w, s.var, lo, hi)
    f.depth = 2
    f.variables.add(s.var)
    f.blocks.append({})
    print_(w, s.body, place)
    undeclare(w, s.var, kept)
    w.parallel = False
    slot_text = count_text(w, w.workspace_bytes)
    first = bound_text(w, lo, True)
    start = f"{first} + trip" if s.step == 1 else f"{first} + trip * {s.step}"
    w.functions.pop()
    slot, w.workspace, w.workspace_bytes = w.workspace_bytes, carved, most
    if slot != 0:
        trips = _trips(w, s, lo, hi, extent.count if extent else None)
        w.workspace_bytes = larger(w.workspace_bytes, w.workspace + slot * trips)
    fields = _fields(w, f, slot != 0)
    w.finished.append(_trips_text(w, f, task, fields, f"const int64_t {v} = {start.removeprefix('0 + ')};", slot_text))
    w.finished.append(_task_text(task, fields))
    _run(w, s, lo, hi, task, fields, slot != 0)


def count_text(w: Writer, n: int) -> str:
    """A number of bytes, which may depend on sizes known at the call."""
    return affine_text(w, Affine.of(n))


def _trips_text(w: Writer, f: Function, task: str, fields: list[_Field], first: str, slot: str) -> str:
    """The function that makes a range of trips (parameters may be ``restrict``, members of a struct not)."""
    parameters = ", ".join(["int64_t begin", "int64_t end", *(x.parameter for x in fields)])
    lines = [f"static __attribute__((noinline)) void {task}_trips({parameters}) {{"]
    lines += ["    for (int64_t trip = begin; trip < end; trip++) {", f"        {first}"]
    if slot != "0":
        lines.append(
            f"        char *const slot = workspace + trip * slots * {slot if slot.isdigit() else f'({slot})'};"
        )
    return "\n".join([*lines, *f.lines, "    }", *([f"    {FENCE}"] if w.streams else []), "}\n"])


def _task_text(task: str, fields: list[_Field]) -> str:
    """What the caller's threads run: the trips with what the context holds."""
    head = f"static void {task}(void *context, int64_t begin, int64_t end) {{"
    if not fields:
        return f"{head}\n    (void)context;\n    {task}_trips(begin, end);\n}}\n"
    members = " ".join(f"{x.parameter.replace('restrict ', '')};" for x in fields)
    arguments = "".join(f", own->{x.name}" for x in fields)
    return (
        f"struct {task}_context {{ {members} }};\n\n{head}\n"
        f"    const struct {task}_context *const own = context;\n    {task}_trips(begin, end{arguments});\n}}\n"
    )


class _Field(NamedTuple):
    """What a task captures: its declaration, its name, and its value where the task is started."""

    parameter: str
    name: str
    value: str


def _fields(w: Writer, f: Function, slot: bool) -> list[_Field]:
    fields = [_Field(_parameter(w, name, restrict=True), w.names[name], w.base(name)) for name in f.used_buffers]
    for name in f.used_variables:
        fields.append(_Field(f"int64_t {w.names.loop(name)}", w.names.loop(name), w.variable(name)))
    if slot:
        base = f"workspace + {count_text(w, w.workspace)}" if w.workspace != 0 else "workspace"
        fields += [_Field("char *workspace", "workspace", base), _Field("int64_t slots", "slots", "slots")]
    return fields


def _trips(w: Writer, s: For, lo: tuple[Affine, ...], hi: tuple[Affine, ...], static: int | None) -> int:
    """The most trips a loop can make."""
    if static is not None:
        return static
    bounds = [interval(b - a, w.ranges)[1] for a in lo for b in hi]
    known = [b for b in bounds if b is not None]
    if not known and len(lo) == len(hi) == 1 and is_symbolic(hi[0] - lo[0]):
        return made((hi[0] - lo[0] + (s.step - 1)) // s.step)
    if not known:
        raise BuildError(f"{w.symbol}: the workspace of parallel loop {s.var} is unbounded")
    return max(0, -(-min(known) // s.step))


def _run(
    w: Writer, s: For, lo: tuple[Affine, ...], hi: tuple[Affine, ...], task: str,
    fields: list[_Field], slot: bool,
) -> None:  # fmt: skip
    w.open("")
    first, last = bound_text(w, lo, True), bound_text(w, hi, False)
    span = last if first == "0" else f"{last} - ({first})"
    count = span if s.step == 1 else f"({span} + {s.step - 1}) / {s.step}"
    if lo[0].is_constant and hi[0].is_constant and len(lo) == len(hi) == 1:
        count = str(max(0, -(-(hi[0].const - lo[0].const) // s.step)))
    w.line(f"const int64_t count = {count};")
    w.line("const int threads = call && call->parallel_for && count > 1;")
    if slot:
        w.line("const int64_t slots = threads;")
    w.line("if (threads) {")
    values = [x.value for x in fields]
    if fields:
        w.line(f"    struct {task}_context own = {{{', '.join(values)}}};")
    run = f"call->parallel_for(call->pool, {task}, {'&own' if fields else '0'}, count)"
    w.line(f"    const int32_t failed = {run};")
    w.line("    if (failed) return failed;")
    w.line("} else {")
    w.line(f"    {task}_trips({', '.join(['0', 'count', *values])});")
    w.line("}")
    w.close()


# ---------------------------------------------------------------- workspace


def workspace(w: Writer, b: Buffer, body: Callable[[], None]) -> None:
    """A buffer carved out of the caller's scratch (of the task's own slot inside a parallel loop)."""
    size = (b.size() * b.dtype.bytes + _ALIGN - 1) // _ALIGN * _ALIGN
    at = w.workspace
    w.workspace += size
    w.workspace_bytes = larger(w.workspace_bytes, w.workspace)
    base = "slot" if w.parallel else "workspace"
    place = (
        (f"{base} + {count_text(w, at)}" if at != 0 else base) if size != 0 else "0"
    )  # no cells: perhaps there is no workspace at all
    c = b.dtype.c_name
    w.line(f"{c} *const {w.names[b.name]} = ({c} *)({place});")
    body()
    w.workspace = at
