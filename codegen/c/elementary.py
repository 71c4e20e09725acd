"""The elementary functions themselves, each written once for all instruction sets and both precisions.

A template is a C function body in which `$fma(...)` is an operation of vector_operations.py (or another function of the
library), `$wide_exp2(...)` one over the double-precision form of the shape, `$F $I $M` a type of the shape, `@NAME` a
constant broadcast to it, `@horner(NAME, x)` a polynomial of polynomials.py, `@tables(NAME)` the declaration of tables
name_0, name_1, ... (one per power, a polynomial in each column), and `@interpolate(NAME, i, t)` the value at t
of column i's polynomial, without its constant and divided by t.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

Constants = Mapping[str, "float | str"]


@dataclass(frozen=True, slots=True)
class Template:
    """body: C statements; constants: @NAME -> value, or digits of a C literal; parameters: all of the shape's type."""

    body: str
    constants: Constants
    parameters: tuple[str, ...] = ("x",)


# ------------------------------------------------------------------------------------------------ exponentials

# x = n ln2 + r.  The bounds give 0 and infinity by way of the scaling, and let NaN pass (min and max return their
# second operand then).
_EXP = """
    x = $min(@HIGH, $max(@LOW, x));
    $F t = $fma(x, @LOG2E, @MAGIC), n = t - @MAGIC;
    $F r = $fma(n, @MINUS_LN2_LOW, $fma(n, @MINUS_LN2_HIGH, x));
    return $scale(@horner(EXP, r), n, t);
"""
_EXP2 = """
    x = $min(@HIGH, $max(@LOW, x));
    $F t = x + @MAGIC, n = t - @MAGIC, f = x - n;
    return $scale(@horner(EXP2, f), n, t);
"""
# u = tanh r by an odd polynomial: of r = |x| itself where that is small, else of r = |x| - n ln2 / 2; then
# e^2r = (1 + u) / (1 - u), so that tanh |x| = 1 - 2 (1 - u) / (2^n (1 + u) + (1 - u)).
_TANH = """
    $F a = $min(@HIGH, $float($bits(x) & $MAGNITUDE));
    $M near = $lt(a, @NEAR);
    $F t = $fma(a, @TWICE_LOG2E, @MAGIC), n = t - @MAGIC;
    $F r = $select(near, a, $fma(n, @MINUS_HALF_LN2, a)), z = r * r;
    $F u = $fma(r * z, @horner(TANH, z), r);
    $F s = $float(($bits(t) + ($BIAS - 1)) << $MANTISSA);
    $F far = @ONE - $ratio(@ONE - u, $fma(s - @HALF, u, s + @HALF));
    $F y = $select(near, u, far);
    return $float($bits(y) | ($bits(x) & $SIGN));
"""

# ------------------------------------------------------------------------------------------------ error function

# Sixteen intervals of width 1/4 around 0, 1/4, ... 15/4; the first polynomial is odd (its x is added exactly, by
# way of the maximum), the last one ends in 1.
_ERF_TABLE = """
    @tables(ERF_TABLE)
    $F a = $min(@HIGH, $float($bits(x) & $MAGNITUDE));
    $F u = a + @MAGIC_QUARTER, t = a - (u - @MAGIC_QUARTER);
    $I i = $bits(u);
    $F y = $fma(@interpolate(ERF_TABLE, i, t), t, $max($lookup(erf_table_0, i), t));
    return $float($bits(y) | ($bits(x) & $SIGN));
"""
# The same with eight intervals of width 9/16.
_ERF_TABLE_8 = """
    @tables(ERF_TABLE_8)
    $F a = $min(@HIGH, $float($bits(x) & $MAGNITUDE));
    $F u = $fma(a, @SCALE, @MAGIC), t = $fma(u - @MAGIC, @MINUS_WIDTH, a);
    $I i = $bits(u);
    $F y = $fma(@interpolate(ERF_TABLE_8, i, t), t, $max($lookup(erf_table_8_0, i), t));
    return $float($bits(y) | ($bits(x) & $SIGN));
"""
# Without such lookups: in double precision, only as good as float32 needs it.
_ERF_RATIONAL = """
    $F a = $min(@HIGH, $max(-@HIGH, x)), y = a * a;
    return a * @horner(ERF_P, y) / @horner(ERF_Q, y);
"""
# Below 1 an odd polynomial; above, 1 - exp(-q) with a polynomial q for -log(erfc).
_ERF_64 = """
    $F a = $float($bits(x) & $MAGNITUDE), y = a * a;
    $F small = $fma(a, @horner(ERF_SMALL, y), a);
    $F b = $min(@HIGH, a);
    $F large = @ONE - $exp(@horner(ERF_LARGE, b));
    $F r = $select($lt(a, @ONE), small, large);
    return $float($bits(r) | ($bits(x) & $SIGN));
"""

