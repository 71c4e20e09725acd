"""Expressions as C: one rule per operation, for scalars and for vectors of any lanes."""

from __future__ import annotations

from collections.abc import Callable

from tensordsl.codegen.c import masks, memory, registers
from tensordsl.codegen.c.addresses import affine_text, at_lane, lane_part
from tensordsl.codegen.c.extents import MATHEMATICS
from tensordsl.codegen.c.types import Value, bare, literal, signed, unsigned
from tensordsl.codegen.c.writer import LANE, Place, Writer
from tensordsl.schedules.loopnest import Buffer

from tensordsl import dtypes, expr
from tensordsl.affine import Affine, interval
from tensordsl.dtypes import DType
from tensordsl.errors import InternalError
from tensordsl.expr import Const, Expr, Index, Op, Read

_SIGN = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_BITS = {"and": "&", "or": "|"}
#: comparisons of conditions, as bits
_TRUTH = {
    "eq": "~({0} ^ {1})", "ne": "({0} ^ {1})", "lt": "(~{0} & {1})", "le": "(~{0} | {1})",
    "gt": "({0} & ~{1})", "ge": "({0} | ~{1})", "max": "({0} | {1})", "min": "({0} & {1})",
}  # fmt: skip
_INT32 = 1 << 31
_ZEROS = frozenset(["0", "0.0f", "0.0", "0LL", "0U", "0ULL"])


class Sharing:
    """What was already computed while one value is printed: nodes used twice get a name."""

    __slots__ = ("done", "shared")

    def __init__(self, shared: frozenset[int], done: dict[int, Value] | None = None) -> None:
        self.shared = shared
        self.done = {} if done is None else done

    def branch(self) -> Sharing:
        """For code that may not run: what it names is not known outside."""
        return Sharing(self.shared, dict(self.done))


def shared_nodes(w: Writer, e: Expr) -> frozenset[int]:
    """The ids of operations used more than once."""
    found = w.shared.get(id(e))
    if found is None:
        counts: dict[int, int] = {}

        def go(x: Expr) -> None:
            if isinstance(x, Op):
                n = counts[id(x)] = counts.get(id(x), 0) + 1
                if n == 1:
                    for a in x.args:
                        go(a)

        go(e)
        found = w.shared[id(e)] = (e, frozenset([k for k, n in counts.items() if n > 1]))
    return found[1]


def render(w: Writer, e: Expr, place: Place, sharing: Sharing) -> Value:
    """The text of an expression; statements it needs are printed before."""
    if isinstance(e, Read):
        return _read(w, e, place)
    if isinstance(e, Const):
        return Value(literal(e.value, e.dtype), e.dtype)
    if isinstance(e, Index):
        return _index(w, e.affine, place, e.dtype)
    if not isinstance(e, Op):
        raise InternalError(f"{type(e).__name__} in a loop nest: {e}")
    done = sharing.done.get(id(e))
    if done is not None:
        return done
    value = _operation(w, e, place, sharing)
    if id(e) in sharing.shared:
        name = w.function.fresh("t")
        w.line(f"const {c_type(w, value)} {name} = {bare(value.text)};")
        value = sharing.done[id(e)] = value._replace(text=name)
    return value


def c_type(w: Writer, v: Value) -> str:
    if v.dtype.kind == "b":
        return w.prelude.vector(signed(v.width), v.lanes) if v.lanes else "int"
    return w.prelude.vector(v.dtype, v.lanes) if v.lanes else v.dtype.c_name


def _read(w: Writer, e: Read, place: Place) -> Value:
    b = e.source
    assert isinstance(b, Buffer)
    form = w.forms.get(b.name)
    if w.checks is not None:
        return memory.truth(w.checks.load(w, e, place))
    if form is None:
        return memory.load(w, b, e.index, place)
    value = registers.read(w, b, form, tuple([i.substitute(place.env) for i in e.index]), place.lanes)
    if value.lanes and b.dtype.kind == "b":
        return value._replace(text=f"({value.text} != 0)", width=8)
    return value


# ---------------------------------------------------------------- widening


def vector(w: Writer, v: Value, lanes: int) -> str:
    """A value as a vector of numbers."""
    if v.lanes:
        return v.text
    if v.text in _ZEROS:
        return f"({w.prelude.vector(v.dtype, lanes)}){{0}}"
    return f"{w.prelude.verb('splat', v.dtype, lanes)}({bare(v.text)})"


