"""The operations the vector math library is written in, as C text per instruction set.

An operation is a macro or a small inline function over one *shape* (an element type and a number of lanes).  Everything
that is not plain C operators lives here: fused multiply-add, blends and masks, exponent scaling, bit casts.  The vector
and the scalar form of one instruction set give the same bits.  No header is used: GCC's and Clang's vector extensions
and builtins only, and where the two spell a builtin differently, the text asks `__clang__`.

Placeholders: $F $I $M the float, integer and mask types; $L lanes; $W the letter of x86 mnemonics (s or d);
$Q that of its integer instructions (d or q); $ALL a mask of every lane; $C the suffix of C's math functions (f or
none); $S that of our symbols.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tensordsl.errors import InternalError
from tensordsl.program import Rounding


@dataclass(frozen=True, slots=True)
class Shape:
    """isa: "avx512", "avx2", "neon" or "portable"; bits: 32 or 64 (float32, float64); lanes: 1 for a scalar.
    rounding: other than "free" gives the same bits for every isa (see `tensordsl.program.Rounding`)."""

    isa: str
    bits: int
    lanes: int
    rounding: Rounding = "free"

    @property
    def vector(self) -> bool:
        return self.lanes > 1

    @property
    def fused(self) -> bool:
        """Whether there is a fused multiply-add."""
        return self.isa != "portable"

    @property
    def algorithm(self) -> str:
        """The instruction set whose way of computing a function is taken."""
        return {"free": self.isa, "written": "portable", "fused": "neon"}[self.rounding]

    @property
    def wide(self) -> Shape:
        """The double-precision shape of a vector of the same size (half the lanes), or the double."""
        return Shape(self.isa, 64, max(1, self.lanes * self.bits // 64), self.rounding)

    @property
    def suffix(self) -> str:
        """Of the symbols: "f32x16", or "f32" for the scalar form."""
        form = "" if self.rounding == "free" else f"_{self.rounding}"
        return (f"f{self.bits}x{self.lanes}" if self.vector else f"f{self.bits}") + form

    def names(self) -> dict[str, str]:
        """Placeholder -> C text."""
        single = self.bits == 32
        integer = "int" if single else "long long"
        vector = f"{self.bits}x{self.lanes}"
        if not self.vector:
            mask = "int"
        elif self.isa == "avx512":
            mask = "unsigned short" if self.lanes == 16 else "unsigned char"
        else:
            mask = f"i{vector}"
        return {
            "F": f"f{vector}" if self.vector else ("float" if single else "double"),
            "I": f"i{vector}" if self.vector else integer,
            "M": mask,
            "E": "float" if single else "double",
            "N": integer,
            "L": str(self.lanes),
            "S": self.suffix,
            "BYTES": str(self.bits * self.lanes // 8),
            "ALL": f"({mask})-1",
            "W": "s" if single else "d",
            "Q": "d" if single else "q",
            "C": "f" if single else "",
            "MANTISSA": "23" if single else "52",
            "BIAS": "127" if single else "1023",
            "SIGN": "(-0x7fffffff - 1)" if single else "(-0x7fffffffffffffffLL - 1)",
            "TOP": "30" if single else "62",
            "FRACTION": "0x7fffff" if single else "0xfffffffffffffLL",
            "ROOT_HALF": "0x3f3504f3" if single else "0x3fe6a09e667f3bcdLL",  # the bits of sqrt(1/2)
            "ABOVE_ROOT": "0x4afb0d" if single else "0x95f619980c433LL",  # the bits of 1 less those
            "MAGNITUDE": "0x7fffffff" if single else "0x7fffffffffffffffLL",
        }

    def fill(self, text: str) -> str:
        """`text` with this shape's names in place of $NAME."""
        names = self.names()
        longest_first = sorted(names, key=len, reverse=True)
        return re.sub(rf"\$({'|'.join(longest_first)})", lambda m: names[m[1]], text)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation's parameters ("$F a, $F b"), result type, and its text.

    text: an expression (a macro, parameters used once each) or, where there are semicolons, the body of an inline
    function; in such a body `$name(...)` is another operation and `@NAME` a constant.
    clang: the same for Clang where its builtins differ.
    """

    parameters: str
    text: str
    result: str = "$F"
    clang: str = ""

    @property
    def is_macro(self) -> bool:
        return ";" not in self.text


_PAIR, _INTEGERS = "$F a, $F b", "$I a, $I b"
_COMPARISONS = {  # C operator, predicate of vcmpps (quiet, false on NaN except ne), predicate of vpcmpd
    "lt": ("<", 0x11, 1), "le": ("<=", 0x12, 2), "gt": (">", 0x1E, 6),
    "ge": (">=", 0x1D, 5), "eq": ("==", 0x00, 0), "ne": ("!=", 0x04, 4),
}  # fmt: skip

_EITHER: dict[str, Operation] = {
    # p times 2 to the n, where t = n + the magic number: by two factors, so that a denormal result is rounded once.
    "scale": Operation(
        "$F p, $F n, $F t",
        "$F half = $fma(n, @HALF, @MAGIC);"
        " return p * $float(($bits(half) + $BIAS) << $MANTISSA)"
        " * $float(($bits(t) - $bits(half) + $BIAS) << $MANTISSA);",
    ),
    # a / b with b an ordinary number; half an ulp less accurate where that is faster
    "ratio": Operation(_PAIR, "((a) / (b))"),
    # what is missing in p, the rounded product of a and b
    "product_low": Operation("$F a, $F b, $F p", "return $fma(a, b, -p);"),
}
_PORTABLE: dict[str, Operation] = {  # by halves of 26 and 27 bits, whose products are exact
    "product_low": Operation(
        "$F a, $F b, $F p",
        "$F c = $float($bits(a) & -0x8000000LL), d = $float($bits(b) & -0x8000000LL), e = a - c, f = b - d;"
        " return (((c * d - p) + c * f) + e * d) + e * f;",
    ),
}
_FAR_PARAMETERS = "$M far, $F a, $F *r, $F *low, $I *q"


def _far(lanes: str, active: str, lane: str) -> Operation:
    """Lanes far from 0 get their remainder by pi/2 (r + low) and quadrant (q) one by one, in double precision."""
    return Operation(
        _FAR_PARAMETERS,
        f"{lanes}if ({active}) {{ double high, rest; (*q){lane} = $reduce(a{lane}, &high, &rest);"
        f" (*r){lane} = ($E)high; (*low){lane} = ($E)((high - (*r){lane}) + rest); }}",
        "void",
    )


_LANES = "for (int l = 0; l < $L; l++) "


def _in_double(parameters: str, expression: str) -> Operation:
    """A function of float vectors computed in double precision, half a vector at a time; {0} {1}: the arguments."""
    halves = ", ".join(f"{p}s[2]" for p in parameters)
    copies = " ".join(f"__builtin_memcpy({p}s, &{p}, $BYTES);" for p in parameters)
    value = expression.format(*(f"__builtin_convertvector({p}s[h], wide)" for p in parameters))
    return Operation(
        ", ".join(f"$F {p}" for p in parameters),
        "typedef float half __attribute__((vector_size($BYTES / 2)));"
        f" typedef double wide __attribute__((vector_size($BYTES))); half {halves}; {copies}"
        f" for (int h = 0; h < 2; h++) xs[h] = __builtin_convertvector({value}, half);"
        " __builtin_memcpy(&x, xs, $BYTES); return x;",
    )


_SCALAR: dict[str, Operation] = {
    "fma": Operation("$F a, $F b, $F c", "__builtin_fma$C(a, b, c)"),
    "bits": Operation("$F x", "$I i; __builtin_memcpy(&i, &x, sizeof i); return i;", "$I"),
    "float": Operation("$I i", "$F x; __builtin_memcpy(&x, &i, sizeof x); return x;"),
    "to_int": Operation("$F x", "(($I)(x))", "$I"),
    "to_float": Operation("$I i", "(($F)(i))"),
    "select": Operation("$M m, $F a, $F b", "((m) ? (a) : (b))"),
    "iselect": Operation("$M m, $I a, $I b", "((m) ? (a) : (b))", "$I"),
    "not": Operation("$M m", "(!(m))", "$M"),
    "any": Operation("$M m", "(m)", "int"),
    "min": Operation(_PAIR, "return a < b ? a : b;"),
    "max": Operation(_PAIR, "return a > b ? a : b;"),
    "sqrt": Operation("$F x", "__builtin_sqrt$C(x)"),
    "exponent_field": Operation("$I i", "(i >> $MANTISSA)", "$I"),
    "lookup": Operation("const $E *table, $I i", "((table)[(i) & 15])"),
    "far_reduction": _far("", "far", ""),
    "powers": Operation("$F x, $F y", "return (float)$wide_exp2((double)y * $wide_log2((double)x));"),
    "erfs": Operation("$F x", "return (float)$wide_erf_of_float((double)x);"),
}
_VECTOR: dict[str, Operation] = {
    "fma": Operation("$F a, $F b, $F c", "((a) * (b) + (c))"),
    "bits": Operation("$F x", "(($I)(x))", "$I"),
    "float": Operation("$I i", "(($F)(i))"),
    "to_int": Operation("$F x", "__builtin_convertvector(x, $I)", "$I"),
    "to_float": Operation("$I i", "__builtin_convertvector(i, $F)"),
    "select": Operation("$M m, $F a, $F b", "return ($F)((m & ($I)a) | (~m & ($I)b));"),
    "iselect": Operation("$M m, $I a, $I b", "return (m & a) | (~m & b);", "$I"),
    "not": Operation("$M m", "(~(m))", "$M"),
    "any": Operation("$M m", "int r = 0; for (int l = 0; l < $L; l++) r |= m[l] != 0; return r;", "int"),
    "min": Operation(_PAIR, "$M m = ($M)(a < b); return ($F)((m & ($I)a) | (~m & ($I)b));"),
    "max": Operation(_PAIR, "$M m = ($M)(a > b); return ($F)((m & ($I)a) | (~m & ($I)b));"),
    "sqrt": Operation("$F x", "for (int l = 0; l < $L; l++) x[l] = __builtin_sqrt$C(x[l]); return x;"),
    "exponent_field": Operation(
        "$I i",
        "typedef unsigned $N u __attribute__((vector_size($BYTES))); return ($I)((u)i >> $MANTISSA);",
        "$I",
    ),
    "far_reduction": _far(_LANES, "far[l]", "[l]"),
    "powers": _in_double("xy", "$wide_exp2({1} * $wide_log2({0}))"),
    "erfs": _in_double("x", "$wide_erf_of_float({0})"),
}
for _name, (_symbol, _, _) in _COMPARISONS.items():
    _SCALAR[_name] = Operation(_PAIR, f"((a) {_symbol} (b))", "$M")
    _SCALAR["i" + _name] = Operation(_INTEGERS, f"((a) {_symbol} (b))", "$M")
    _VECTOR[_name] = Operation(_PAIR, f"(($M)((a) {_symbol} (b)))", "$M")
    _VECTOR["i" + _name] = Operation(_INTEGERS, f"(($M)((a) {_symbol} (b)))", "$M")

# One Newton step on a 14-bit reciprocal: a division keeps the multipliers waiting for seven cycles.
_RATIO = Operation(_PAIR, "$F r = $rcp14(b), q = a * r; return $fma(q, $fma(-b, r, @ONE), q);")


def _scaled(zero: int) -> Operation:
    """p 2^n.  zero: the largest n for which that is 0 whatever p; such lanes are masked, for an underflow in a
    lane costs a hundred cycles and more (the exponential of a masked score; NaN is not below)."""
    n = f"__builtin_ia32_cmpp$W512_mask(n, ($F){{0}} + {zero}, 22, $ALL, 4)"
    return Operation("$F p, $F n, $F t", f"__builtin_ia32_scalefp$W512_mask(p, n, ($F){{0}}, {n}, 4)")


_AVX512: dict[str, Operation] = {
    "fma": Operation("$F a, $F b, $F c", "__builtin_ia32_vfmaddp$W512_mask(a, b, c, $ALL, 4)"),
    "select": Operation(
        "$M m, $F a, $F b", "__builtin_ia32_blendmp$W_512_mask(b, a, m)", clang="__builtin_ia32_selectp$W_512(m, a, b)"
    ),
    "iselect": Operation(
        "$M m, $I a, $I b", "__builtin_ia32_blendm$Q_512_mask(b, a, m)", "$I", "__builtin_ia32_select$Q_512(m, a, b)"
    ),
    "not": Operation("$M m", "(($M)~(m))", "$M"),
    "any": Operation("$M m", "((m) != 0)", "int"),
    "min": Operation(
        _PAIR, "__builtin_ia32_minp$W512_mask(a, b, ($F){0}, $ALL, 4)", clang="__builtin_ia32_minp$W512(a, b, 4)"
    ),
    "max": Operation(
        _PAIR, "__builtin_ia32_maxp$W512_mask(a, b, ($F){0}, $ALL, 4)", clang="__builtin_ia32_maxp$W512(a, b, 4)"
    ),
    "sqrt": Operation(
        "$F x", "__builtin_ia32_sqrtp$W512_mask(x, ($F){0}, $ALL, 4)", clang="__builtin_ia32_sqrtp$W512(x, 4)"
    ),
    "scale_32": _scaled(-151),
    "scale_64": _scaled(-1076),
    "exponent": Operation("$F x", "__builtin_ia32_getexpp$W512_mask(x, ($F){0}, $ALL, 4)"),
    "mantissa": Operation("$F x", "__builtin_ia32_getmantp$W512_mask(x, 15, ($F){0}, $ALL, 4)"),
    "rsqrt14": Operation("$F x", "__builtin_ia32_rsqrt14p$W512_mask(x, ($F){0}, $ALL)"),
    "rcp14": Operation("$F x", "__builtin_ia32_rcp14p$W512_mask(x, ($F){0}, $ALL)"),
    "ratio_32": _RATIO,
    "lookup": Operation(
        "$F table, $I i",
        "__builtin_ia32_permvarsf512_mask(table, i, ($F){0}, $ALL)",
        clang="__builtin_ia32_permvarsf512(table, i)",
    ),
    "far_reduction": _far(_LANES, "far >> l & 1", "[l]"),
}
for _name, _codes in _COMPARISONS.items():
    _AVX512[_name] = Operation(_PAIR, f"__builtin_ia32_cmpp$W512_mask(a, b, {_codes[1]}, $ALL, 4)", "$M")
    _AVX512["i" + _name] = Operation(_INTEGERS, f"__builtin_ia32_cmp$Q512_mask(a, b, {_codes[2]}, $ALL)", "$M")


def _lane_zero(parameters: str, call: str) -> Operation:
    """A scalar operation computed in the first lane of a 128-bit vector (AVX-512VL)."""
    names = [n for n in (p.split()[-1] for p in parameters.split(", ")) if f"{n}v" in call]
    load = ", ".join(f"{n}v = {{{n}}}" for n in names)
    return Operation(parameters, f"typedef $E v __attribute__((vector_size(16))); v {load}, r = {call}; return r[0];")


_SPECIFIC: dict[tuple[str, bool], dict[str, Operation]] = {
    ("avx512", True): _AVX512,
    ("avx512", False): {
        "scale": _lane_zero("$F p, $F n, $F t", "__builtin_ia32_scalefp$W128_mask(pv, nv, (v){0}, (unsigned char)-1)"),
        "exponent": _lane_zero("$F x", "__builtin_ia32_getexpp$W128_mask(xv, (v){0}, (unsigned char)-1)"),
        "mantissa": _lane_zero("$F x", "__builtin_ia32_getmantp$W128_mask(xv, 15, (v){0}, (unsigned char)-1)"),
        "rcp14": _lane_zero("$F x", "__builtin_ia32_rcp14p$W128_mask(xv, (v){0}, (unsigned char)-1)"),
        "ratio_32": _RATIO,
        "rsqrt14": _lane_zero("$F x", "__builtin_ia32_rsqrt14p$W128_mask(xv, (v){0}, (unsigned char)-1)"),
    },
    ("avx2", True): {
        "fma": Operation("$F a, $F b, $F c", "__builtin_ia32_vfmaddp$W256(a, b, c)"),
        "select": Operation("$M m, $F a, $F b", "__builtin_ia32_blendvp$W256(b, a, ($F)(m))"),
        "any": Operation("$M m", "(__builtin_ia32_movmskp$W256(($F)(m)) != 0)", "int"),
        "min": Operation(_PAIR, "__builtin_ia32_minp$W256(a, b)"),
        "max": Operation(_PAIR, "__builtin_ia32_maxp$W256(a, b)"),
        "sqrt": Operation("$F x", "__builtin_ia32_sqrtp$W256(x)"),
        "lookup": Operation("$F table, $I i", "__builtin_ia32_permvarsf256(table, i)"),
    },
    ("neon", True): {
        "fma": Operation("$F a, $F b, $F c", "__builtin_aarch64_fmav$L$Wf(a, b, c)", clang="((a) * (b) + (c))"),
    },
    ("avx2", False): {"lookup": Operation("const $E *table, $I i", "((table)[(i) & 7])")},
    ("portable", False): {"fma": Operation("$F a, $F b, $F c", "((a) * (b) + (c))"), **_PORTABLE},
    ("portable", True): _PORTABLE,
}


#: Operations of an instruction set that give the bits of the general ones.
_SAME_BITS = frozenset(
    ["select", "iselect", "not", "any", "min", "max", "sqrt", "scale", "far_reduction", *_COMPARISONS]
    + ["i" + name for name in _COMPARISONS]
)
#: One rounding on every machine; where there is no such instruction, by the C library.
_FUSED = Operation(
    "$F a, $F b, $F c",
    """