# ------------------------------------------------------------------------------------------------ logarithms

# x = 2^n (1 + f) with 1 + f between sqrt(1/2) and sqrt(2) ...
_SPLIT = """
    $M tiny = $lt(x, @MIN_NORMAL);
    $I i = $bits($select(tiny, x * @TWO_MANTISSA, x)) + $ABOVE_ROOT;
    $F n = $to_float($exponent_field(i)) - $select(tiny, @TINY_BIAS, @EXPONENT_BIAS);
    $F f = $float((i & $FRACTION) + $ROOT_HALF) - @ONE;
"""
# ... and the special values last.
_LOG_SPECIAL = """
    y = $select($lt(x, @INFINITY), y, x);
    y = $select($eq(x, @ZERO), @MINUS_INFINITY, y);
    return $select($lt(x, @ZERO), @NAN, y);
"""
# AVX-512's instructions see to 0, infinities, NaN and negative numbers by themselves; 1 + f is between 3/4 and 3/2.
_SPLIT_AVX512 = """
    $F m = $mantissa(x), n = $exponent(x), f = m - @ONE;
    n = $select($lt(m, @ONE), n + @ONE, n);
"""
# Sums of infinite parts need a last look: n is -infinity for 0, infinity for infinities, and m NaN below 0.
_LOG2_SPECIAL_AVX512 = """
    return $select($lt($float($bits(n) & $MAGNITUDE), @INFINITY), y, n + m);
"""
_LOG_32 = """
    $F y = $fma(n, @LN2_HIGH, f + $fma(f * f, @horner(LOG, f), n * @LN2_LOW));
"""
# log2(1 + f) = f + (log2(e) - 1) f + f^2 P(f): the first term is exact.
_LOG2_32 = """
    $F y = n + $fma(f, @horner(LOG2, f), f);
"""
# s = f / (2 + f): log(1 + f) = 2 atanh(s) = f - h + s (h + s^2 P(s^2)) with h = f^2 / 2.
_LOG_64 = """
    $F s = f / (f + @TWO), z = s * s, h = @HALF * f * f;
    $F p = s * $fma(z, @horner(LOG, z), h);
    $F y = $fma(n, @LN2_HIGH, f - (h - $fma(n, @LN2_LOW, p)));
"""
# The same as a sum of two, the first with its low half cleared, so that its product with log2(e)'s high half is exact.
_LOG2_64 = """
    $F s = f / (f + @TWO), z = s * s, h = @HALF * f * f;
    $F p = s * $fma(z, @horner(LOG, z), h);
    $F high = $float($bits(f - h) & -0x100000000LL), low = ((f - high) - h) + p;
    $F a = high * @LOG2E_HIGH, b = $fma(low, @LOG2E_HIGH, (low + high) * @LOG2E_LOW);
    $F w = n + a;
    $F y = w + (((n - w) + a) + b);
"""

# ------------------------------------------------------------------------------------------------ sine, cosine

