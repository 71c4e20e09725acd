"""Statements as C: loops expanded by kind, guards as masks or branches, stores by what they reach."""

from __future__ import annotations

from tensordsl.codegen.c import expressions, functions, masks, memory, registers
from tensordsl.codegen.c.addresses import affine_text, bound_text, element_text, joined, linear, pointer
from tensordsl.codegen.c.expressions import Sharing, render, scalar_condition, shared_nodes, stored
from tensordsl.codegen.c.extents import Extent, prune, static_extent, varies
from tensordsl.codegen.c.types import Value, bare, literal
from tensordsl.codegen.c.writer import LANE, LANE_AFFINE, Mask, Place, Writer
from tensordsl.schedules.loopnest import Alloc, For, If, Outline, Prefetch, Seq, Stmt, Store, Sync
from tensordsl.schedules.rounding import factors

from tensordsl import dtypes
from tensordsl.affine import Affine, interval
from tensordsl.dtypes import DType
from tensordsl.errors import BuildError
from tensordsl.expr import REDUCERS, Read

#: A vector loop of more whole vectors than this is printed as a loop over vectors.
MOST_CHUNKS = 16


def statement(w: Writer, s: Stmt, place: Place) -> None:
    """Print one statement."""
    if isinstance(s, Store):
        store(w, s, place)
    elif isinstance(s, Seq):
        for item in s.items:
            statement(w, item, place)
    elif isinstance(s, For):
        loop(w, s, place)
    elif isinstance(s, If):
        condition(w, s, place)
    elif isinstance(s, Alloc):
        allocation(w, s, place)
    elif isinstance(s, Outline):
        if place.lanes or not functions.can_outline(w, s):
            statement(w, s.body, place)
        else:
            functions.outline(w, s, place, statement)
    elif isinstance(s, Prefetch):
        prefetch(w, s, place)
    elif isinstance(s, Sync):
        raise BuildError(f"{w.symbol}: sync {s.kind} has no meaning on a CPU", hint="choose a CUDA target")


# ---------------------------------------------------------------- loops


def loop(w: Writer, s: For, place: Place) -> None:
    every_lo = tuple([b.substitute(place.env) for b in s.lo])
    every_hi = tuple([b.substitute(place.env) for b in s.hi])
    lo, hi = prune(every_lo, w.ranges, True), prune(every_hi, w.ranges, False)
    e = static_extent(lo, hi, s.step, s.var, w.ranges)
    if e is None and (len(lo) < len(every_lo) or len(hi) < len(every_hi)):
        e = static_extent(every_lo, every_hi, s.step, s.var, w.ranges)  # a needless bound may be the static one
    if e is not None and not e.count:
        return
    if s.kind in ("block", "thread"):
        raise BuildError(f"{w.symbol}: a {s.kind} loop ({s.var}) has no meaning on a CPU", hint="choose a CUDA target")
    if s.kind == "vector" and not place.lanes:
        _vector_loop(w, s, lo, hi, e, place)
    elif e is not None and (s.kind in ("unroll", "vector") or e.count == 1):
        for n in range(e.count):
            _copy(w, s, e, e.start + n * s.step, place)
    elif s.kind == "parallel" and not w.parallel and not place.lanes:
        functions.parallel(w, s, lo, hi, place, statement)
    else:
        _serial(w, s, lo, hi, place)


def _copy(w: Writer, s: For, e: Extent, value: Affine, place: Place) -> None:
    """The body at one value of the loop variable, where the guards hold."""
    inner = place._replace(env={**place.env, s.var: value})
    if not e.guards:
        statement(w, s.body, inner)
        return
    guards = tuple([g.substitute({s.var: value}) for g in e.guards])
    _guarded(w, guards, s.body, None, inner)


def _serial(w: Writer, s: For, lo: tuple[Affine, ...], hi: tuple[Affine, ...], place: Place) -> None:
    v = w.names.loop(s.var)
    first, last = bound_text(w, lo, True), bound_text(w, hi, False)
    step = f"{v}++" if s.step == 1 else f"{v} += {s.step}"
    kept = functions.declare(w, s.var, lo, hi)
    w.open(f"for (int64_t {v} = {first}; {v} < {last}; {step})", loop=True)
    env = place.env
    if s.var in env:
        env = {k: x for k, x in env.items() if k != s.var}
    statement(w, s.body, place._replace(env=env))
    w.close(loop=True)
    functions.undeclare(w, s.var, kept)


