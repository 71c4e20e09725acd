"""The machine this process runs on, from the operating system and archspec."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from tensordsl.targets.avx2 import AVX2
from tensordsl.targets.avx512 import AVX512, FMA_PER_CYCLE
from tensordsl.targets.machine import Target
from tensordsl.targets.neon import NEON
from tensordsl.targets.portable import PORTABLE

#: /proc/cpuinfo flags an instruction set needs, widest first
_NEEDS = (
    (AVX512, {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx2", "fma", "bmi2", "f16c"}),
    (AVX2, {"avx2", "fma", "bmi2", "f16c"}),
)
#: (vendor, family) of processors whose name a virtual machine hides -> microarchitecture with AVX-512
_FAMILIES = {("AuthenticAMD", 25): "zen4", ("AuthenticAMD", 26): "zen5"}
#: Flags that only some processors have, whatever name a virtual machine lets through.
_BY_FLAGS = (({"amx_tile", "avx512_fp16"}, "sapphirerapids"),)


@lru_cache(maxsize=1)
def native() -> Target:
    """The best known instruction set of this processor with its real caches and cores."""
    facts = processor_facts()
    base = _base(platform.machine().lower(), set(facts.get("flags", facts.get("features", "")).split()))
    vendor, family, model = facts.get("vendor_id", ""), _number(facts, "cpu family"), _number(facts, "model")
    name = _microarchitecture(base, vendor, family, set(facts.get("flags", "").split()))
    fma = FMA_PER_CYCLE.get(name, base.fma_per_cycle) if base is AVX512 else base.fma_per_cycle
    return replace(
        base,
        caches=cache_bytes() or base.caches,
        cores=_cores(),
        fma_per_cycle=fma,
        vendor=vendor,
        family=family,
        model=model,
        microarchitecture=name,
    )


def _base(machine: str, flags: set[str]) -> Target:
    if machine in ("x86_64", "amd64"):
        for target, needs in _NEEDS:
            if needs <= (flags or _archspec_features()):
                return target
    if machine in ("aarch64", "arm64"):
        return NEON
    return PORTABLE


def _archspec_features() -> set[str]:
    """Features where the system has no /proc/cpuinfo (macOS)."""
    import archspec.cpu

    return set(archspec.cpu.host().features)


def _microarchitecture(base: Target, vendor: str, family: int, flags: set[str]) -> str:
    import archspec.cpu

    for needed, name in _BY_FLAGS:
        if needed <= flags and base is AVX512:
            return name
    name = str(archspec.cpu.host().name)
    generic = name.startswith("x86_64") or name == "aarch64"
    return _FAMILIES.get((vendor, family), name) if base is AVX512 and generic else name


def processor_facts(path: str = "/proc/cpuinfo") -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo ({} where there is none)."""
    try:
        text = Path(path).read_text()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip().lower(): value.strip() for key, value in pairs}


def _number(facts: dict[str, str], key: str) -> int:
    value = facts.get(key, "")
    return int(value) if value.isdigit() else 0


def cache_bytes(root: str = "/sys/devices/system/cpu/cpu0/cache") -> tuple[int, ...]:
    """Data and unified caches of the first core, innermost first (() where unknown)."""
    sizes: dict[int, int] = {}
    for entry in sorted(Path(root).glob("index*")):
        try:
            kind = (entry / "type").read_text().strip()
            level = int((entry / "level").read_text())
            text = (entry / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        if kind in ("Data", "Unified") and text.rstrip("KMG").isdigit():
            sizes[level] = int(text.rstrip("KMG")) * unit
    return tuple(size for _, size in sorted(sizes.items()))


def _cores() -> int:
    """Processors this process may run on (the scheduler's mask, so that containers are respected)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