# |x| = n pi/2 + r + low.  With fused multiply-adds pi/2 is a sum of full constants; without, of short ones, so that
# their products with n are exact.
_REDUCE_FUSED = """
    $F a = $float($bits(x) & $MAGNITUDE);
    $F t = $fma(a, @TWO_OVER_PI, @MAGIC), n = t - @MAGIC;
    $I q = $bits(t);
    $F b = $fma(n, -@PI1, a), r = $fma(n, -@PI2, b), c = b - r;
    $F low = $fma(n, -@PI3, $fma(n, -@PI2, c) + ((b - c) - r));
"""
_REDUCE_SHORT = """
    $F a = $float($bits(x) & $MAGNITUDE);
    $F t = $fma(a, @TWO_OVER_PI, @MAGIC), n = t - @MAGIC;
    $I q = $bits(t);
    $F b = a - n * @PI1, w = n * @PI2, c = b - w, v = n * @PI3, r = c - v;
    $F low = $fma(n, -@PI4, ((b - c) - w) + ((c - r) - v));
"""
_REDUCE_FAR = """
    $M far = $gt(a, @LIMIT);
    if (__builtin_expect($any(far), 0)) {
        $F all_r = r, all_low = low;
        $I all_q = q;
        $far_reduction(far, a, &all_r, &all_low, &all_q);
        r = all_r; low = all_low; q = all_q;
    }
"""
_SIN_COS = """
    $F z = r * r, h = @HALF * z, one_h = @ONE - h;
    $F sine = r + $fma(r * z, @horner(SIN, z), low);
    $F cosine = one_h + (((@ONE - one_h) - h) + $fma(z * z, @horner(COS, z), -(r * low)));
"""
_SIN = """
    $F y = $select($ieq(q & 1, ($I){0}), sine, cosine);
    return $float($bits(y) ^ ((q & 2) << $TOP) ^ ($bits(x) & $SIGN));
"""
_COS = """
    $F y = $select($ieq(q & 1, ($I){0}), cosine, sine);
    return $float($bits(y) ^ (((q + 1) & 2) << $TOP));
"""

# ------------------------------------------------------------------------------------------------ powers

_RSQRT = "return @ONE / $sqrt(x);"
# One Newton step on the 14-bit estimate, except where the estimate is 0 or infinite (or the argument NaN).
_RSQRT_AVX512 = """
    $F y = $rsqrt14(x), e = $fma(-(x * y), y, @ONE);
    return $select($eq(e, e), $fma(y * e, $fma(e, @THREE_EIGHTHS, @HALF), y), y);
"""
# z = |x|^y for ordinary arguments; then IEEE 754's pow: 1 for x = 1 or y = 0 whatever the other, and for -1 to the
# infinite; NaN for a negative finite base with a fraction in the exponent; the sign of an odd power.
_POW_SPECIAL = """
    $F ay = $float($bits(y) & $MAGNITUDE);
    $F whole = ay + @TWO_MANTISSA;
    $M big = $ge(ay, @TWO_MANTISSA), huge = $ge(ay, @TWO_MANTISSA * @TWO);
    $M integer = big | $eq(whole - @TWO_MANTISSA, ay);
    $I parity = $iselect(big, $iselect(huge, ($I){0}, $bits(y)), $bits(whole)) & 1;
    $M odd = integer & $not($ieq(parity, ($I){0}));
    $M negative = $ilt($bits(x), ($I){0}) & $eq(x, x);
    z = $select(negative & odd, -z, z);
    z = $select($not(integer) & $lt(x, @ZERO) & $lt(a, @INFINITY), @NAN, z);
    $M one = $eq(x, @ONE) | $eq(y, @ZERO) | ($eq(a, @ONE) & $eq(ay, @INFINITY));
    return $select(one, @ONE, z);
"""
_POW = (
    """
    $F a = $float($bits(x) & $MAGNITUDE), z = $power(a, y);
"""
    + _POW_SPECIAL
)
# float32: in double precision.
_POWER_32 = "return $powers(x, y);"
# x^y for x >= 0: log2(x) and its product with y as sums of two, to about 2^-65.  s = f / (2 + f) = s + s_low,
# log2(1 + f) = 2 / ln2 (s + s (s^2 / 3 + s^4 P(s^2))).
_POWER = """
    $F d = f + @TWO, d_low = f - (d - @TWO), inverse = @ONE / d;
    $F s = f * inverse, p = s * d;
    $F s_low = $fma(s, -d_low, (f - p) - $product_low(s, d, p)) * inverse;
    $F z = s * s, z_low = $fma(@TWO * s, s_low, $product_low(s, s, z));
    $F c = z * @THIRD, c_low = $fma(z_low, @THIRD, $fma(z, @THIRD_LOW, $product_low(z, @THIRD, c)));
    $F rest = (z * z) * @horner(POW, z), e = c + rest, e_low = ((c - e) + rest) + c_low;
    $F v = s * e, v_low = $fma(s_low, e, $fma(s, e_low, $product_low(s, e, v)));
    $F l = s + v, l_low = ((s - l) + v) + (v_low + s_low);
    $F g = l * @SCALE, g_low = $fma(l_low, @SCALE, $fma(l, @SCALE_LOW, $product_low(l, @SCALE, g)));
    $F sum = n + g, sum_low = ((n - sum) + g) + g_low;
    $F high = sum + sum_low, low = sum_low - (high - sum);
    high = $select($eq(x, @ZERO), @MINUS_INFINITY, $select($lt(x, @INFINITY), high, x));
    low = $select($lt(high, @INFINITY) & $gt(high, @MINUS_INFINITY), low, @ZERO);
    $F w = y * high, w_low = $fma(y, low, $product_low(y, high, w));
    w_low = $select($lt($float($bits(w) & $MAGNITUDE), @LIMIT), w_low, @ZERO);
    w = $min(@LIMIT, $max(-@LIMIT, w));
    $F t = w + @MAGIC, k = t - @MAGIC, r = (w - k) + w_low;
    return $scale(@horner(EXP2, r), k, t);
"""

