"""Texts of the verbs: operations without a C operator, generic or by a target's instruction.

Each rule gives the signature and the generic body of one verb; a row of the target's table
replaces the body for the compilers it names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tensordsl.codegen.c.narrow import NARROW, narrow, widen
from tensordsl.codegen.c.types import element, literal, signed, vector_name
from tensordsl.codegen.c.vector_operations import fused_text

from tensordsl import dtypes
from tensordsl.dtypes import DType
from tensordsl.errors import InternalError
from tensordsl.targets.avx512 import mask_type

if TYPE_CHECKING:
    from tensordsl.codegen.c.prelude import Prelude


class Shape(NamedTuple):
    """What a verb works on.  V: vector type (or S), S: element type, M: mask type of the vector."""

    prelude: Prelude
    t: DType
    lanes: int
    V: str
    S: str
    M: str


class Text(NamedTuple):
    """result and parameters of the function; body: its generic statements; operands: of the table's text.

    around: the statement the table's text is put into, in place of ``@`` ("": return it, or just do it).
    """

    result: str
    parameters: str
    body: str
    operands: tuple[str, ...] = ()
    around: str = ""


def define(prelude: Prelude, name: str, verb: str, t: DType, lanes: int) -> str:
    """The C text of one verb for one type."""
    rule = _SCALAR.get(verb) if not lanes else _VECTOR.get(verb)
    if rule is None:
        raise InternalError(f"no text for {verb} of {t} x {lanes}")
    if lanes:
        shape = Shape(prelude, t, lanes, prelude.vector(t, lanes), t.c_name, prelude.vector(signed(t.bits), lanes))
    else:
        shape = Shape(prelude, t, 0, t.c_name, t.c_name, "int")
    text = rule(shape)
    row = prelude.target.instructions.get((verb, vector_name(t, lanes))) if lanes else None
    body = text.body
    if row is not None:
        if f"c8x{lanes}" in row.gcc:  # the builtins take vectors of plain char
            prelude.need(f"c8x{lanes}", f"typedef char c8x{lanes} __attribute__((vector_size({lanes})));\n")
        made = [_instruction(text, x) for x in (row.gcc, row.clang)]
        gcc, clang = made[0] or text.body, made[1] or text.body
        body = gcc if gcc == clang else f"\n#ifdef __clang__\n    {clang}\n#else\n    {gcc}\n#endif\n"
    space = "" if body.startswith("\n") else " "
    return f"TD_INLINE {text.result} {name}({text.parameters}) {{{space}{body}{space}}}\n"


def _instruction(text: Text, template: str) -> str:
    if not template:
        return ""
    around = text.around or ("@;" if text.result == "void" else "return @;")
    return around.replace("@", template.format(*text.operands))


def mask_parameter(prelude: Prelude, t: DType, lanes: int) -> str:
    """The C type of a mask that guards memory: an integer of bits, or a vector of integers."""
    if prelude.target.isa == "avx512":
        return mask_type(lanes)
    return prelude.vector(signed(t.bits), lanes)


def _active(prelude: Prelude, lane: int) -> str:
    """Is a lane of the mask ``m`` on?"""
    if prelude.target.isa == "avx512":
        return f"m >> {lane} & 1" if lane else "m & 1"
    return f"m[{lane}]"


# ---------------------------------------------------------------- arithmetic


def _extreme(sign: str) -> Callable[[Shape], Text]:
    def rule(s: Shape) -> Text:
        if not s.lanes:
            return Text(s.S, f"{s.S} a, {s.S} b", f"return a {sign} b ? a : b;")
        body = f"const {s.M} m = ({s.M})(a {sign} b); return ({s.V})((m & ({s.M})a) | (~m & ({s.M})b));"
        return Text(s.V, f"{s.V} a, {s.V} b", body, ("a", "b"))

    return rule


def _fused(s: Shape) -> Text:
    """a b + c with one rounding, on every machine."""
    f = f"__builtin_fma{'f' if s.t.bits == 32 else ''}"
    if not s.lanes:
        return Text(s.S, f"{s.S} a, {s.S} b, {s.S} c", f"return {f}(a, b, c);")
    return Text(s.V, f"{s.V} a, {s.V} b, {s.V} c", fused_text(s.t.bits, s.lanes), ("a", "b", "c"))


def _select(s: Shape) -> Text:
    return Text(s.V, f"{s.M} m, {s.V} a, {s.V} b", f"return ({s.V})((m & ({s.M})a) | (~m & ({s.M})b));")


def _blend(s: Shape) -> Text:
    """As `_select`, by the mask that guards memory."""
    parameters = f"{mask_parameter(s.prelude, s.t, s.lanes)} m, {s.V} a, {s.V} b"
    lanes = "".join(f" if ({_active(s.prelude, i)}) b[{i}] = a[{i}];" for i in range(s.lanes))
    return Text(s.V, parameters, f"{lanes.strip()} return b;", ("m", "a", "b"))


def _splat(s: Shape) -> Text:
    return Text(s.V, f"{s.S} x", f"return x - ({s.V}){{0}};", ("x",))  # x - 0 keeps the sign of -0.0


def _absolute(s: Shape) -> Text:
    if s.t.is_float:
        if not s.lanes:
            return Text(s.S, f"{s.S} a", f"return __builtin_fabs{'f' if s.t.bits == 32 else ''}(a);")
        most = literal((1 << (s.t.bits - 1)) - 1, signed(s.t.bits))
        return Text(s.V, f"{s.V} a", f"return ({s.V})(({s.M})a & {most});", ("a",))
    if s.t.kind == "u":
        return Text(s.V, f"{s.V} a", "return a;")
    u = dtypes.ALL[f"uint{s.t.bits}"]
    if not s.lanes:
        return Text(s.S, f"{s.S} a", f"return a < 0 ? ({s.S})(0U - ({u.c_name})a) : a;")
    uv = s.prelude.vector(u, s.lanes)  # unsigned arithmetic: the least integer has no positive
    return Text(s.V, f"{s.V} a", f"const {uv} m = ({uv})(a < 0); return ({s.V})((({uv})a ^ m) - m);")


def _rounded(name: str) -> Callable[[Shape], Text]:
    def rule(s: Shape) -> Text:
        if not s.lanes:
            return Text(s.S, f"{s.S} a", f"return __builtin_{name}{'f' if s.t.bits == 32 else ''}(a);")
        whole = literal(2.0 ** (23 if s.t.bits == 32 else 52), s.t)  # from here on every number is an integer
        one, most = literal(1.0, s.t), literal((1 << (s.t.bits - 1)) - 1, signed(s.t.bits))
        choose = s.prelude.verb("select", s.t, s.lanes)
        absolute = s.prelude.verb("abs", s.t, s.lanes)
        fix = (
            f"({s.V})(({s.M})(t > a) & ({s.M})({one} - ({s.V}){{0}}))"
            if name == "floor"
            else f"({s.V})(({s.M})(t < a) & ({s.M})(({s.V}){{0}} - {one}))"
        )
        body = (
            f"const {s.V} t = __builtin_convertvector(__builtin_convertvector(a, {s.M}), {s.V}); "
            f"const {s.V} r = ({s.V})((({s.M})(t - {fix}) & {most}) | (({s.M})a & ~{most})); "
            f"return {choose}(({s.M})({absolute}(a) < {whole}), r, a);"
        )
        return Text(s.V, f"{s.V} a", body, ("a",))

    return rule


def _nearest(s: Shape) -> Text:
    """The nearest integer, ties to even: adding a number without a fraction of its own rounds."""
    if not s.lanes:
        return Text(s.S, f"{s.S} a", f"return __builtin_rint{'f' if s.t.bits == 32 else ''}(a);")
    whole = literal(2.0 ** (23 if s.t.bits == 32 else 52), s.t)
    most = literal((1 << (s.t.bits - 1)) - 1, signed(s.t.bits))
    choose, absolute = (s.prelude.verb(v, s.t, s.lanes) for v in ("select", "abs"))
    body = (
        f"const {s.V} m = {absolute}(a); {s.V} t = m + {whole}; t = t - {whole}; "
        f"const {s.V} r = ({s.V})((({s.M})t & {most}) | (({s.M})a & ~{most})); "
        f"return {choose}(({s.M})(m < {whole}), r, a);"
    )
    return Text(s.V, f"{s.V} a", body, ("a",))


def _square_root(s: Shape) -> Text:
    f = f"__builtin_sqrt{'f' if s.t.bits == 32 else ''}"
    if not s.lanes:
        return Text(s.S, f"{s.S} a", f"return {f}(a);")
    return Text(s.V, f"{s.V} a", f"return ({s.V}){{{', '.join(f'{f}(a[{i}])' for i in range(s.lanes))}}};", ("a",))


def _division(name: str) -> Callable[[Shape], Text]:
    """Python's // and % (numpy's values where the divisor is 0), lane by lane: there is no instruction."""

    def rule(s: Shape) -> Text:
        if s.lanes:
            one = s.prelude.verb(name, s.t, 0)
            body = f"{s.V} r; for (int i = 0; i < {s.lanes}; i++) r[i] = {one}(a[i], b[i]); return r;"
            return Text(s.V, f"{s.V} a, {s.V} b", body)
        arguments = f"{s.S} a, {s.S} b"
        if s.t.is_float:
            f = "f" if s.t.bits == 32 else ""
            rest = f"{s.S} r = __builtin_fmod{f}(a, b); if (r != 0 && (r < 0) != (b < 0)) r += b; "
            if name == "mod":
                return Text(s.S, arguments, f"{rest}return r != 0 ? r : __builtin_copysign{f}(r, b);")
            half = literal(0.5, s.t)
            body = (
                f"if (b == 0) return a / b; {rest}const {s.S} d = (a - r) / b, q = __builtin_floor{f}(d); "
                f"return d - q > {half} ? q + 1 : q;"
            )
            return Text(s.S, arguments, body)
        c = "/" if name == "floordiv" else "%"
        if s.t.kind == "u":
            return Text(s.S, arguments, f"return b ? ({s.S})(a {c} b) : 0;")
        if name == "floordiv":  # the least integer by -1 is the one quotient that does not fit
            u = dtypes.ALL[f"uint{max(32, s.t.bits)}"].c_name
            body = (
                f"if (b == 0) return 0; if (b == -1) return ({s.S})(0U - ({u})a); "
                f"return ({s.S})(a / b - (a % b != 0 && (a < 0) != (b < 0)));"
            )
        else:
            body = (
                f"if (b == 0 || b == -1) return 0; const {s.S} r = ({s.S})(a % b); "
                f"return ({s.S})(r != 0 && (r < 0) != (b < 0) ? r + b : r);"
            )
        return Text(s.S, arguments, body)

    return rule


def _horizontal(name: str) -> Callable[[Shape], Text]:
    def rule(s: Shape) -> Text:
        s.prelude.shuffle()
        text, width = [], s.lanes
        while width > 1:
            width //= 2
            rotated = ", ".join(str((i + width) % s.lanes) for i in range(s.lanes))
            other = f"td_shuffle({s.M}, a, a, {rotated})"
            if name in ("max", "min"):
                text.append(f"a = {s.prelude.verb(name, s.t, s.lanes)}(a, {other});")
            elif s.t.is_float:
                text.append(f"a = a {'+' if name == 'add' else '*'} {other};")
            else:
                u = s.prelude.vector(dtypes.ALL[f"uint{s.t.bits}"], s.lanes)
                text.append(f"a = ({s.V})(({u})a {'+' if name == 'add' else '*'} ({u}){other});")
        return Text(s.S, f"{s.V} a", " ".join([*text, "return a[0];"]))

    return rule


# ---------------------------------------------------------------- masks


def _iota(s: Shape) -> Text:
    return Text(s.V, "void", f"return ({s.V}){{{', '.join(map(str, range(s.lanes)))}}};")


def _first(s: Shape) -> Text:
    """The bits of the first n lanes (any n), for instruction sets with masks of bits."""
    m = mask_type(s.lanes)
    one = "1ULL" if s.lanes == 64 else "1U"
    every = f"({m})-1" if s.lanes >= 8 else f"({m}){(1 << s.lanes) - 1}"
    return Text(m, "int64_t n", f"return n >= {s.lanes} ? {every} : n <= 0 ? 0 : ({m})(({one} << n) - 1);")


def _below(s: Shape) -> Text:
    """The mask of the first n lanes (any n) as a vector of integers."""
    iota = s.prelude.verb("iota", s.t, s.lanes)
    body = f"return ({s.M})({iota}() < ({s.S})(n >= {s.lanes} ? {s.lanes} : n <= 0 ? 0 : n));"
    return Text(s.M, "int64_t n", body)


def _any(s: Shape) -> Text:
    return Text("int", f"{s.V} a", f"return ({' | '.join(f'a[{i}]' for i in range(s.lanes))}) != 0;")


# ---------------------------------------------------------------- memory


def _load_masked(s: Shape) -> Text:
    m = mask_parameter(s.prelude, s.t, s.lanes)
    lanes = " ".join(f"if ({_active(s.prelude, i)}) r[{i}] = p[{i}];" for i in range(s.lanes))
    keep = s.prelude.keep(s.lanes, s.t)
    # gcc 12 drops a mask it knows where only active lanes are taken out: the whole vector would be read
    around = f"{s.V} r = @; {keep}(r); return r;" if keep else ""
    return Text(s.V, f"const {s.S} *p, {m} m", f"{s.V} r = {{0}}; {lanes} return r;", ("p", "m"), around)


def _store_masked(s: Shape) -> Text:
    m = mask_parameter(s.prelude, s.t, s.lanes)
    lanes = " ".join(f"if ({_active(s.prelude, i)}) p[{i}] = v[{i}];" for i in range(s.lanes))
    keep = s.prelude.keep(s.lanes, s.t)
    # gcc 12 merges the store with what made the value, into an instruction that touches all of the memory
    around = f"{keep}(v); @;" if keep else ""
    return Text("void", f"{s.S} *p, {m} m, {s.V} v", lanes, ("p", "m", "v"), around)


def _load_first(s: Shape) -> Text:
    """The first n lanes, n a literal: a copy of that many bytes."""
    body = f"{s.V} r = {{0}}; __builtin_memcpy(&r, p, n * sizeof(*p)); return r;"
    return Text(s.V, f"const {s.S} *p, const unsigned long n", body)


def _store_first(s: Shape) -> Text:
    return Text("void", f"{s.S} *p, const unsigned long n, {s.V} v", "__builtin_memcpy(p, &v, n * sizeof(*p));")


def _gather(s: Shape) -> Text:
    lanes = ", ".join(f"p[{i} * s]" if i else "p[0]" for i in range(s.lanes))
    return Text(s.V, f"const {s.S} *p, int64_t s", f"return ({s.V}){{{lanes}}};")


def _gather_masked(s: Shape) -> Text:
    m = mask_parameter(s.prelude, s.t, s.lanes)
    lanes = " ".join(f"if ({_active(s.prelude, i)}) r[{i}] = p[{i} * s];" for i in range(s.lanes))
    return Text(s.V, f"const {s.S} *p, int64_t s, {m} m", f"{s.V} r = {{0}}; {lanes} return r;")


def _gather_at(s: Shape) -> Text:
    """The elements at offsets that are data."""
    index = s.prelude.vector(dtypes.int32, s.lanes)
    lanes = ", ".join(f"p[i[{n}]]" for n in range(s.lanes))
    return Text(s.V, f"const {s.S} *p, {index} i", f"return ({s.V}){{{lanes}}};", ("p", "i"))


def _gather_at_masked(s: Shape) -> Text:
    m, index = mask_parameter(s.prelude, s.t, s.lanes), s.prelude.vector(dtypes.int32, s.lanes)
    lanes = " ".join(f"if ({_active(s.prelude, n)}) r[{n}] = p[i[{n}]];" for n in range(s.lanes))
    return Text(s.V, f"const {s.S} *p, {index} i, {m} m", f"{s.V} r = {{0}}; {lanes} return r;", ("p", "i", "m"))


def _scatter(s: Shape) -> Text:
    lanes = " ".join(f"p[{i} * s] = v[{i}];" for i in range(s.lanes))
    return Text("void", f"{s.S} *p, int64_t s, {s.V} v", lanes)


def _scatter_masked(s: Shape) -> Text:
    m = mask_parameter(s.prelude, s.t, s.lanes)
    lanes = " ".join(f"if ({_active(s.prelude, i)}) p[{i} * s] = v[{i}];" for i in range(s.lanes))
    return Text("void", f"{s.S} *p, int64_t s, {m} m, {s.V} v", lanes)


def _stream(s: Shape) -> Text:
    """A store past the caches, where the address allows it."""
    size = s.lanes * s.t.bytes
    around = f"if (((__UINTPTR_TYPE__)p & {size - 1}) == 0) @; else *({s.V}u *)p = v;"
    return Text("void", f"{s.S} *p, {s.V} v", f"*({s.V}u *)p = v;", ("p", "v"), around)


# ---------------------------------------------------------------- conversion


def _from(source: DType) -> Callable[[Shape], Text]:
    def rule(s: Shape) -> Text:
        parameter = f"{s.prelude.vector(source, s.lanes)} a"
        if not source.is_float:
            s.prelude.vector(signed(source.bits), s.lanes)  # what builtins call it
        if not source.is_float and not s.t.is_float and max(source.bits, s.t.bits) >= 4 * min(source.bits, s.t.bits):
            # gcc does a step of four or eight lane by lane
            between = dtypes.ALL[f"{'uint' if source.kind == 'u' else 'int'}{max(source.bits, s.t.bits) // 2}"]
            first, second = (
                s.prelude.verb(f"from_{element(a)}", b, s.lanes) for a, b in ((source, between), (between, s.t))
            )
            return Text(s.V, parameter, f"return {second}({first}(a));", ("a",))
        return Text(s.V, parameter, f"return __builtin_convertvector(a, {s.V});", ("a",))

    return rule


Rule = Callable[[Shape], Text]
_BOTH: dict[str, Rule] = {
    "max": _extreme(">"), "min": _extreme("<"), "abs": _absolute, "sqrt": _square_root,
    "floor": _rounded("floor"), "ceil": _rounded("ceil"), "round": _nearest,
    "floordiv": _division("floordiv"), "mod": _division("mod"), "fma": _fused,
    **{f"widen_{t}": widen(t) for t in NARROW}, **{f"narrow_{t}": narrow(t) for t in NARROW},
}  # fmt: skip
_SCALAR = _BOTH
_VECTOR: dict[str, Rule] = {
    **_BOTH,
    "select": _select, "blend": _blend, "splat": _splat, "iota": _iota, "first": _first, "below": _below, "any": _any,
    "reduce_add": _horizontal("add"), "reduce_mul": _horizontal("mul"),
    "reduce_max": _horizontal("max"), "reduce_min": _horizontal("min"),
    "load_masked": _load_masked, "store_masked": _store_masked,
    "load_first": _load_first, "store_first": _store_first,
    "gather": _gather, "gather_masked": _gather_masked,
    "gather_at": _gather_at, "gather_at_masked": _gather_at_masked,
    "scatter": _scatter, "scatter_masked": _scatter_masked, "stream": _stream,
    **{f"from_{element(t)}": _from(t) for t in dtypes.ALL.values() if t.kind in "iuf" and t.computed is t},
}  # fmt: skip