def _vector_loop(
    w: Writer, s: For, lo: tuple[Affine, ...], hi: tuple[Affine, ...], e: Extent | None, place: Place
) -> None:
    """Chunks of lanes in order; what does not fill a vector is masked."""
    lanes = w.lanes.loops[id(s)]
    if lanes < 2 or varies(s.body, s.var) or (e is None and len(lo) > 1):
        # one lane, or inner loops that run differently per lane: the plain meaning
        if e is None:
            _serial(w, s, lo, hi, place)
        else:
            for n in range(e.count):
                _copy(w, s, e, e.start + n * s.step, place)
        return
    lane = LANE_AFFINE * s.step
    if e is None:
        _chunk_loop(w, s, lo[0], hi, None, lanes, place)
        return
    if not e.guards and e.count // lanes > MOST_CHUNKS and not w.plan.indexed_by(s.var):
        whole = e.count // lanes * lanes
        _chunk_loop(w, s, e.start, (e.start + whole * s.step,), whole, lanes, place)
        first = whole
    else:
        first = 0
    for n in range(first, e.count, lanes):
        mask = None if e.count - n >= lanes else Mask(masks.every(e.count - n))
        value = e.start + n * s.step + lane
        if e.guards:
            guards = tuple([g.substitute({s.var: value}) for g in e.guards])
            mask = masks.narrowed(w, mask, lanes, guards)
            if masks.is_empty(mask):
                continue
        statement(w, s.body, Place({**place.env, s.var: value}, lanes, mask))


def _chunk_loop(
    w: Writer, s: For, lo: Affine, hi: tuple[Affine, ...], whole: int | None, lanes: int, place: Place
) -> None:
    """A C loop over whole vectors, then (run-time bounds) what is left under a mask."""
    v = w.names.loop(s.var)
    first, last = affine_text(w, lo), bound_text(w, hi, False)
    kept = functions.declare(w, s.var, (lo,), hi)
    value = Affine.of(s.var) + LANE_AFFINE * s.step
    inner = Place({**place.env, s.var: value}, lanes, None)
    jump = lanes * s.step
    if whole is not None:
        w.open(f"for (int64_t {v} = {first}; {v} < {last}; {v} += {jump})", loop=True)
        statement(w, s.body, inner)
        w.close(loop=True)
    else:
        w.open("")
        w.line(f"int64_t {v} = {first};")
        w.open(f"for (; {v} + {jump - s.step} < {last}; {v} += {jump})", loop=True)
        statement(w, s.body, inner)
        w.close(loop=True)
        w.open(f"if ({v} < {last})")
        guards = tuple([h - value - 1 for h in hi])
        statement(w, s.body, inner._replace(mask=masks.narrowed(w, None, lanes, guards)))
        w.close()
        w.close()
    functions.undeclare(w, s.var, kept)


# ---------------------------------------------------------------- guards


def condition(w: Writer, s: If, place: Place) -> None:
    conditions = tuple([c.substitute(place.env) for c in s.conditions])
    _guarded(w, conditions, s.then, s.otherwise, place)


def _guarded(w: Writer, conditions: tuple[Affine, ...], then: Stmt, otherwise: Stmt | None, place: Place) -> None:
    """``then`` where every condition holds: decided now, a branch, or a mask on the lanes."""
    ranges = w.ranges | {LANE: (0, place.lanes - 1)} if place.lanes else w.ranges
    scalar: list[Affine] = []
    lanewise: list[Affine] = []
    for c in conditions:
        low, high = interval(c, ranges)
        if high is not None and high < 0:
            if otherwise is not None:
                statement(w, otherwise, place)
            return
        if low is None or low < 0:
            (lanewise if LANE in c.names() else scalar).append(c)
    if scalar:
        w.open(f"if ({scalar_condition(w, tuple(scalar))})")
        w.contexts.append(w.contexts[-1].inside(If(tuple(scalar), then)))
    _masked(w, tuple(lanewise), then, otherwise, place)
    if scalar:
        w.contexts.pop()
        if otherwise is not None:
            w.close(tail="} else {")
            f = w.function
            f.depth += 1
            f.blocks.append({})
            statement(w, otherwise, place)
        w.close()


def _masked(w: Writer, conditions: tuple[Affine, ...], then: Stmt, otherwise: Stmt | None, place: Place) -> None:
    if not conditions:
        statement(w, then, place)
        return
    inside = masks.narrowed(w, place.mask, place.lanes, conditions)
    if not masks.is_empty(inside):
        statement(w, then, place._replace(mask=inside))
    if otherwise is not None:
        outside = masks.without(place.mask, place.lanes, conditions)
        if not masks.is_empty(outside):
            statement(w, otherwise, place._replace(mask=outside))


# ---------------------------------------------------------------- storage


