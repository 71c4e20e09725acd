"""Any machine with gcc or clang: 16-byte vector extensions and no builtin of an instruction set."""

from __future__ import annotations

from tensordsl.targets.machine import Target

#: Caches are those of a typical core of the last ten years; cores: a common laptop.
PORTABLE = Target(
    id="portable",
    isa="portable",
    vector_bytes=16,
    registers=16,
    caches=(32 << 10, 512 << 10, 8 << 20),
    cores=4,
    fma_per_cycle=1,
    compiler_flags=(),
)
