"""Check the vector math library against the C library: every float32, samples of float64.

    python -m tensordsl.codegen.c.verify_math [--function exp] [--dtype float32] [--isa avx512] [--jobs 2]

float32 functions of one argument are compared with the C library in double precision at every bit pattern (or with
`--stride N` at each N-th); pow, and all of float64, at random and edge arguments (`--samples N`) with double and long
double.  For each instruction set this prints the largest error in units of the last place and where it is, special
values that are wrong, and whether the scalar form gives the same bits as the vectors (on each 16th block of 1024).  The
reference is computed once for all instruction sets; it is most of the time, 20 to 150 seconds a function on one core.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tensordsl.codegen.c.mathematics import NAMES, in_order, vector_function

from tensordsl import dtypes
from tensordsl.dtypes import DType
from tensordsl.errors import BuildError


@dataclass(frozen=True, slots=True)
class Machine:
    """An instruction set to check: what the library's texts are made for, and the compiler's flags."""

    isa: str
    vector_bytes: int
    flags: tuple[str, ...]


MACHINES = {
    m.isa: m
    for m in (
        Machine("avx512", 64, ("-march=x86-64-v4",)),
        Machine("avx2", 32, ("-march=x86-64-v3",)),
        Machine("neon", 16, ("-march=armv8-a",)),
        Machine("portable", 16, ("-ffp-contract=off",)),
    )
}
_FLAGS = ("-fno-math-errno", "-Wno-psabi", "-shared", "-fPIC")
# of the reference: its compiler may vectorise the comparison
_DRIVER_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-shared", "-fPIC")
#: where polynomials, ranges and kinds of results meet, and the ends of both formats
EDGES = (
    0.0, 1.0, 0.5, 2.0, 1.5, 0.7071067811865476, 1.4142135623730951, 0.75, 0.25, 0.125, 0.55, 0.625,
    0.34657359027997264, 0.6931471805599453, 1.0397207708399179, 3.875, 3.9192059, 4.2, 5.921587195794507, 6.0,
    9.010913, 9.5, 18.714973875118524, 20.0, 88.72283905206835, 89.0, 87.33654475055312, 103.27892990343185,
    103.97207708399179, 104.0, 128.0, 126.0, 149.0, 150.0, 151.0, 709.782712893384, 710.0, 708.3964185322641,
    744.4400719213812, 745.1332191019411, 746.0, 1024.0, 1022.0, 1074.0, 1075.0, 1076.0, 0.7853981633974483,
    1.5707963267948966, 3.141592653589793, 3072.0, 131072.0, 1048576.0, 8388608.0, 16777216.0,
    4503599627370496.0, 9007199254740992.0, 1.1754943508222875e-38, 1.401298464324817e-45,
    3.4028234663852886e38, 2.2250738585072014e-308, 5e-324, 1.7976931348623157e308, float("inf"), float("nan"),
)  # fmt: skip

_DRIVER = r"""
#include <math.h>
#include <stdint.h>
#include <string.h>
enum { N = 1024 };
typedef void (*implementation)(const real *x, const real *y, real *z, long n);
typedef struct {
    double largest;
    real x, y;
    uint64_t wrong;
    real wrong_x, wrong_y;
    uint64_t differ;
    real differ_x, differ_y;
} found;

static wide rsqrt_(wide x) { return 1 / L(sqrt)(x); }

static void reference(int f, const real *x, const real *y, wide *z) {
    switch (f) {
CASES
    }
}

static uint64_t next(uint64_t *s) {
    *s ^= *s >> 12; *s ^= *s << 25; *s ^= *s >> 27;
    return *s * 0x2545f4914f6cdd1dULL;
}

static real from_bits(word w) { real x; memcpy(&x, &w, sizeof x); return x; }