# ------------------------------------------------------------------------------------------------ constants

COMMON: Constants = {
    "ZERO": 0.0, "HALF": 0.5, "ONE": 1.0, "TWO": 2.0,
    "INFINITY": math.inf, "MINUS_INFINITY": -math.inf, "NAN": math.nan,
}  # fmt: skip
_EXP_CONSTANTS: dict[int, Constants] = {
    32: {
        "HIGH": 89.0, "LOW": -105.0, "LOG2E": "0x1.715476p0",
        "MINUS_LN2_HIGH": "-0x1.62e4p-1", "MINUS_LN2_LOW": "-0x1.7f7d1cp-20",
    },
    64: {
        "HIGH": 710.0, "LOW": -746.0, "LOG2E": "0x1.71547652b82fep0",
        "MINUS_LN2_HIGH": "-0x1.62e42fefap-1", "MINUS_LN2_LOW": "-0x1.cf79abc9e3b3ap-40",
    },
}  # fmt: skip
_EXP2_CONSTANTS: dict[int, Constants] = {32: {"HIGH": 129.0, "LOW": -151.0}, 64: {"HIGH": 1025.0, "LOW": -1076.0}}
_TANH_CONSTANTS: dict[int, Constants] = {
    32: {"HIGH": 9.5, "NEAR": "0.55", "TWICE_LOG2E": "0x1.715476p1", "MINUS_HALF_LN2": "-0x1.62e43p-2"},
    64: {
        "HIGH": 20.0, "NEAR": "0.625",
        "TWICE_LOG2E": "0x1.71547652b82fep1", "MINUS_HALF_LN2": "-0x1.62e42fefa39efp-2",
    },
}  # fmt: skip
_LOG_CONSTANTS: dict[int, Constants] = {
    32: {
        "MIN_NORMAL": "0x1p-126", "TWO_MANTISSA": "0x1p23", "EXPONENT_BIAS": 127.0, "TINY_BIAS": 150.0,
        "LN2_HIGH": "0x1.62e4p-1", "LN2_LOW": "0x1.7f7d1cp-20",
    },
    64: {
        "MIN_NORMAL": "0x1p-1022", "TWO_MANTISSA": "0x1p52", "EXPONENT_BIAS": "1023.0", "TINY_BIAS": "1075.0",
        "LN2_HIGH": "0x1.62e42fefap-1", "LN2_LOW": "0x1.cf79abc9e3b3ap-40",
        "LOG2E_HIGH": "0x1.715476p0", "LOG2E_LOW": "0x1.4ae0bf85ddf44p-26",
        # of pow: 1/3 and 2/ln2 as sums of two
        "THIRD": "0x1.5555555555555p-2", "THIRD_LOW": "0x1.5555555555555p-56",
        "SCALE": "0x1.71547652b82fep1", "SCALE_LOW": "0x1.777d0ffda0d24p-55", "LIMIT": "1100.0",
    },
}  # fmt: skip
_FUSED_CONSTANTS: dict[int, Constants] = {
    32: {
        "TWO_OVER_PI": "0x1.45f306p-1", "LIMIT": "0x1p17",
        "PI1": "0x1.921fb6p0", "PI2": "-0x1.777a5cp-25", "PI3": "-0x1.ee59dap-50",
    },
    64: {
        "TWO_OVER_PI": "0x1.45f306dc9c883p-1", "LIMIT": "0x1p20",
        "PI1": "0x1.921fb54442d18p0", "PI2": "0x1.1a62633145c07p-54", "PI3": "-0x1.f1976b7ed8fbcp-110",
    },
}  # fmt: skip
_SHORT_CONSTANTS: dict[int, Constants] = {  # 13 and 32 bits: n below 2^11 and 2^21
    32: {
        "TWO_OVER_PI": "0x1.45f306p-1", "LIMIT": "0x1.8p11",
        "PI1": "0x1.921p0", "PI2": "0x1.f6ap-13", "PI3": "0x1.11p-26", "PI4": "0x1.68c234p-39",
    },
    64: {
        "TWO_OVER_PI": "0x1.45f306dc9c883p-1", "LIMIT": "0x1p20",
        "PI1": "0x1.921fb544p0", "PI2": "0x1.0b4611a6p-34", "PI3": "0x1.3198a2ep-69", "PI4": "0x1.b839a252049c1p-104",
    },
}  # fmt: skip
_POW_CONSTANTS: dict[int, Constants] = {32: {"TWO_MANTISSA": "0x1p23"}, 64: {"TWO_MANTISSA": "0x1p52"}}


