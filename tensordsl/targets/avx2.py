"""x86-64 with AVX2 and FMA: 16 registers of 32 bytes."""

from __future__ import annotations

from itertools import product
from types import MappingProxyType

from tensordsl.targets.machine import Instruction, Target

#: element -> (letters of the builtins, how its masked moves call it)
_FLOATS = {"f32": ("ps", "maskloadps", "maskstoreps"), "f64": ("pd", "maskloadpd", "maskstorepd")}
_INTEGERS = {
    "i32": ("maskloadd", "maskstored"),
    "u32": ("maskloadd", "maskstored"),
    "i64": ("maskloadq", "maskstoreq"),
    "u64": ("maskloadq", "maskstoreq"),
}


def _table() -> dict[tuple[str, str], Instruction]:
    """Masked moves take a vector of integers whose sign bit selects the lane (operands: p, mask, value)."""
    rows: dict[tuple[str, str], Instruction] = {}

    def both(key: tuple[str, str], text: str) -> None:
        rows[key] = Instruction(text, text)

    for element, bits in (("f32", 32), ("f64", 64)):
        letters, load, store = _FLOATS[element]
        for total, suffix in ((256, "256"), (128, "")):
            t, m = f"{element}x{total // bits}", f"i{bits}x{total // bits}"
            both(("max", t), f"__builtin_ia32_max{letters}{suffix}({{0}}, {{1}})")
            both(("min", t), f"__builtin_ia32_min{letters}{suffix}({{0}}, {{1}})")
            rows["sqrt", t] = Instruction(gcc=f"__builtin_ia32_sqrt{letters}{suffix}({{0}})")
            both(("fma", t), f"__builtin_ia32_vfmadd{letters}{suffix}({{0}}, {{1}}, {{2}})")
            # rounding mode 9: towards -infinity, no exception; 10: towards +infinity; 8: to nearest
            for name, mode in (("floor", 9), ("ceil", 10), ("round", 8)):
                both((name, t), f"__builtin_ia32_round{letters}{suffix}({{0}}, {mode})")
            both(("load_masked", t), f"__builtin_ia32_{load}{suffix}((const void *){{0}}, ({m}){{1}})")
            both(("store_masked", t), f"__builtin_ia32_{store}{suffix}((void *){{0}}, ({m}){{1}}, {{2}})")
            stream = f"__builtin_ia32_movnt{letters}{suffix}"
            rows["stream", t] = Instruction(
                f"{stream}((void *){{0}}, {{1}})", f"__builtin_nontemporal_store({{1}}, ({t} *){{0}})"
            )
    for element, (load, store) in _INTEGERS.items():
        bits = int(element[1:])
        for total, suffix in ((256, "256"), (128, "")):
            t, m = f"{element}x{total // bits}", f"i{bits}x{total // bits}"
            both(("load_masked", t), f"({t})__builtin_ia32_{load}{suffix}((const void *){{0}}, ({m}){{1}})")
            both(("store_masked", t), f"__builtin_ia32_{store}{suffix}((void *){{0}}, ({m}){{1}}, ({m}){{2}})")
    for kind in "iu":
        for bits, letter in ((8, "b"), (16, "w"), (32, "d")):
            t, v = f"{kind}{bits}x{256 // bits}", f"{'c' if bits == 8 else 'i'}{bits}x{256 // bits}"
            for name in ("max", "min"):
                call = f"__builtin_ia32_p{name}{'s' if kind == 'i' else 'u'}{letter}256"
                rows[name, t] = Instruction(gcc=f"({t}){call}(({v}){{0}}, ({v}){{1}})")
    both(("widen_float16", "f32x8"), "__builtin_ia32_vcvtph2ps256((i16x8){0})")
    both(("narrow_float16", "u16x8"), "(u16x8)__builtin_ia32_vcvtps2ph256({0}, 0)")  # 0: to nearest even
    rows.update(widenings((128, 256), "x"))
    rows.update(_gathers())
    return rows


def _gathers() -> dict[tuple[str, str], Instruction]:
    """Elements at 32-bit offsets (operands: p, offsets, mask)."""
    rows: dict[tuple[str, str], Instruction] = {}
    for kind, bits, gcc, clang in (("f", 32, "siv8sf", "d_ps256"), ("i", 32, "siv8si", "d_d256")):
        rows |= _gather(f"{kind}{bits}x8", f"i{bits}x8", gcc, clang, bits // 8)
    for kind, bits, gcc, clang in (("f", 64, "siv4df", "d_pd256"), ("i", 64, "siv4di", "d_q256")):
        rows |= _gather(f"{kind}{bits}x4", f"i{bits}x4", gcc, clang, bits // 8)
    return rows


def _gather(t: str, m: str, gcc: str, clang: str, scale: int) -> dict[tuple[str, str], Instruction]:
    def text(name: str, mask: str) -> str:
        return f"({t})__builtin_ia32_gather{name}(({t}){{{{0}}}}, (const void *){{0}}, {{1}}, ({t}){mask}, {scale})"

    every = f"(({m}){{{{0}}}} == 0)"
    return {
        ("gather_at", t): Instruction(text(gcc, every), text(clang, every)),
        ("gather_at_masked", t): Instruction(text(gcc, "{2}"), text(clang, "{2}")),
    }


def widenings(sizes: tuple[int, ...], register: str) -> dict[tuple[str, str], Instruction]:
    """Integers to four or eight times their width, for results of some bits in all: one instruction.

    gcc finds it where the operand is a register; it takes one in memory apart, lane by lane.
    """
    rows: dict[tuple[str, str], Instruction] = {}
    for total, (source, bits), kind, to in product(sizes, ((8, 32), (8, 64), (16, 64)), "iu", "iu"):
        v = f"{to}{bits}x{total // bits}"
        text = (
            f'({{{{ __typeof__({{0}}) in_register = {{0}}; __asm__("" : "+{register}"(in_register)); '
            f"__builtin_convertvector(in_register, {v}); }}}})"
        )
        rows[f"from_{kind}{source}", v] = Instruction(text, f"__builtin_convertvector({{0}}, {v})")
    return rows


INSTRUCTIONS = MappingProxyType(_table())

#: Caches of AMD Zen 3 per core (32 MiB shared); two 32-byte FMA pipes from Haswell and Zen 2 on.
AVX2 = Target(
    id="x86_64-v3-avx2",
    isa="avx2",
    vector_bytes=32,
    registers=16,
    caches=(32 << 10, 512 << 10, 16 << 20),
    cores=4,
    fma_per_cycle=2,
    compiler_flags=("-mavx2", "-mfma", "-mbmi2", "-mf16c"),
    barrier="x",
    instructions=INSTRUCTIONS,
)