/* a random number: any bits; of a range of exponents; near an edge; near 1 */
static real draw(uint64_t *s, const real *edges, int count) {
    uint64_t kind = next(s), r = next(s);
    word mantissa = (word)r & (((word)1 << DIGITS) - 1), sign = (word)(kind >> 63) << (WIDTH - 1);
    int k = (int)(kind >> 8 & 0xffff);
    switch (kind & 7) {
    case 0: case 1: return from_bits((word)(r >> (64 - WIDTH)));
    case 2: case 3: return from_bits(sign | (word)(BIAS - 64 + k % 128) << DIGITS | mantissa);
    case 4: case 5: return from_bits(sign | (word)(BIAS - 8 + k % 19) << DIGITS | mantissa);
    case 6: { word w; memcpy(&w, edges + k % count, sizeof w); return from_bits((w + (word)(r % 65) - 32) ^ sign); }
    default: return from_bits(sign | ((((word)BIAS << DIGITS) + (mantissa >> k % DIGITS)) - (k & 1)));
    }
}

/* an exponent for pow: any; a half or whole number; one that gives a result in range */
static real draw_exponent(uint64_t *s, real x, const real *edges, int count) {
    uint64_t kind = next(s);
    double u = (double)(next(s) >> 11) * 0x1p-53 - 0.5;
    if (x < 0 && (kind & 8)) return (real)(int)(u * 60);
    switch (kind & 7) {
    case 0: return draw(s, edges, count);
    case 1: return (real)((int)(u * 257) * 0.5);
    default: return (real)(u * 2.2 * (BIAS + DIGITS) / log2(fabs((double)x)));
    }
}

static double power_of_two(int k) {
    uint64_t b = (uint64_t)(1023 + k) << 52;
    double x;
    memcpy(&x, &b, 8);
    return x;
}

static wide exponent_scale(wide magnitude) { /* 1 / ulp, of at least the least normal number's */
    double m = (double)magnitude;
    uint64_t b;
    memcpy(&b, &m, 8);
    int e = (int)(b >> 52) - 1023;
    e = e < 1 - BIAS ? 1 - BIAS : e > BIAS ? BIAS : e;
    int k = DIGITS - e, half = k / 2;
    return (wide)power_of_two(half) * power_of_two(k - half);
}

static int is_wrong(wide w, real g) {
    int nan = (w != w) ^ (g != g), sign = !signbit(w) ^ !signbit(g);
    int zero = ((w == 0) & (g != 0)) | (((w == 0) | (g == 0)) & sign);
    wide a = w < 0 ? -w : w;
    real c = g < 0 ? -g : g;
    int infinite = (a == (wide)INFINITY) & (c < (real)INFINITY);
    return nan | zero | infinite;
}

/* infinities count as the number after the largest one */
static wide clamped(wide a) {
    a = a > LIMIT ? LIMIT : a;
    return a < -LIMIT ? -LIMIT : a;
}

static void compare(const real *x, const real *y, const wide *w, const wide *inverse, const real *g, found *o) {
    double errors[N];
    int64_t bits[N], largest = 0;
    for (int i = 0; i < N; i++) {
        wide a = clamped(w[i]), b = clamped(g[i]), e = (a - b) * inverse[i];
        e = e < 0 ? -e : e;
        int ordinary = (e == e) & (a != 0) & (b != 0) & (a < LIMIT) & (a > -LIMIT);
        errors[i] = ordinary ? (double)e : INFINITY; /* to be looked at one by one */
    }
    memcpy(bits, errors, sizeof bits); /* positive numbers are ordered as their bits are, and integers vectorise */
    for (int i = 0; i < N; i++) largest = bits[i] > largest ? bits[i] : largest;
    double most;
    memcpy(&most, &largest, 8);
    if (most <= o->largest) return;
    for (int i = 0; i < N; i++) {
        if (errors[i] <= o->largest) continue;
        wide e = (clamped(w[i]) - clamped(g[i])) * inverse[i];
        e = e < 0 ? -e : e;
        if (e > o->largest) {
            o->largest = (double)e;
            o->x = x[i];
            o->y = y[i];
        }
        if (is_wrong(w[i], g[i]) && !o->wrong++) {
            o->wrong_x = x[i];
            o->wrong_y = y[i];
        }
    }
}