def operand(w: Writer, v: Value, lanes: int) -> str:
    """A value beside a vector: C broadcasts scalars itself where they have the element's very type."""
    return vector(w, v, lanes) if not v.lanes and v.dtype.bits < 32 else v.text


def mask_of(w: Writer, v: Value, lanes: int, width: int) -> str:
    """A condition as a mask of a width."""
    t = signed(width)
    if not v.lanes:
        return f"{w.prelude.verb('splat', t, lanes)}(-{v.text})"
    if v.width == width:
        return v.text
    return f"__builtin_convertvector({v.text}, {w.prelude.vector(t, lanes)})"


def natural_width(w: Writer, lanes: int) -> int:
    """Bits of an element where the lanes fill a vector register."""
    return min(64, max(8, w.target.vector_bytes * 8 // lanes))


def stored(w: Writer, v: Value, t: DType, lanes: int) -> str:
    """A value as what a buffer holds: conditions become bytes."""
    if t.kind != "b":
        return vector(w, v, lanes) if lanes else bare(v.text)
    if not lanes:
        return bare(v.text)
    if not v.lanes:
        return f"{w.prelude.verb('splat', dtypes.uint8, lanes)}({bare(v.text)})"
    u8 = w.prelude.vector(dtypes.uint8, lanes)
    return f"(({u8}){mask_of(w, v, lanes, 8)} & (unsigned char)1)"


# ---------------------------------------------------------------- indices


def _index(w: Writer, affine: Affine, place: Place, t: DType) -> Value:
    """An index as a number of type t: exact for integers, rounded for floats."""
    a = affine.substitute(place.env)
    k, inside = lane_part(a) if place.lanes else (0, False)
    if not k and not inside:
        text = affine_text(w, a)
        cast = f"({t.c_name})"
        return Value(f"{cast}{text}" if text.isidentifier() or text.isdigit() else f"({cast}({text}))", t)
    lanes = place.lanes
    if inside:
        texts = ", ".join(f"({t.c_name})({affine_text(w, at_lane(a, i))})" for i in range(lanes))
        return Value(f"({w.prelude.vector(t, lanes)}){{{texts}}}", t, lanes)
    low, high = interval(a, w.ranges | {LANE: (0, lanes - 1)})
    small = low is not None and high is not None and low >= -_INT32 and high < _INT32
    whole = dtypes.int32 if small and t.bits <= 32 and t.is_float else dtypes.int64
    if not t.is_float:
        whole = t
    start = Affine(tuple([x for x in a.terms if x[0] != LANE]), a.const)
    ramp = f"{w.prelude.verb('iota', whole, lanes)}()"
    if k != 1:
        ramp = f"({ramp} * ({whole.c_name}){f'({k})' if k < 0 else k})"
    text = f"({ramp} + ({whole.c_name})({affine_text(w, start)}))"
    if t.is_float:
        text = f"__builtin_convertvector({text}, {w.prelude.vector(t, lanes)})"
    return Value(text, t, lanes)


# ---------------------------------------------------------------- operations


def _operation(w: Writer, e: Op, place: Place, sharing: Sharing) -> Value:
    if e.name == "select":
        return _select(w, e, place, sharing)
    if e.name == "cast":
        arg = e.args[0]
        if isinstance(arg, Index):
            return _cast(w, _index(w, arg.affine, place, e.dtype if e.dtype.kind != "b" else arg.dtype), e.dtype)
        return _cast(w, render(w, arg, place, sharing), e.dtype)
    if e.dtype.kind == "b" and e.name not in ("max", "min"):
        conditions = _conditions(w, e)
        if conditions is not None:
            return _affine_condition(w, conditions, place)
    args = [render(w, a, place, sharing) for a in e.args]
    if e.name in ("floordiv", "mod") and args[0].lanes and not e.dtype.is_float:
        by = e.args[1].value if isinstance(e.args[1], Const) else 0
        if by > 0:
            f = w.prelude.division(e.name, e.dtype, args[0].lanes, int(by))
            return Value(f"{f}({bare(args[0].text)})", e.dtype, args[0].lanes)
    if e.name in ("max", "min") and isinstance(e.args[1], Const):
        args.reverse()  # the instruction returns its second operand for NaN: let it be the one that may be NaN
    return apply(w, e.name, args, e.dtype)


def apply(w: Writer, name: str, args: list[Value], t: DType) -> Value:
    """An operation on values already printed; vector where one of them is."""
    lanes = max(a.lanes for a in args)
    if name in MATHEMATICS:
        return _mathematics(w, name, args, t, lanes)
    if args[0].dtype.kind == "b":
        rule: Callable[[Writer, str, list[Value], DType, int], Value] = _condition_rule
    elif name in _COMPARE:
        rule = _comparison
    else:
        rule = _RULES.get(name, _verb)
    return rule(w, name, args, t, lanes)


def _arithmetic(w: Writer, name: str, args: list[Value], t: DType, lanes: int) -> Value:
    sign = _SIGN[name]
    if t.is_float:
        return Value(f"({args[0].text} {sign} {args[1].text})", t, lanes)
    # integers wrap around, which C promises for unsigned ones alone
    if lanes:
        v, u = w.prelude.vector(t, lanes), w.prelude.vector(unsigned(t), lanes)
        a, b = (vector(w, x, lanes) for x in args)
        return Value(f"(({v})(({u}){a} {sign} ({u}){b}))", t, lanes)
    u = unsigned(dtypes.int64 if t.bits == 64 else dtypes.int32).c_name
    return Value(f"(({t.c_name})(({u}){args[0].text} {sign} ({u}){args[1].text}))", t)


def _comparison(w: Writer, name: str, args: list[Value], t: DType, lanes: int) -> Value:
    sign, of = _COMPARE[name], args[0].dtype
    if not lanes:
        return Value(f"({args[0].text} {sign} {args[1].text})", dtypes.bool_)
    m = w.prelude.vector(signed(of.bits), lanes)
    a, b = (operand(w, x, lanes) for x in args)
    return Value(f"(({m})({a} {sign} {b}))", dtypes.bool_, lanes, of.bits)


def _condition_rule(w: Writer, name: str, args: list[Value], t: DType, lanes: int) -> Value:
    """Logic on conditions: bits, whether of an int or of masks."""
    if not lanes:
        if name == "not":
            return Value(f"(!{args[0].text})", dtypes.bool_)
        if name in _COMPARE:
            return Value(f"({args[0].text} {_COMPARE[name]} {args[1].text})", dtypes.bool_)
        sign = _BITS.get(name) or ("|" if name == "max" else "&")
        return Value(f"({args[0].text} {sign} {args[1].text})", dtypes.bool_)
    width = max(a.width for a in args)
    texts = [mask_of(w, a, lanes, width) for a in args]
    if name == "not":
        return Value(f"(~{texts[0]})", dtypes.bool_, lanes, width)
    text = f"({texts[0]} {_BITS[name]} {texts[1]})" if name in _BITS else _TRUTH[name].format(*texts)
    return Value(text, dtypes.bool_, lanes, width)


def _logic(w: Writer, name: str, args: list[Value], t: DType, lanes: int) -> Value:
    a, b = (operand(w, x, lanes) if lanes else x.text for x in args)
    text = f"({a} {_BITS[name]} {b})"
    return Value(text if lanes else f"(({t.c_name}){text})", t, lanes)


def _complement(w: Writer, name: str, args: list[Value], t: DType, lanes: int) -> Value:
    return Value(f"(~{args[0].text})" if lanes else f"(({t.c_name})~{args[0].text})", t, lanes)


def _negation(w: Writer, name: str, args: list[Value], t: DType, lanes: int) -> Value:
    if t.is_float or lanes:
        text = f"(-{args[0].text})"
        if lanes and not t.is_float:
            u = w.prelude.vector(unsigned(t), lanes)
            text = f"(({w.prelude.vector(t, lanes)})-({u}){args[0].text})"
        return Value(text, t, lanes)
    u_name = unsigned(dtypes.int64 if t.bits == 64 else dtypes.int32).c_name
    return Value(f"(({t.c_name})(0U - ({u_name}){args[0].text}))", t)


def _verb(w: Writer, name: str, args: list[Value], t: DType, lanes: int) -> Value:
    """An operation without an operator: a small inline function."""
    if name in ("floor", "ceil") and not t.is_float:
        return args[0]
    f = w.prelude.verb(name, t, lanes)
    texts = [vector(w, a, lanes) if lanes else bare(a.text) for a in args]
    return Value(f"{f}({', '.join(texts)})", t, lanes)


Rule = Callable[[Writer, str, list[Value], DType, int], Value]
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_SIGN, _arithmetic),
    **dict.fromkeys(_BITS, _logic),
    "not": _complement,
    "neg": _negation,
}