def allocation(w: Writer, s: Alloc, place: Place) -> None:
    b = s.buffer
    if b.scope == "shared":
        raise BuildError(f"{w.symbol}: shared memory ({b.name}) exists on a GPU only", hint="set_scope it to stack")
    if b.banks:  # memory of other buffers
        statement(w, s.body, place)
        return
    lines = w.function.lines
    apart = bool(lines) and not lines[-1].endswith("{")  # else the block is its own already
    if apart:
        w.open("")
    w.function.buffers.add(b.name)
    hidden, w.buffers[b.name] = w.buffers.get(b.name), b
    form = w.plan.forms.get(id(s))
    if form is not None:
        _named_values(w, s, form, place)
    elif b.scope == "workspace":
        functions.workspace(w, b, lambda: statement(w, s.body, place))
    else:
        cells = f"{w.names[b.name]}[{max(1, b.size())}]"
        w.line(f"{b.dtype.c_name} {cells} __attribute__((aligned({w.target.line_bytes})));")
        statement(w, s.body, place)
    if hidden is not None:
        w.buffers[b.name] = hidden
    w.function.buffers.discard(b.name)
    if apart:
        w.close()


def _named_values(w: Writer, s: Alloc, form: registers.Form, place: Place) -> None:
    """A register buffer: its body, and before it the values that the body uses."""
    name = s.buffer.name
    hidden, w.forms[name] = w.forms.get(name), form
    f = w.function
    first = len(f.lines)
    statement(w, s.body, place)
    text = registers.declaration(w, s.buffer, form)
    if text:
        f.lines.insert(first, "    " * f.depth + text)
    if hidden is None:
        del w.forms[name]
    else:
        w.forms[name] = hidden


def prefetch(w: Writer, s: Prefetch, place: Place) -> None:
    """A hint for the line of the first lane."""
    if s.buffer.name in w.forms or s.buffer.name in w.scalars:
        return
    bank, address = linear(w, s.buffer, s.index)
    address = address.substitute(place.env).substitute({LANE: Affine()})
    if bank is not None:
        bank = bank.substitute(place.env).substitute({LANE: Affine()})
    w.line(f"__builtin_prefetch({bare(joined(*pointer(w, s.buffer, bank, address)))}, 0, {s.locality});")


# ---------------------------------------------------------------- stores


def store(w: Writer, s: Store, place: Place) -> None:
    if w.checks is not None:
        w.checks.begin(w, s)
    sharing = Sharing(shared_nodes(w, s.value))
    value = _term(w, s, place, sharing)
    form = w.forms.get(s.buffer.name)
    if form is not None:
        _store_register(w, s, form, value, place)
    else:
        _store_memory(w, s, value, place)


def _term(w: Writer, s: Store, place: Place, sharing: Sharing) -> Value:
    """What a store combines into its cell; a product that is added with one rounding as its factors."""
    if s.instance.kind != "update" or s.instance.tensor not in w.fused:
        return render(w, s.value, place, sharing)
    left, right = factors(s.value)
    value = render(w, left, place, sharing)
    return value._replace(factor=render(w, right, place, sharing))


def _combine(w: Writer, s: Store, old: str, value: Value, lanes: int) -> str:
    """The new content of a cell."""
    t = s.buffer.dtype
    if not s.op:
        return stored(w, value, t, lanes)
    assert isinstance(s.op, str)  # combinations are written out
    before = Value(old, t, lanes)
    if t.kind == "b":
        before = Value(f"({old} != 0)", t, lanes, 8 if lanes else 0)
    if value.factor is not None:
        product = [value._replace(factor=None), value.factor]
        return stored(w, expressions.apply(w, "fma", [*product, before], t), t, lanes)
    args = [before, value]
    if lanes and not value.lanes and t.kind == "b":
        args[1] = Value(expressions.mask_of(w, value, lanes, 8), t, lanes, 8)
    return stored(w, expressions.apply(w, s.op, args, t), t, lanes)


def _reduced(w: Writer, s: Store, value: Value, place: Place) -> Value | None:
    """The one value that lanes without a cell of their own leave in a cell they share."""
    lanes, mask, t = place.lanes, place.mask, s.buffer.dtype
    if not s.op:
        if not value.lanes:
            return value
        if not masks.is_literal(mask):
            return None
        last = (masks.every(lanes) if mask is None else mask.bits).bit_length() - 1
        return Value(f"({value.text})[{last}]" if t.kind != "b" else f"(({value.text})[{last}] != 0)", t)
    number = t if t.kind != "b" else None
    if number is None:  # conditions: any and all, over bytes
        text = stored(w, value, t, lanes)
    else:
        text = expressions.vector(w, value, lanes)
    if mask is not None:
        identity = next(r for r in REDUCERS.values() if r.combine == s.op).identity(t)
        neutral = expressions.vector(w, Value(literal(identity.value, _byte(t)), _byte(t)), lanes)
        text = masks.blend(w, mask, _byte(t), lanes, text, neutral)
    return Value(f"{w.prelude.verb(f'reduce_{s.op}', _byte(t), lanes)}({bare(text)})", t)


