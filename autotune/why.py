"""Why a kernel takes the time it takes: the resource that bounds it and its share of what that gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tensordsl.autotune.features import Cost, analyse
from tensordsl.autotune.machine import Limits, Peaks, limits, peaks
from tensordsl.autotune.progress import duration
from tensordsl.schedules.schedule import Schedule

from tensordsl.program import Program
from tensordsl.targets import Target


@dataclass(frozen=True, slots=True)
class Why:
    """cost: counts of the nest.  limits: least times by resource.  time_us: measured, None if not."""

    cost: Cost
    limits: Limits
    peaks: Peaks
    dtype: str
    time_us: float | None

    @property
    def share(self) -> float | None:
        """Of what the limiting resource gives on this machine (1: at the limit)."""
        return None if self.time_us is None else self.limits.bound_us / self.time_us

    def lines(self) -> Iterator[str]:
        work, moved_bytes = self.cost.instructions, self.cost.traffic
        gflops = self.peaks.gflops.get(self.dtype, self.peaks.gflops["float32"])
        yield f"{amount(work.flops, 'FLOP')} on at least {amount(moved_bytes.compulsory, 'B')} of arrays"
        rates = {"FMA": f"{gflops:.4g} GFLOP/s"}
        what = {"FMA": amount(2 * work.arithmetic, "FLOP"), "L1": amount(work.loads + work.broadcasts, "loads")}
        for name, moved in zip(("L2", "L3", "DRAM"), moved_bytes.into):
            what[name] = amount(moved, "B")
        for name, rate in zip(("L1", "L2", "L3", "DRAM"), self.peaks.bytes_per_us):
            rates[name] = f"{rate / 1e3:.4g} GB/s"
        for name, least in self.limits.times_us.items():
            if least == 0:
                continue  # the operands fit into a cache before
            mark = "  <- limits" if name == self.limits.limiting else ""
            yield f"  {name:5} {what[name]:>14}  {rates[name]:>15}  {duration(least):>9}{mark}"
        if self.time_us is None:
            yield "not measured: `tensordsl bench` measures it"
        else:
            share = 100 * (self.share or 0)
            yield f"measured {duration(self.time_us)}: {share:.0f} % of what {self.limits.limiting} gives"


def why(schedule: Schedule, target: Target, time_us: float | None = None, cold: bool = False) -> Why:
    """The roofline of a schedule on this machine.  Raises BuildError where there is no compiler."""
    cost = analyse(schedule.nest, target, cold)
    measured = peaks(target)
    dtype = main_dtype(schedule.program)
    return Why(cost, limits(cost, measured, dtype, target), measured, dtype, time_us)


def refused(program: Program, target: Target) -> Iterator[str]:
    """The steps that the default schedule tried and does without, with the reason."""
    from tensordsl.schedules.default import default_schedule
    from tensordsl.schedules.refusals import refusals

    with refusals() as found:
        default_schedule(program, target)
    if found:
        yield "steps that the default schedule tried and does without:"
    yield from (f"  {reason}" for reason in found)


def main_dtype(program: Program) -> str:
    """The float type most of a program's outputs have (float32 where it has none)."""
    names = [t.dtype.name for t in program.outputs if t.dtype.is_float]
    return max(set(names), key=names.count) if names else "float32"


def amount(value: float, unit: str) -> str:
    """A count with a decimal prefix."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"