def _mathematics(w: Writer, name: str, args: list[Value], t: DType, lanes: int) -> Value:
    """A function of the vector library; scalars take its scalar twin, so that tails agree with vectors."""
    f = w.prelude.mathematics(name, t, lanes)
    texts = [vector(w, a, lanes) if lanes else bare(a.text) for a in args]
    return Value(f"{f}({', '.join(texts)})", t, lanes)


# ---------------------------------------------------------------- conversion


def _cast(w: Writer, v: Value, t: DType) -> Value:
    if v.dtype == t:
        return v
    if t.kind == "b":
        if not v.lanes:
            return Value(f"({v.text} != 0)", t)
        m = w.prelude.vector(signed(v.dtype.bits), v.lanes)
        return Value(f"(({m})({v.text} != 0))", t, v.lanes, v.dtype.bits)
    if not v.lanes:
        return Value(f"(({t.c_name}){v.text})", t)
    to = w.prelude.vector(t, v.lanes)
    if v.dtype.kind == "b":
        return Value(f"__builtin_convertvector(-{v.text}, {to})", t, v.lanes)
    if v.dtype.bits == t.bits and not v.dtype.is_float and not t.is_float:
        return Value(f"(({to}){v.text})", t, v.lanes)
    if v.dtype.is_float != t.is_float and min(v.dtype.bits, t.bits) < 32:
        # gcc takes a step between a float and a narrow integer lane by lane
        v = _cast(w, v, dtypes.int32)
    return Value(f"{w.prelude.conversion(v.dtype, t, v.lanes)}({bare(v.text)})", t, v.lanes)