#if defined(__aarch64__) && !defined(__clang__) && $BYTES == 16
    return __builtin_aarch64_fmav$L$Wf(a, b, c);
#else
    for (int l = 0; l < $L; l++) c[l] = __builtin_fma$C(a[l], b[l], c[l]);
    return c;
#endif
""",
)
_ONE = {True: {"fma": _FUSED}, False: {"fma": _SCALAR["fma"]}}
_TWO = {v: {"fma": Operation("$F a, $F b, $F c", "((a) * (b) + (c))"), **_PORTABLE} for v in (True, False)}


def fused_text(bits: int, lanes: int) -> str:
    """The statements of a function of vectors a, b, c that returns a b + c with one rounding."""
    return Shape("", bits, lanes).fill(_FUSED.text)


def operation(name: str, shape: Shape) -> Operation:
    """The form of an operation for a shape: the instruction set's own, else the general one."""
    own, general = _SPECIFIC.get((shape.isa, shape.vector), {}), _VECTOR if shape.vector else _SCALAR
    tables = [own, general, _EITHER]
    if shape.rounding != "free":
        known = _SAME_BITS | {"fma"} if shape.rounding == "fused" and shape.isa in ("avx512", "avx2") else _SAME_BITS
        own = {key: form for key, form in own.items() if key in known}
        tables = [own, (_ONE if shape.rounding == "fused" else _TWO)[shape.vector], general, _EITHER]
    for table in tables:
        for key in (f"{name}_{shape.bits}", name):
            if key in table:
                return table[key]
    raise InternalError(f"no operation {name!r} for {shape.isa} {shape.suffix}")
