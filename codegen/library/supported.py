"""``LIB_supported`` in C: whether this processor has a target's instructions.

Asked of the processor itself (x86: CPUID and XGETBV), because the compilers' own question refers to
a variable of libgcc or compiler-rt, and a library needs libc and libm alone.
"""

from __future__ import annotations

from tensordsl.errors import InternalError
from tensordsl.targets import Target

#: feature, as the compilers' -m options name it -> (CPUID leaf, register, bit)
_FEATURES = {
    "fma": (1, "ecx", 12), "avx": (1, "ecx", 28), "f16c": (1, "ecx", 29),
    "avx2": (7, "ebx", 5), "bmi": (7, "ebx", 3), "bmi2": (7, "ebx", 8),
    "avx512f": (7, "ebx", 16), "avx512dq": (7, "ebx", 17), "avx512cd": (7, "ebx", 28),
    "avx512bw": (7, "ebx", 30), "avx512vl": (7, "ebx", 31), "avx512vnni": (7, "ecx", 11),
}  # fmt: skip
_REGISTERS = ("eax", "ebx", "ecx", "edx")
#: Registers the operating system must save (XCR0): of AVX, and of AVX-512.
_AVX_STATE, _AVX512_STATE = 0x06, 0xE6
_OSXSAVE = 1 << 27  # leaf 1, ecx: XGETBV may be asked

_CPUID = """\
static void td_cpuid(uint32_t leaf, uint32_t r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(0));
}

"""


def features(target: Target) -> list[str]:
    """The processor features a target's compiler flags ask for (``-mavx2`` -> ``avx2``)."""
    return [f[2:] for f in target.compiler_flags if f.startswith("-m") and "=" not in f]


def supported(library: str, target: Target) -> str:
    """The function; 1 without a question where the target needs no more than its architecture."""
    head = f"{library.upper()}_API int32_t {library}_supported(void)\n{{\n"
    named = features(target)
    if not named:
        return f"{head}    return 1;\n}}\n"
    unknown = [f for f in named if f not in _FEATURES]
    if unknown:
        raise InternalError(f"no CPUID bit is known for {', '.join(unknown)} of {target.id}")
    needed: dict[tuple[int, str], int] = {}
    for leaf, register, bit in (_FEATURES[f] for f in named):
        needed[leaf, register] = needed.get((leaf, register), 0) | 1 << bit
    state = _AVX512_STATE if any(f.startswith("avx512") for f in named) else _AVX_STATE
    tests = [
        f"(r{leaf}[{_REGISTERS.index(register)}] & {mask:#x}u) == {mask:#x}u"
        for (leaf, register), mask in sorted(needed.items())
    ]
    joined = "\n        && ".join(tests)
    return f"""\
#ifdef __APPLE__ /* macOS starts to keep the registers of AVX-512 once they are used */
#define TD_STATE {_AVX_STATE:#x}u
#else
#define TD_STATE {state:#x}u
#endif

{_CPUID}{head}    uint32_t r0[4], r1[4], r7[4], saved, high;
    td_cpuid(0, r0);
    if (r0[0] < 7) return 0;
    td_cpuid(1, r1);
    td_cpuid(7, r7);
    if (!(r1[2] & {_OSXSAVE:#x}u)) return 0;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    (void)high;
    if ((saved & TD_STATE) != TD_STATE) return 0; /* the system does not keep these registers */
    return {joined};
}}
"""
