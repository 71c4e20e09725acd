"""x86-64 with AVX-512 F, BW, DQ, VL: 32 registers of 64 bytes, any lane maskable."""

from __future__ import annotations

from types import MappingProxyType

from tensordsl.targets import avx2
from tensordsl.targets.machine import Instruction, Target

#: bits of an element -> letters of masked moves of integers
_MOVES = {8: "qi", 16: "hi", 32: "si", 64: "di"}


def mask_type(lanes: int) -> str:
    """The unsigned integer that holds one bit per lane."""
    return {64: "unsigned long long", 32: "unsigned int", 16: "unsigned short"}.get(lanes, "unsigned char")


def _table() -> dict[tuple[str, str], Instruction]:
    """Masks are integers, one bit per lane (operands of masked moves: p, mask, value)."""
    rows: dict[tuple[str, str], Instruction] = {
        key: row for key, row in avx2.INSTRUCTIONS.items() if not key[0].endswith("_masked")
    }

    def both(key: tuple[str, str], text: str) -> None:
        rows[key] = Instruction(text, text)

    for element, bits, letters in (("f32", 32, "ps"), ("f64", 64, "pd")):
        t = f"{element}x{512 // bits}"
        every = f"({mask_type(512 // bits)})-1"
        for name in ("max", "min"):
            rows[name, t] = Instruction(
                f"__builtin_ia32_{name}{letters}512_mask({{0}}, {{1}}, {{0}}, {every}, 4)",
                f"__builtin_ia32_{name}{letters}512({{0}}, {{1}}, 4)",
            )
        rows["blend", t] = Instruction(
            f"__builtin_ia32_blendm{letters}_512_mask({{2}}, {{1}}, {{0}})",
            f"__builtin_ia32_select{letters}_512({{0}}, {{1}}, {{2}})",
        )
        both(("fma", t), f"__builtin_ia32_vfmadd{letters}512_mask({{0}}, {{1}}, {{2}}, {every}, 4)")
        rows["sqrt", t] = Instruction(
            f"__builtin_ia32_sqrt{letters}512_mask({{0}}, {{0}}, {every}, 4)",
            f"__builtin_ia32_sqrt{letters}512({{0}}, 4)",
        )
        # rounding mode 9: towards -infinity, no exception; 10: towards +infinity; 8: to nearest
        for name, mode in (("floor", 9), ("ceil", 10), ("round", 8)):
            both((name, t), f"__builtin_ia32_rndscale{letters}_mask({{0}}, {mode}, {{0}}, {every}, 4)")
        both(("scalef", t), f"__builtin_ia32_scalef{letters}512_mask({{0}}, {{1}}, {{0}}, {every}, 4)")
        rows["stream", t] = Instruction(
            f"__builtin_ia32_movnt{letters}512((void *){{0}}, {{1}})",
            f"__builtin_nontemporal_store({{1}}, ({t} *){{0}})",
        )
        for total in (512, 256, 128):
            v = f"{element}x{total // bits}"
            mask = f"({mask_type(total // bits)})({{1}})"
            both(
                ("load_masked", v),
                f"__builtin_ia32_loadu{letters}{total}_mask((const void *){{0}}, ({v}){{{{0}}}}, {mask})",
            )
            both(
                ("store_masked", v),
                f"__builtin_ia32_storeu{letters}{total}_mask((void *){{0}}, {{2}}, {mask})",
            )
    for kind in "iu":
        for bits, letters in _MOVES.items():
            for total in (512, 256, 128):
                v, s = f"{kind}{bits}x{total // bits}", f"i{bits}x{total // bits}"
                if bits == 8:  # the builtins take vectors of plain char
                    s = f"c8x{total // bits}"
                mask = f"({mask_type(total // bits)})({{1}})"
                both(
                    ("load_masked", v),
                    f"({v})__builtin_ia32_loaddqu{letters}{total}_mask((const void *){{0}}, ({s}){{{{0}}}}, {mask})",
                )
                both(
                    ("store_masked", v),
                    f"__builtin_ia32_storedqu{letters}{total}_mask((void *){{0}}, ({s}){{2}}, {mask})",
                )
    for t, letters in (("f32x16", "siv16sf"), ("i32x16", "siv16si"), ("f64x8", "siv8df"), ("i64x8", "siv8di")):
        lanes, scale = int(t[4:]), int(t[1:3]) // 8
        text = f"({t})__builtin_ia32_gather{letters}(({t}){{{{0}}}}, (const void *){{0}}, {{1}}, @, {scale})"
        both(("gather_at", t), text.replace("@", f"({mask_type(lanes)})-1"))
        both(("gather_at_masked", t), text.replace("@", "{2}"))
    rows.update(_conversions())
    every = "(unsigned short)-1"
    both(("widen_float16", "f32x16"), f"__builtin_ia32_vcvtph2ps512_mask((i16x16){{0}}, (f32x16){{{{0}}}}, {every}, 4)")
    both(
        ("narrow_float16", "u16x16"), f"(u16x16)__builtin_ia32_vcvtps2ph512_mask({{0}}, 0, (i16x16){{{{0}}}}, {every})"
    )
    for kind in "iu":
        for bits, letter in ((8, "b"), (16, "w"), (32, "d"), (64, "q")):
            t, v = f"{kind}{bits}x{512 // bits}", f"{'c' if bits == 8 else 'i'}{bits}x{512 // bits}"
            every = f"({mask_type(512 // bits)})-1"
            for name in ("max", "min"):
                call = f"__builtin_ia32_p{name}{'s' if kind == 'i' else 'u'}{letter}512_mask"
                rows[name, t] = Instruction(gcc=f"({t}){call}(({v}){{0}}, ({v}){{1}}, ({v}){{0}}, {every})")
    return rows