/* bit patterns first, first + step, ... (random numbers where step is 0), total of them (rounded up to whole blocks) */
void sweep(int f, int count, const implementation *vector, const implementation *scalar, uint64_t first, uint64_t step,
           uint64_t total, const real *edges, int edge_count, int every, found *o) {
    real x[N], y[N], g[N], h[N];
    wide w[N], inverse[N];
    uint64_t seed = first * 2 + 0x9e3779b97f4a7c15ULL;
    for (uint64_t done = 0, block = 0; done < total; done += N, block++) {
        for (int i = 0; i < N; i++) {
            if (step) {
                uint64_t k = done + i < total ? done + i : total - 1;
                x[i] = from_bits((word)(first + k * step));
                y[i] = 0;
            } else {
                x[i] = draw(&seed, edges, edge_count);
                y[i] = f == POW ? draw_exponent(&seed, x[i], edges, edge_count) : 0;
            }
        }
        reference(f, x, y, w);
        for (int i = 0; i < N; i++) inverse[i] = exponent_scale(w[i] < 0 ? -w[i] : w[i]);
        for (int j = 0; j < count; j++) {
            vector[j](x, y, g, N);
            compare(x, y, w, inverse, g, o + j);
            if (block % every) continue;
            scalar[j](x, y, h, N);
            for (int i = 0; i < N; i++)
                if (memcmp(g + i, h + i, sizeof(real)) && !(g[i] != g[i] && h[i] != h[i]) && !o[j].differ++) {
                    o[j].differ_x = x[i];
                    o[j].differ_y = y[i];
                }
        }
    }
}