def _byte(t: DType) -> DType:
    """What holds a value of this type in a vector of memory."""
    return dtypes.uint8 if t.kind == "b" else t


def _store_register(w: Writer, s: Store, form: registers.Form, value: Value, place: Place) -> None:
    index = tuple([i.substitute(place.env) for i in s.index])
    b = s.buffer
    lanes = place.lanes if any(LANE in i.names() for i in index) else 0
    if place.lanes and not lanes:
        reduced = _reduced(w, s, value, place)
        if reduced is None:
            _last_active(w, s, value, place)
            return
        guard = _guard_of_all(w, s, place)
        old = registers.read(w, b, form, index, 0).text
        registers.write(w, b, form, index, Place({}, 0), _combine(w, s, old, reduced, 0), False)
        if guard:
            w.close()
        return
    old = registers.read(w, b, form, index, lanes).text if s.op else ""
    text = _combine(w, s, old, value, lanes)
    loaded = isinstance(s.value, Read) and not s.op and value.lanes > 0 and s.value.source.name not in w.forms
    registers.write(w, b, form, index, Place({}, lanes, place.mask if lanes else None), bare(text), loaded)


def _guard_of_all(w: Writer, s: Store, place: Place) -> bool:
    """Under a run-time mask, a cell without a lane changes only if any lane is active."""
    if masks.is_literal(place.mask) or s.op:
        return False
    assert place.mask is not None
    w.open(f"if ({masks.any_text(w, place.mask, _byte(s.buffer.dtype), place.lanes)})")
    return True


def _last_active(w: Writer, s: Store, value: Value, place: Place) -> None:
    """The last active lane's value stays in a cell that has no lane; which lane that is, is known at run time."""
    t = _byte(s.buffer.dtype)
    lanes = place.lanes
    assert place.mask is not None
    name = w.function.fresh("t")
    w.line(f"const {w.prelude.vector(t, lanes)} {name} = {bare(stored(w, value, s.buffer.dtype, lanes))};")
    guard = masks.vector_text(w, place.mask, t.bits, lanes)
    for lane in range(lanes):
        if place.mask.bits >> lane & 1:
            w.open(f"if ({guard}[{lane}])")
            _store_text(w, s, f"{name}[{lane}]", place)
            w.close()


def _store_text(w: Writer, s: Store, text: str, place: Place) -> None:
    """Assign a scalar text to a lane-free cell."""
    form = w.forms.get(s.buffer.name)
    if form is not None:
        index = tuple([i.substitute(place.env) for i in s.index])
        registers.write(w, s.buffer, form, index, Place({}, 0), text, False)
        return
    bank, address, _, _ = memory.target_address(w, s.buffer, s.index, place)
    memory.store_scalar(w, s.buffer, bank, address, text)


def _store_memory(w: Writer, s: Store, value: Value, place: Place) -> None:
    b = s.buffer
    if w.checks is not None:
        old = (
            w.checks.cell(w, b, s.index, place, f"reads {b.name}[{', '.join(map(str, s.index))}]", None) if s.op else ""
        )
        w.checks.store(w, s, bare(_combine(w, s, old, value, 0)), place)
        return
    bank, address, stride, irregular = memory.target_address(w, b, s.index, place)
    lanes = place.lanes
    if not lanes or not (stride or irregular):
        if lanes:
            reduced = _reduced(w, s, value, place)
            if reduced is None:
                _last_active(w, s, value, place)
                return
            value = reduced
        guard = lanes > 0 and _guard_of_all(w, s, place)
        old = element_text(*pointer(w, b, bank, address)) if s.op else ""
        memory.store_scalar(w, b, bank, address, bare(_combine(w, s, old, value, 0)))
        if guard:
            w.close()
        return
    old = ""
    if s.op:
        raw = memory.load(w, b, s.index, place)
        old = raw.text if b.dtype.kind != "b" else raw.text[1:-6]  # the bytes themselves
    text = bare(_combine(w, s, old, value, lanes))
    if irregular:
        memory.store_each_lane(w, b, bank, address, place, text)
    else:
        memory.store_vector(w, b, bank, address, stride, place, text, s.nt)
