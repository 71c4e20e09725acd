"""Remainders by pi/2 of arguments so large that the digits of 2/pi must be chosen by their size, as C text."""

from __future__ import annotations

from tensordsl.codegen.c.polynomials import TWO_OVER_PI

# x = m 2^e with a 53-bit integer m.  Of 2/pi, the bits above weight 2^(2 - e) only add multiples of 4 quadrants and the
# 192 bits below are enough: no double is closer than about 2^-61 to a multiple of pi/2 (relative to it), and m times
# what is left out is below 2^-137 of a quadrant.
_TEXT = """\
static __attribute__((noinline, unused)) int {name}(double x, double *high, double *low) {{
    typedef unsigned int word;
    typedef unsigned long long pair;
    static const word digits[] = {{ /* 2/pi, after two words for the bits before the point */
        {digits}
    }};
    pair bits;
    __builtin_memcpy(&bits, &x, 8);
    int e = (int)(bits >> 52 & 0x7ff) - 1075;
    if (e == 972) {{
        *high = x - x;
        *low = 0;
        return 0;
    }}
    pair m = (bits & 0xfffffffffffffULL) | 0x10000000000000ULL;
    word w[6], r[6];
    int first = e + 62;  /* index of the first bit taken */
    for (int k = 0; k < 6; k++) {{
        const word *d = digits + (first >> 5) + k;
        w[5 - k] = (word)(((pair)d[0] << 32 | d[1]) >> (32 - (first & 31)));
    }}
    pair carry = 0;
    for (int k = 0; k < 6; k++) {{
        pair t = (m & 0xffffffffU) * w[k] + carry;
        r[k] = (word)t;
        carry = t >> 32;
    }}
    carry = 0;
    for (int k = 0; k < 5; k++) {{
        pair t = (m >> 32) * w[k] + r[k + 1] + carry;
        r[k + 1] = (word)t;
        carry = t >> 32;
    }}
    /* two bits of quadrant, 190 of fraction; to the nearest quadrant */
    int q = (int)((r[5] + 0x20000000U) >> 30);
    r[5] -= (word)q << 30;
    word negative = r[5] >> 31;
    if (negative) {{
        carry = 1;
        for (int k = 0; k < 6; k++) {{
            carry += (word)~r[k];
            r[k] = (word)carry;
            carry >>= 32;
        }}
    }}
    double scale = 0x1p-30;
    int top = 5;
    while (top > 2 && r[top] == 0) {{
        top--;
        scale *= 0x1p-32;
    }}
    int shift = r[top] ? __builtin_clz(r[top]) : 0;
    word a = r[top], b = r[top - 1], c = r[top - 2];
    if (shift) {{
        a = a << shift | b >> (32 - shift);
        b = b << shift | c >> (32 - shift);
        c <<= shift;
    }}
    scale /= (double)(1ULL << shift);
    if (negative) scale = -scale;
    /* words of 32 bits by pieces of pi/2 of 21: exact products */
    const double p1 = {p1}, p2 = {p2}, p3 = {p3};
    double x1 = a * scale, x2 = b * (scale * 0x1p-32), x3 = c * (scale * 0x1p-64);
    double t = x1 * p1, u = (x1 * p2 + x2 * p1) + ((x1 * p3 + x2 * p2) + x3 * p1);
    *high = t + u;
    *low = (t - *high) + u;
    return q;
}}"""


def reduction_by_half_pi() -> tuple[str, str]:
    """Symbol and text of `int f(double x, double *high, double *low)` for x > 64: x = (4 k + result) pi/2 + high + low.

    The result is 0 to 3, high + low at most pi/4 in magnitude and good to about 2^-70; NaN where x is not finite.
    """
    name = "td_math_reduce"
    rows = [", ".join(f"{w:#010x}" for w in TWO_OVER_PI[i : i + 8]) for i in range(0, len(TWO_OVER_PI), 8)]
    return name, _TEXT.format(
        name=name, digits=",\n        ".join(rows), p1="0x1.921fbp0", p2="0x1.5110bp-22", p3="0x1.18469898cc517p-44"
    )
