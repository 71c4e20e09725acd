"""AArch64 with Advanced SIMD: 32 registers of 16 bytes."""

from __future__ import annotations

from types import MappingProxyType

from tensordsl.targets.machine import Instruction, Target


def _table() -> dict[tuple[str, str], Instruction]:
    """The C operators and generic texts cover the rest; gcc and clang name these builtins apart."""
    rows: dict[tuple[str, str], Instruction] = {}
    for t, suffix in (("f32x4", "v4sf"), ("f64x2", "v2df")):
        rows["sqrt", t] = Instruction(gcc=f"__builtin_aarch64_sqrt{suffix}({{0}})")
        rows["floor", t] = Instruction(gcc=f"__builtin_aarch64_floor{suffix}({{0}})")
        rows["ceil", t] = Instruction(gcc=f"__builtin_aarch64_ceil{suffix}({{0}})")
    half = "__typeof__(__builtin_aarch64_float_truncate_lo_v4hf((f32x4){{0}}))"
    vector = "typedef _Float16 h __attribute__((vector_size(8)));"
    rows["widen_float16", "f32x4"] = Instruction(
        gcc=f"__builtin_aarch64_float_extend_lo_v4sf(({half}){{0}})",
        clang=f"({{{{ {vector} __builtin_convertvector((h){{0}}, f32x4); }}}})",
    )
    rows["narrow_float16", "u16x4"] = Instruction(
        gcc="(u16x4)__builtin_aarch64_float_truncate_lo_v4hf({0})",
        clang=f"({{{{ {vector} (u16x4)__builtin_convertvector({{0}}, h); }}}})",
    )
    return rows


#: Caches and two pipes of 16 bytes: Arm Neoverse N1 Technical Reference Manual (4 in a V1 or V2).
NEON = Target(
    id="aarch64-neon",
    isa="neon",
    vector_bytes=16,
    registers=32,
    caches=(64 << 10, 1 << 20, 8 << 20),
    cores=4,
    fma_per_cycle=2,
    compiler_flags=("-march=armv8-a",),
    barrier="w",
    instructions=MappingProxyType(_table()),
)
