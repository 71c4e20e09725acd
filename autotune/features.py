"""What a loop nest costs, read off its loops alone: the analytical model and the learned one's input.

Nothing here looks at names.  The model rejects bad candidates (few accumulators, spilled registers,
wasted lanes, footprints past a cache); among good ones only measuring decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tensordsl.autotune.instructions import Instructions, count
from tensordsl.autotune.traffic import Traffic, traffic
from tensordsl.schedules.loopnest import LoopNest

#: Loads of one number, broadcast (Zen 2+, Intel since Haswell).  Of full vectors a core loads as many
#: as it starts FMAs: both are bounded by the width of its data paths (one of 64 bytes on Zen 4).
_BROADCASTS_PER_CYCLE = 2.0
_STORES_PER_CYCLE = 1.0
_LOOP_CYCLES = 0.25  # of an iteration of a loop that is not unrolled, beside vector work
_SPILL_CYCLES = 2.0  # a store and a load for each use of a value that found no register
_OVERLAP = 0.3  # share of the shorter of core and memory time that the longer one does not hide
#: Sustained bytes per cycle into the core from L2, L3 and memory: orders of magnitude, for ranking.
_BYTES_PER_CYCLE = (32.0, 12.0, 5.0)
#: Part of a kept model: raised when the vector below changes its meaning.
VECTOR_VERSION = 3


class Machine(Protocol):
    """What the model needs to know of a target (see `tensordsl.targets`)."""

    @property
    def vector_bytes(self) -> int: ...
    @property
    def registers(self) -> int: ...
    @property
    def caches(self) -> tuple[int, ...]: ...
    @property
    def fma_per_cycle(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Cost:
    """Instructions and bytes of one call, and the cycles they take at least, by resource."""

    instructions: Instructions
    traffic: Traffic
    registers: int = 32
    fma_per_cycle: float = 1.0

    @property
    def spill(self) -> float:
        """Cycles of values that find no register."""
        i = self.instructions
        excess = max(0.0, i.registers - self.registers)
        return _SPILL_CYCLES * excess / max(i.registers, 1.0) * i.vector_ops

    @property
    def core(self) -> float:
        """Cycles of the busiest unit of the core."""
        i = self.instructions
        loads = i.loads / self.fma_per_cycle + i.broadcasts / _BROADCASTS_PER_CYCLE
        return max(i.vector_ops / self.fma_per_cycle, loads, i.stores / _STORES_PER_CYCLE, i.latency)

    @property
    def memory(self) -> float:
        """Cycles of the busiest path between caches."""
        return max(b / rate for b, rate in zip(self.traffic.into, _BYTES_PER_CYCLE))

    @property
    def cycles(self) -> float:
        """The model's estimate of one call."""
        core = self.core + self.spill + _LOOP_CYCLES * self.instructions.iterations
        return max(core, self.memory) + _OVERLAP * min(core, self.memory)

    def vector(self) -> np.ndarray[Any, Any]:
        """The input of the learned model: logarithms of counts, fixed order and length."""
        i, t = self.instructions, self.traffic
        sets = (t.working_sets + [0.0] * 4)[:4]
        counts = [
            i.flops, i.arithmetic, i.vector_ops, i.loads, i.broadcasts, i.gathers, i.stores, i.statements, i.body,
            i.iterations, i.parallel, i.chains, i.latency, i.registers, self.spill, self.core, self.memory, self.cycles,
            *t.into, t.compulsory, *sets,
        ]  # fmt: skip
        ratios = [i.lane_use, i.vector_ops / max(i.loads + i.broadcasts, 1.0)]
        return np.array([*(math.log2(1.0 + c) for c in counts), *ratios], dtype=np.float32)


def analyse(nest: LoopNest, machine: Machine, cold: bool = False) -> Cost:
    """The cost of one call of a nest.  cold: operands are in memory at the start, not in the caches."""
    caches = (*machine.caches, *[1 << 25] * 3)[:3]
    return Cost(
        count(nest.body, machine.vector_bytes), traffic(nest, caches, cold), machine.registers, machine.fma_per_cycle
    )
