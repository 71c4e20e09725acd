"""Narrow floats to float32 and back, as C on the bits: any lanes, any target (an instruction may replace it)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tensordsl import dtypes
from tensordsl.dtypes import DType

if TYPE_CHECKING:
    from tensordsl.codegen.c.verbs import Shape, Text

NARROW = tuple(t for t in dtypes.ALL.values() if t.is_float and t.bits < 32)
_INFINITY, _NAN = 0x7F800000, 0x7FC00000
_HALF = "#if defined(__FLT16_MANT_DIG__) && (defined(__F16C__) || defined(__aarch64__))"


class Format(NamedTuple):
    """mantissa, exponent: bits.  infinite: the largest exponent means infinity and nan, else one pattern is nan."""

    mantissa: int
    exponent: int
    infinite: bool

    @property
    def bias(self) -> int:
        return (1 << (self.exponent - 1)) - 1


def format_of(t: DType) -> Format:
    mantissa = t.digits - 1
    return Format(mantissa, t.bits - 1 - mantissa, t is not dtypes.float8_e4m3fn)


class _Forms(NamedTuple):
    """How vectors or scalars say things.  U, I, F: types of 32 bits; N: the unsigned integer of the bits."""

    U: str
    I: str
    F: str
    N: str
    lanes: int

    def mask(self, condition: str) -> str:
        """All bits set where a comparison of signed integers holds."""
        return f"({self.U})({condition})" if self.lanes else f"-({self.U})({condition})"

    def bits(self, name: str, value: str) -> str:
        if self.lanes:
            return f"const {self.U} {name} = ({self.U})({value});"
        return f"{self.U} {name}; {{ const float s = {value}; __builtin_memcpy(&{name}, &s, 4); }}"

    def real(self, name: str, value: str) -> str:
        if self.lanes:
            return f"const {self.F} {name} = ({self.F})({value});"
        return f"float {name}; {{ const {self.U} s = {value}; __builtin_memcpy(&{name}, &s, 4); }}"


def _forms(s: Shape, t: DType) -> _Forms:
    bits = dtypes.ALL[f"uint{t.bits}"]
    if not s.lanes:
        return _Forms("unsigned int", "int", "float", bits.c_name, 0)
    kinds = (dtypes.uint32, dtypes.int32, dtypes.float32, bits)
    u, i, f, n = (s.prelude.vector(k, s.lanes) for k in kinds)
    s.prelude.vector(dtypes.ALL[f"int{t.bits}"], s.lanes)  # what builtins call the bits
    return _Forms(u, i, f, n, s.lanes)


def widen(t: DType) -> Callable[[Shape], Text]:
    def rule(s: Shape) -> Text:
        from tensordsl.codegen.c.verbs import Text

        w = _forms(s, t)
        x = f"{s.prelude.verb(f'from_u{t.bits}', dtypes.uint32, s.lanes)}(a)" if s.lanes else f"({w.U})a"
        body = f"const {w.U} x = {x}; "
        if t is dtypes.bfloat16:
            body += f"{w.real('r', 'x << 16')} return r;"
        else:
            body = _or_half(
                s, t, "_Float16 h; __builtin_memcpy(&h, &a, 2); return h;", body + _widened(w, format_of(t))
            )
        return Text(w.F, f"{w.N} a", body, ("a",))

    return rule


def _or_half(s: Shape, t: DType, half: str, text: str) -> str:
    """The compiler's own type where the machine has its conversions (else the compiler calls a function)."""
    if t is not dtypes.float16 or s.lanes:
        return text
    return f"\n{_HALF}\n    {half}\n#else\n    {text}\n#endif\n"


def _widened(w: _Forms, f: Format) -> str:
    """The exponent is moved by a multiplication, which makes subnormal numbers normal."""
    top = f.mantissa + f.exponent
    first = ((1 << f.exponent) - 1) << f.mantissa if f.infinite else (1 << top) - 1
    special = w.mask(f"({w.I})e >= {first}")
    return (
        f"const {w.U} e = x & {(1 << top) - 1}U; {w.real('m', f'e << {23 - f.mantissa}')} "
        f"{w.bits('n', f'm * 0x1p{127 - f.bias}f')} "
        f"{w.real('r', f'n | ({special} & {_INFINITY if f.infinite else _NAN}U) | ((x >> {top}) << 31)')} return r;"
    )


def narrow(t: DType) -> Callable[[Shape], Text]:
    def rule(s: Shape) -> Text:
        from tensordsl.codegen.c.verbs import Text

        w = _forms(s, t)
        back = f"{s.prelude.verb('from_u32', dtypes.ALL[f'uint{t.bits}'], s.lanes)}(r)" if s.lanes else f"({w.N})r"
        nan = w.mask(f"({w.I})u > {_INFINITY}")
        start = f"{w.bits('x', 'a')} const {w.U} u = x & 0x7fffffffU; "
        if t is dtypes.bfloat16:
            text = (
                f"const {w.U} n = {nan}, q = (x >> 16) | 64U, "
                f"r = (n & q) | (~n & ((x + 0x7fffU + ((x >> 16) & 1U)) >> 16)); return {back};"
            )
        else:
            text = f"const {w.U} bad = {nan}; {_narrowed(w, format_of(t))} return {back};"
        half = f"const _Float16 h = a; {w.N} r; __builtin_memcpy(&r, &h, 2); return r;"
        return Text(w.N, f"{w.F} a", _or_half(s, t, half, start + text), ("a",))

    return rule


def _narrowed(w: _Forms, f: Format) -> str:
    """Normal numbers round as integers; an addition that loses the right bits rounds subnormal ones."""
    shift, top = 23 - f.mantissa, f.mantissa + f.exponent
    infinity, nan = ((1 << f.exponent) - 1) << f.mantissa, (1 << top) - 1
    limit = (f.bias + 128) << 23
    if f.infinite:
        nan = infinity | 1 << (f.mantissa - 1)
    else:  # the pattern of all ones is nan, and stands for what is above half the way to it as well
        infinity, limit = nan, int(np.float32((2 - 1.5 * 2.0**-f.mantissa) * 2.0 ** (f.bias + 1)).view(np.uint32)) + 1
    magic = (127 - f.bias + shift + 1) << 23
    tiny = w.mask(f"({w.I})u < {(128 - f.bias) << 23}")
    large = w.mask(f"({w.I})u >= {limit}")
    return (
        f"const {w.U} normal = (u + {(1 << (shift - 1)) - 1}U + ((u >> {shift}) & 1U) "
        f"- {(127 - f.bias) << 23}U) >> {shift}; "
        f"{w.real('v', 'u')} {w.real('g', f'({w.U}){{0}} + {magic}U')} {w.bits('y', 'v + g')} "
        f"const {w.U} tiny = {tiny}, large = {large}, "
        f"q = (tiny & (y - {magic}U)) | (~tiny & normal), p = (large & {infinity}U) | (~large & q), "
        f"r = (bad & {nan}U) | (~bad & p) | ((x >> 31) << {top});"
    )