# ---------------------------------------------------------------- conditions


def _conditions(w: Writer, e: Expr) -> tuple[Affine, ...] | None:
    """`expr.conditions`, remembered per node."""
    found = w.affine_conditions.get(id(e))
    if found is None:
        found = w.affine_conditions[id(e)] = (e, expr.conditions(e))
    return found[1]


def _decided(w: Writer, conditions: tuple[Affine, ...], place: Place) -> tuple[Affine, ...] | None:
    """The conditions that are not always true here; None where one never holds."""
    open_: list[Affine] = []
    ranges = w.ranges | {LANE: (0, place.lanes - 1)} if place.lanes else w.ranges
    for c in conditions:
        c = c.substitute(place.env)
        low, high = interval(c, ranges)
        if high is not None and high < 0:
            return None
        if low is None or low < 0:
            open_.append(c)
    return tuple(open_)


def scalar_condition(w: Writer, conditions: tuple[Affine, ...]) -> str:
    """A conjunction of lane-free conditions."""
    return " && ".join(f"{affine_text(w, c)} >= 0" for c in conditions)


def _affine_condition(w: Writer, conditions: tuple[Affine, ...], place: Place) -> Value:
    """A condition on indices as a value."""
    left = _decided(w, conditions, place)
    if left is None:
        return Value("0", dtypes.bool_)
    if not left:
        return Value("1", dtypes.bool_)
    if not place.lanes or not any(LANE in c.names() for c in left):
        return Value(f"({scalar_condition(w, left)})", dtypes.bool_)
    mask = masks.narrowed(w, None, place.lanes, left)
    width = natural_width(w, place.lanes)
    if mask is None:
        return Value("1", dtypes.bool_)
    return Value(masks.vector_text(w, mask, width, place.lanes), dtypes.bool_, place.lanes, width)


def _reads_at_data(e: Expr) -> bool:
    """Is an index in the expression read from memory?"""
    return any(isinstance(x, Read) and any(True for i in x.index for _ in i.data()) for x in expr.walk(e))