/* the edges with both signs, and pairs of them */
void sweep_edges(int f, int count, const implementation *vector, const implementation *scalar, const real *edges,
                 int edge_count, found *o) {
    real x[N], y[N], g[N], h[N];
    wide w[N], inverse[N];
    long pairs = 4L * edge_count * (f == POW ? edge_count : 1);
    for (long done = 0; done < pairs; done += N) {
        for (int i = 0; i < N; i++) {
            long k = (done + i) % pairs;
            real a = edges[k / 4 % edge_count], b = edges[k / 4 / edge_count];
            x[i] = k & 1 ? -a : a;
            y[i] = k & 2 ? -b : b;
        }
        reference(f, x, y, w);
        for (int i = 0; i < N; i++) inverse[i] = exponent_scale(w[i] < 0 ? -w[i] : w[i]);
        for (int j = 0; j < count; j++) {
            vector[j](x, y, g, N);
            scalar[j](x, y, h, N);
            compare(x, y, w, inverse, g, o + j);
            compare(x, y, w, inverse, h, o + j);
        }
    }
}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found: the largest error in ulp and its arguments; counts and first arguments of what is wrong.

    wrong: NaN, infinity or a zero's sign other than the reference's; differ: scalar and vector form not the same bits.
    """

    ulp: float
    worst: tuple[float, float]
    wrong: int
    wrong_at: tuple[float, float]
    differ: int
    differ_at: tuple[float, float]


def functions_text(machine: Machine, dtype: DType, names: Iterable[str]) -> str:
    """C functions `vector_NAME` and `scalar_NAME`(const x[n], const y[n], z[n], n); n a multiple of the lanes."""
    lanes = machine.vector_bytes // dtype.bytes
    kind, vector = dtype.c_name, f"f{dtype.bits}x{lanes}"
    forms = {(name, v): vector_function(name, dtype, machine, v) for name in names for v in (True, False)}
    text = [f.text for f in in_order(forms.values())]
    layout = f"vector_size({machine.vector_bytes}), aligned({dtype.bytes}), may_alias"
    text.append(f"typedef {kind} any_{vector} __attribute__(({layout}));")
    for (name, wide), function in forms.items():
        load = "*(const any_{v} *)({a} + i)" if wide else "{a}[i]"
        arguments = ", ".join(load.format(v=vector, a=a) for a in ("xy" if name == "pow" else "x"))
        store = f"*(any_{vector} *)(z + i)" if wide else "z[i]"
        text.append(
            f"void {'vector' if wide else 'scalar'}_{name}(const {kind} *x, const {kind} *y, {kind} *z, long n) {{\n"
            f"    for (long i = 0; i < n; i += {lanes if wide else 1}) {store} = {function.symbol}({arguments});\n}}\n"
        )
    return "\n".join(text)


def driver_text(dtype: DType) -> str:
    """The comparison with the C library, for one type; functions are numbered as in NAMES."""
    single = dtype.bits == 32
    suffix = "" if single else "l"
    cases = []
    for k, name in enumerate(NAMES):
        call = "rsqrt_(x[i])" if name == "rsqrt" else f"{name}{suffix}({'x[i], y[i]' if name == 'pow' else 'x[i]'})"
        cases.append(f"    case {k}: for (int i = 0; i < N; i++) z[i] = {call}; break;")
    head = {
        "real": dtype.c_name, "wide": "double" if single else "long double",
        "word": "uint32_t" if single else "uint64_t", "WIDTH": dtype.bits, "DIGITS": 23 if single else 52,
        "BIAS": 127 if single else 1023, "LIMIT": "0x1p128" if single else "0x1p1024L", "POW": NAMES.index("pow"),
        "L(f)": "f" if single else "f##l",
    }  # fmt: skip
    lines = [f"#define {name} {value}" for name, value in head.items()]
    return "\n".join(lines) + _DRIVER.replace("CASES", "\n".join(cases))


def _structure(dtype: DType) -> type[ctypes.Structure]:
    real = ctypes.c_float if dtype.bits == 32 else ctypes.c_double
    names = ["x", "y", "wrong", "wrong_x", "wrong_y", "differ", "differ_x", "differ_y"]
    fields = [("largest", ctypes.c_double)]
    fields += [(n, ctypes.c_uint64 if n in ("wrong", "differ") else real) for n in names]  # type: ignore[misc]
    return type("Found", (ctypes.Structure,), {"_fields_": fields})


class Comparison:
    """The library compiled for some machines, beside the C library's functions.  Raises BuildError."""

    def __init__(
        self, machines: Sequence[Machine], dtype: DType, names: Sequence[str], folder: Path,
        compiler: str = "gcc", optimise: str = "-O2",
    ) -> None:  # fmt: skip
        self.machines, self.dtype = machines, dtype
        self._real = ctypes.c_float if dtype.bits == 32 else ctypes.c_double
        self._driver = ctypes.CDLL(
            _compiled(folder / f"driver_{dtype}.so", driver_text(dtype), compiler, _DRIVER_FLAGS)
        )
        self._forms = [
            ctypes.CDLL(
                _compiled(
                    folder / f"{m.isa}_{dtype}.so",
                    functions_text(m, dtype, names),
                    compiler,
                    (optimise, *_FLAGS, *m.flags),
                )
            )
            for m in machines
        ]
        self._found = _structure(dtype)
        self._edges = (self._real * len(EDGES))(*EDGES)

    def _pointers(self, kind: str, name: str) -> ctypes.Array[ctypes.c_void_p]:
        found = [ctypes.cast(getattr(form, f"{kind}_{name}"), ctypes.c_void_p) for form in self._forms]
        return (ctypes.c_void_p * len(found))(*(f.value for f in found))

    def sweep(self, name: str, *, first: int = 0, step: int, total: int, every: int = 16) -> list[Outcome]:
        """Bit patterns first, first + step, ...; step 0: random and edge arguments, `first` the seed."""
        found = (self._found * len(self.machines))()
        u64 = ctypes.c_uint64
        self._driver.sweep(
            NAMES.index(name), len(self.machines), self._pointers("vector", name), self._pointers("scalar", name),
            u64(first), u64(step), u64(total), self._edges, len(EDGES), every, found,
        )  # fmt: skip
        self._driver.sweep_edges(
            NAMES.index(name), len(self.machines), self._pointers("vector", name), self._pointers("scalar", name),
            self._edges, len(EDGES), found,
        )  # fmt: skip
        return [
            Outcome(
                f.largest, (f.x, f.y), f.wrong, (f.wrong_x, f.wrong_y), f.differ, (f.differ_x, f.differ_y)
            )
            for f in found
        ]  # fmt: skip