def _conversions() -> dict[tuple[str, str], Instruction]:
    """gcc 12 takes a step to or from twice the width in two halves; narrowing further is one instruction."""
    rows = avx2.widenings((128, 256, 512), "v")
    for bits, letters in ((8, "bw"), (16, "wd"), (32, "dq")):
        lanes = 512 // (2 * bits)
        wide, every = f"{2 * bits}x{lanes}", f"({mask_type(lanes)})-1"
        narrow = f"c8x{lanes}" if bits == 8 else f"i{bits}x{lanes}"
        for kind in "iu":
            extend = f"__builtin_ia32_pmov{'s' if kind == 'i' else 'z'}x{letters}512_mask"
            cut = f"__builtin_ia32_pmov{letters[::-1]}512_mask"
            for to in "iu":
                rows[f"from_{kind}{bits}", f"{to}{wide}"] = Instruction(
                    gcc=f"({to}{wide}){extend}(({narrow}){{0}}, (i{wide}){{{{0}}}}, {every})"
                )
                rows[f"from_{kind}{2 * bits}", f"{to}{bits}x{lanes}"] = Instruction(
                    gcc=f"({to}{bits}x{lanes}){cut}((i{wide}){{0}}, ({narrow}){{{{0}}}}, {every})"
                )
                for source in (4 * bits, 8 * bits):
                    if source <= 64:
                        v = f"{to}{bits}x{512 // source}"
                        convert = f"__builtin_convertvector({{0}}, {v})"
                        rows[f"from_{kind}{source}", v] = Instruction(convert, convert)
    every = "(unsigned char)-1"
    rows["from_i32", "f64x8"] = Instruction(gcc=f"__builtin_ia32_cvtdq2pd512_mask({{0}}, (f64x8){{{{0}}}}, {every})")
    rows["from_f32", "f64x8"] = Instruction(gcc=f"__builtin_ia32_cvtps2pd512_mask({{0}}, (f64x8){{{{0}}}}, {every}, 4)")
    return rows


#: Full-width FMAs per cycle by microarchitecture: one 64-byte pipe, or two (Intel optimisation manual
#: for servers; AMD's optimisation guides for Zen 4, family 25, and Zen 5, family 26).
FMA_PER_CYCLE = {"zen4": 1, "zen5": 2, "skylake_avx512": 2, "cascadelake": 2, "cooperlake": 2, "sapphirerapids": 2}

#: Caches of AMD Zen 4 per core (its 32 MiB of L3 are shared by eight).
AVX512 = Target(
    id="x86_64-v4-avx512",
    isa="avx512",
    vector_bytes=64,
    registers=32,
    caches=(32 << 10, 1 << 20, 32 << 20),
    cores=4,
    fma_per_cycle=1,
    compiler_flags=(
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mavx512cd",
        *avx2.AVX2.compiler_flags,
    ),
    barrier="v",
    instructions=MappingProxyType(_table()),
)
