"""The shared texts a kernel needs: vector types and small inline functions, each once per unit.

A *verb* is an operation without a C operator.  Its text comes from the target's instruction table
where there is a row for the vector type, else from the generic rules of `verbs`.
"""

from __future__ import annotations

from tensordsl.codegen.c import verbs
from tensordsl.codegen.c.mathematics import in_order, vector_function
from tensordsl.codegen.c.types import element, literal, signed, typedef, unsigned, vector_name
from tensordsl.codegen.source import C_CALL, C_TYPES

from tensordsl.dtypes import DType, uint8
from tensordsl.program import Rounding
from tensordsl.targets import Target

INLINE = "#define TD_INLINE static inline __attribute__((always_inline, unused))\n"
#: gcc before 12 has its own form of a shuffle; M is a vector of integers as wide as the elements
SHUFFLE = """\
#if defined(__clang__) || __GNUC__ >= 12
#define td_shuffle(M, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define td_shuffle(M, a, b, ...) __builtin_shuffle(a, b, (M){__VA_ARGS__})
#endif
"""


class Prelude:
    """Collects the texts in an order in which each follows what it needs."""

    def __init__(self, target: Target, rounding: Rounding = "free") -> None:
        self.target = target
        self.rounding = rounding
        self._texts: dict[str, str] = {}

    def texts(self) -> tuple[str, ...]:
        return (C_TYPES, C_CALL, *self._texts.values())

    def need(self, name: str, text: str) -> str:
        """A text under a name of its own; the first one stays."""
        self._texts.setdefault(name, text)
        return name

    def vector(self, t: DType, lanes: int) -> str:
        """The name of a vector type, defined."""
        name = vector_name(t, lanes)
        if name not in self._texts:
            self._texts[name] = typedef(t, lanes)
        return name

    def shuffle(self) -> str:
        return self.need("td_shuffle", SHUFFLE)

    def keep(self, lanes: int, t: DType) -> str | None:
        """The load barrier: the value stays in a register instead of being read again by every use.

        gcc folds a load into each arithmetic instruction that uses it, which costs load ports.
        """
        constraint = self.target.barrier
        if not constraint or not 16 <= lanes * t.bytes <= self.target.vector_bytes:  # not one register
            return None
        return self.need("td_keep", f'#define td_keep(x) __asm__("" : "+{constraint}"(x))\n')

    def verb(self, verb: str, t: DType, lanes: int) -> str:
        """The name of the inline function for a verb on vectors (lanes 0: scalars), defined."""
        if t.kind == "b":
            t = uint8
        name = f"td_{verb}_{vector_name(t, lanes) if lanes else vector_name(t, 0)[:-2]}"
        if name not in self._texts:
            self.need("TD_INLINE", INLINE)
            text = verbs.define(self, name, verb, t, lanes)
            self._texts[name] = text
        return name

    def conversion(self, source: DType, t: DType, lanes: int) -> str:
        """The name of the inline function that converts vectors of numbers to another type."""
        self.vector(source, lanes)
        return self.verb(f"from_{element(source)}", t, lanes)

    def division(self, name: str, t: DType, lanes: int, by: int) -> str:
        """floordiv or mod of an integer vector by a positive constant, as an inline function of its own.

        The constant is in the text: gcc expands a vector division before it inlines, and without the
        constant that is one scalar division a lane.
        """
        self.need("TD_INLINE", INLINE)
        v, m = self.vector(t, lanes), self.vector(signed(t.bits), lanes)
        b = literal(by, t)
        shift = by.bit_length() - 1
        if by == 1 << shift:
            body = f"return a >> {shift};" if name == "floordiv" else f"return a & {literal(by - 1, t)};"
        elif t.kind == "u":
            body = f"return a / {b};" if name == "floordiv" else f"return a - a / {b} * {b};"
        else:
            u = self.vector(unsigned(t), lanes)
            rest = f"const {v} q = a / {b}, r = ({v})(({u})a - ({u})q * {literal(by, unsigned(t))});"
            body = (
                f"{rest} return q + ({m})(r < 0);" if name == "floordiv" else f"{rest} return r + (({m})(r < 0) & {b});"
            )
        f = f"td_{name}_{by}_{v}"
        return self.need(f, f"TD_INLINE {v} {f}({v} a) {{ {body} }}\n")

    def mathematics(self, name: str, t: DType, lanes: int) -> str:
        """The name of an elementary function (exp, tanh, ...) for vectors of any lanes or scalars, defined."""
        whole = self.target.lanes(t)
        if lanes:
            self.vector(t, whole)
            self.vector(signed(t.bits), whole)
        functions = in_order([vector_function(name, t, self.target, bool(lanes), self.rounding)])
        for f in functions:
            self.need(f"math:{f.symbol}", f.text)
        symbol = functions[-1].symbol
        if not lanes or lanes == whole:
            return symbol
        # fewer lanes than a register has: compute a whole register
        narrow = self.vector(t, lanes)
        arguments = ["a", "b"][: 2 if name == "pow" else 1]
        widen = self._resize(t, lanes, whole)
        calls = ", ".join(f"{widen}({a})" for a in arguments)
        parameters = ", ".join(f"{narrow} {a}" for a in arguments)
        part = f"td_{name}_part_{narrow}"
        call = f"{self._resize(t, whole, lanes)}({symbol}({calls}))"
        return self.need(part, f"TD_INLINE {narrow} {part}({parameters}) {{ return {call}; }}\n")

    def _resize(self, t: DType, lanes: int, to: int) -> str:
        """The name of a function that keeps the first lanes of a vector, or repeats them in a longer one."""
        self.need("TD_INLINE", INLINE)
        old, new = self.vector(t, lanes), self.vector(t, to)
        picks = [i % lanes for i in range(to)]
        name = f"td_resize_{old}_{new}"
        # gcc would make one instruction of a part and its masked store, which may fault in lanes that are off
        keep = self.keep(to, t) if to < lanes else None
        return self.need(
            name,
            f"TD_INLINE {new} {name}({old} a) {{\n#if defined(__clang__) || __GNUC__ >= 12\n"
            f"    {new} r = __builtin_shufflevector(a, a, {', '.join(map(str, picks))});\n#else\n"
            f"    {new} r = ({new}){{{', '.join(f'a[{i}]' for i in picks)}}};\n#endif\n"
            f"{f'    {keep}(r);{chr(10)}' if keep else ''}    return r;\n}}\n",
        )