def _compiled(path: Path, text: str, compiler: str, flags: Sequence[str]) -> str:
    source = path.with_suffix(".c")
    source.write_text(text)
    command = [compiler, *flags, str(source), "-o", str(path), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed", context=done.stderr[-4000:])
    return str(path)


def supported() -> list[Machine]:
    """The machines whose code runs here."""
    import platform

    if platform.machine() in ("arm64", "aarch64"):
        return [MACHINES["neon"], MACHINES["portable"]]
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.exists():
        flags = {f for line in info.read_text().splitlines() if line.startswith("flags") for f in line.split()}
    found = [MACHINES["portable"]]
    if {"avx2", "fma"} <= flags:
        found.insert(0, MACHINES["avx2"])
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        found.insert(0, MACHINES["avx512"])
    return found


def _merged(parts: Iterable[Sequence[Outcome]]) -> Iterator[Outcome]:
    for outcomes in zip(*parts):
        worst = max(outcomes, key=lambda o: o.ulp)
        wrong = next((o for o in outcomes if o.wrong), outcomes[0])
        differ = next((o for o in outcomes if o.differ), outcomes[0])
        yield Outcome(
            worst.ulp, worst.worst, sum(o.wrong for o in outcomes), wrong.wrong_at,
            sum(o.differ for o in outcomes), differ.differ_at,
        )  # fmt: skip


def verify(comparison: Comparison, name: str, stride: int, samples: int, jobs: int) -> list[Outcome]:
    """One function over its whole range, by `jobs` threads."""
    exhaustive = comparison.dtype.bits == 32 and name != "pow"
    parts = jobs * 8
    with ThreadPoolExecutor(jobs) as pool:
        if exhaustive:
            total = -(-(1 << 32) // stride)
            size = -(-total // parts)
            runs = [
                pool.submit(
                    comparison.sweep, name, first=k * size * stride, step=stride, total=min(size, total - k * size)
                )
                for k in range(parts)
                if k * size < total
            ]
        else:
            runs = [
                pool.submit(comparison.sweep, name, first=k, step=0, total=-(-samples // parts)) for k in range(parts)
            ]
        return list(_merged([r.result() for r in runs]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="verify_math", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--function", action="append", choices=NAMES)
    parser.add_argument("--dtype", action="append", choices=["float32", "float64"])
    parser.add_argument("--isa", action="append", choices=list(MACHINES))
    parser.add_argument("--cc", default="gcc")
    parser.add_argument("--stride", type=int, default=1, help="float32: take each N-th bit pattern")
    parser.add_argument("--samples", type=int, default=200_000_000, help="of float64 and pow")
    parser.add_argument("--jobs", type=int, default=1, help="threads")
    chosen = parser.parse_args(arguments)
    machines = [m for m in supported() if not chosen.isa or m.isa in chosen.isa]
    failed = 0
    folder = Path(tempfile.mkdtemp(prefix="verify_math_"))
    try:
        for dtype in chosen.dtype or ["float32", "float64"]:
            names = chosen.function or list(NAMES)
            comparison = Comparison(machines, dtypes.dtype(dtype), names, folder, chosen.cc)
            for name in names:
                start = time.monotonic()
                outcomes = verify(comparison, name, chosen.stride, chosen.samples, chosen.jobs)
                for machine, o in zip(machines, outcomes):
                    arguments_text = ", ".join(repr(a) for a in (o.worst if name == "pow" else o.worst[:1]))
                    notes = f"  wrong: {o.wrong}, first at {o.wrong_at}" if o.wrong else ""
                    notes += f"  scalar differs: {o.differ}, first at {o.differ_at}" if o.differ else ""
                    print(
                        f'    Verified("{name}", "{dtype}", "{machine.isa}", {o.ulp:.4f}, ({arguments_text},)),{notes}'
                    )
                    failed += bool(o.wrong or o.differ)
                print(f"# {name} {dtype}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
                sys.stdout.flush()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
