"""What the compiler knows about a machine: plain data, no behaviour beyond lookups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tensordsl.dtypes import DType


@dataclass(frozen=True, slots=True)
class Instruction:
    """C text of one vector instruction that has no operator; ``{0}``, ``{1}``... are the operands.

    The two compilers name many builtins differently; "" means that the compiler gets the generic
    text (its optimiser finds the instruction, or there is none).
    """

    gcc: str = ""
    clang: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to generate code for.  Equal ids of one library run the same instructions.

    id: name under which records are kept.  isa: avx512, avx2, neon or portable.
    vector_bytes: width of a vector register.  registers: vector registers of one thread.
    caches: bytes per level, innermost (L1 data) first.  cores: physical cores one call may use.
    fma_per_cycle: full-width vector fused multiply-adds a core starts per cycle.
    compiler_flags: what gcc and clang need for this instruction set.
    instructions: (operation, vector type) -> `Instruction`, for what C has no operator for.
    barrier: asm constraint of a vector register ("" where the register class is not known).
    vendor, family, model, microarchitecture: the processor found by `native` ("" and 0 otherwise).
    """

    id: str
    isa: str
    vector_bytes: int
    registers: int
    caches: tuple[int, ...]
    cores: int
    fma_per_cycle: int
    compiler_flags: tuple[str, ...]
    barrier: str = ""
    line_bytes: int = 64
    vendor: str = ""
    family: int = 0
    model: int = 0
    microarchitecture: str = ""
    instructions: Mapping[tuple[str, str], Instruction] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    def lanes(self, dtype: DType) -> int:
        """Elements of a full vector (of the type that values are computed in)."""
        return self.vector_bytes // dtype.computed.bytes

    @property
    def architecture(self) -> str:
        """Whose instructions a compiler must know: x86_64, aarch64, or "" for any."""
        known = self.id.split("-")[0]
        return known if known in ("x86_64", "aarch64") else ""

    def __reduce__(self) -> tuple[object, ...]:
        from tensordsl.targets import restore

        facts = {name: getattr(self, name) for name in self.__slots__ if name != "instructions"}
        return restore, (facts,)

    def __str__(self) -> str:
        return self.id