def _select(w: Writer, e: Op, place: Place, sharing: Sharing) -> Value:
    """Only the chosen side is evaluated: its reads may be out of bounds where it is not chosen."""
    conditions = _conditions(w, e.args[0])
    if conditions is None and any(_reads_at_data(x) for x in e.args[1:]):
        conditions = expr.facts(e.args[0])  # they keep the indices in bounds
    if conditions is None:
        c = render(w, e.args[0], place, sharing)
        if c.dtype.kind != "b":
            c = _cast(w, c, dtypes.bool_)
        if not c.lanes:
            return _branch(w, bare(c.text), e, place, sharing)
        # a condition on data does not guard bounds: both sides are computed
        return _choose(w, c, render(w, e.args[1], place, sharing), render(w, e.args[2], place, sharing), e.dtype)
    left = _decided(w, conditions, place)
    if left is None:
        return render(w, e.args[2], place, sharing)
    if not left:
        return render(w, e.args[1], place, sharing)
    if not place.lanes or not any(LANE in c.names() for c in left):
        return _branch(w, scalar_condition(w, left), e, place, sharing)
    # what is read from memory is there in the active lanes alone
    around = place.mask if any(True for c in left for _ in c.data()) else None
    held = masks.narrowed(w, around, place.lanes, left)
    if held is None:
        return render(w, e.args[1], place, sharing)
    if masks.is_empty(held):
        return render(w, e.args[2], place, sharing)
    lanes = place.lanes
    inside = masks.narrowed(w, place.mask, lanes, left)
    outside = masks.without(place.mask, lanes, left)
    zero = Value(literal(0.0 if e.dtype.is_float else 0, e.dtype), e.dtype)
    a, b = (
        zero if masks.is_empty(m) else render(w, x, place._replace(mask=m), sharing.branch())
        for x, m in ((e.args[1], inside), (e.args[2], outside))
    )
    if masks.is_empty(inside) or masks.is_empty(outside):
        return b if masks.is_empty(inside) else a
    if e.dtype.kind == "b":
        width = natural_width(w, lanes)
        m = Value(masks.vector_text(w, held, width, lanes), dtypes.bool_, lanes, width)
        return _choose(w, m, a, b, e.dtype)
    text = masks.blend(w, held, e.dtype, lanes, vector(w, a, lanes), vector(w, b, lanes))
    return Value(text, e.dtype, lanes)


def _choose(w: Writer, c: Value, a: Value, b: Value, t: DType) -> Value:
    """``a`` where the mask holds, else ``b``."""
    lanes = c.lanes
    if t.kind == "b":
        width = max(c.width, a.width, b.width)
        m, x, y = (mask_of(w, v, lanes, width) for v in (c, a, b))
        return Value(f"(({m} & {x}) | (~{m} & {y}))", t, lanes, width)
    f = w.prelude.verb("select", t, lanes)
    return Value(f"{f}({mask_of(w, c, lanes, t.bits)}, {vector(w, a, lanes)}, {vector(w, b, lanes)})", t, lanes)


def _branch(w: Writer, condition: str, e: Op, place: Place, sharing: Sharing) -> Value:
    """A condition without lanes: one of two values, each computed only where it is chosen."""
    sides: list[tuple[Value, list[str]]] = []
    f = w.function
    for x in e.args[1:]:
        kept, f.lines = f.lines, []
        f.depth += 1
        f.blocks.append({})
        value = render(w, x, place, sharing.branch())
        f.blocks.pop()
        f.depth -= 1
        sides.append((value, f.lines))
        f.lines = kept
    (a, a_lines), (b, b_lines) = sides
    lanes = max(a.lanes, b.lanes)
    width = max(a.width, b.width)
    if not lanes:
        texts = [a.text, b.text]
    elif e.dtype.kind == "b":
        texts = [mask_of(w, v, lanes, width) for v in (a, b)]
    else:  # the cast makes a load's unaligned type and the plain one the same
        texts = [f"({w.prelude.vector(e.dtype, lanes)}){vector(w, v, lanes)}" for v in (a, b)]
    result = Value("", e.dtype, lanes, width)
    if not a_lines and not b_lines:
        return result._replace(text=f"(({condition}) ? {texts[0]} : {texts[1]})")
    name = f.fresh("t")
    w.line(f"{c_type(w, result)} {name};")
    w.line(f"if ({condition}) {{")
    f.lines += a_lines
    w.line(f"    {name} = {bare(texts[0])};")
    w.line("} else {")
    f.lines += b_lines
    w.line(f"    {name} = {bare(texts[1])};")
    w.line("}")
    return result._replace(text=name)