def template(name: str, bits: int, isa: str) -> Template | None:
    """The template of a function for 32 or 64 bits and an instruction set; None where the library has none."""
    avx512, fused = isa == "avx512", isa != "portable"
    match name:
        case "exp":
            return Template(_EXP, _EXP_CONSTANTS[bits])
        case "exp2":
            return Template(_EXP2, _EXP2_CONSTANTS[bits])
        case "tanh":
            return Template(_TANH, _TANH_CONSTANTS[bits])
        case "erf" if bits == 64:
            return Template(_ERF_64, {"HIGH": 6.0})
        case "erf" if avx512:
            return Template(_ERF_TABLE, {"HIGH": "0x1.effffep1", "MAGIC_QUARTER": "0x1.8p21"})
        case "erf" if isa == "avx2":
            return Template(_ERF_TABLE_8, {"HIGH": 4.2, "SCALE": "0x1.c71c72p0", "MINUS_WIDTH": -0.5625})
        case "erf":
            return Template("return $erfs(x);", {})
        case "erf_of_float":
            return Template(_ERF_RATIONAL, {"HIGH": "0x1.f7p1"})
        case "log" | "log2":
            tail = {("log", 32): _LOG_32, ("log", 64): _LOG_64, ("log2", 32): _LOG2_32, ("log2", 64): _LOG2_64}
            body = tail[name, bits]
            if avx512:
                body = _SPLIT_AVX512 + re.sub(r"(LOG2?), f", r"\1_AVX512, f", body)
                body += _LOG2_SPECIAL_AVX512 if (name, bits) == ("log2", 64) else "return y;\n"
            else:
                body = _SPLIT + body + _LOG_SPECIAL
            return Template(body, _LOG_CONSTANTS[bits])
        case "sin" | "cos":
            reduce, constants = (_REDUCE_FUSED, _FUSED_CONSTANTS) if fused else (_REDUCE_SHORT, _SHORT_CONSTANTS)
            return Template(reduce + _REDUCE_FAR + _SIN_COS + (_SIN if name == "sin" else _COS), constants[bits])
        case "rsqrt" if avx512 and bits == 32:
            return Template(_RSQRT_AVX512, {"THREE_EIGHTHS": 0.375})
        case "rsqrt":
            return Template(_RSQRT, {})
        case "pow":
            return Template(_POW, _POW_CONSTANTS[bits], ("x", "y"))
        case "power" if bits == 32:
            return Template(_POWER_32, {}, ("x", "y"))
        case "power":
            return Template(_SPLIT + _POWER, _LOG_CONSTANTS[bits], ("x", "y"))
    return None
