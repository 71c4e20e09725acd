"""What this machine reaches: fused multiply-adds and bytes a second, measured once and kept.

Times of kernels are shown as shares of these.  The FMA peak is that of register-only loops in the
forms a kernel can take (accumulators in flight, operands in registers or broadcast from memory);
bandwidths are of vector reads from working sets of half a cache, and of memory.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tensordsl.autotune.features import Cost
from tensordsl.autotune.native_c import load, shared_object
from tensordsl.codegen.toolchain import Toolchain, toolchain

from tensordsl.targets import Target

_ACCUMULATORS = (8, 12, 16, 24)
_REPEATS = 25
_SAMPLE_US = 400.0
_MEMORY_BYTES = 96 << 20  # at least this much for memory, where no cache holds it
_SCHEMA = 1


class Peaks(msgspec.Struct, frozen=True):
    """gflops: of FMAs on one core (an FMA counts two), by element type.  bytes_per_us: vector reads
    on one core from each cache level, memory last."""

    gflops: dict[str, float]
    bytes_per_us: tuple[float, ...]
    schema: int = _SCHEMA


@dataclass(frozen=True, slots=True)
class Limits:
    """Lower bounds of a kernel's time by resource, in microseconds."""

    times_us: dict[str, float]

    @property
    def limiting(self) -> str:
        """The resource that bounds the time."""
        return max(self.times_us, key=lambda name: self.times_us[name])

    @property
    def bound_us(self) -> float:
        return self.times_us[self.limiting]


def limits(cost: Cost, peaks: Peaks, dtype: str, target: Target) -> Limits:
    """The roofline of a nest: each resource's least time if it alone worked, at its measured rate."""
    gflops = peaks.gflops.get(dtype) or peaks.gflops["float32"]
    l1, *behind = peaks.bytes_per_us
    work = cost.instructions
    reads = work.loads + work.broadcasts * min(1.0, target.fma_per_cycle / 2)  # two broadcasts a cycle
    times = {"FMA": 2 * work.arithmetic / (gflops * 1e3), "L1": reads * target.vector_bytes / l1}
    for name, traffic, rate in zip(("L2", "L3", "DRAM"), cost.traffic.into, behind):
        times[name] = traffic / rate
    return Limits(times)


def peaks(target: Target, tools: Toolchain | None = None) -> Peaks:
    """The peaks of this machine for a target, from the cache or measured now (about a second).

    Raises BuildError where there is no compiler.
    """
    tools = tools or toolchain()
    path = _path(target, tools)
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Peaks)
        if known.schema == _SCHEMA:
            return known
    except (OSError, msgspec.DecodeError):
        pass
    found = measure(target, tools)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
        aside.replace(path)
    except OSError:
        pass  # a cache that cannot be written only costs time
    return found


def _path(target: Target, tools: Toolchain) -> Path:
    from tensordsl.codegen.cache import kernel_cache

    named = (target.vendor, target.family, target.model, target.microarchitecture, target.caches)
    facts = (*named, tools.id, _text(target))
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=6).hexdigest()
    return kernel_cache().root / "machines" / f"{target.id}-{digest}.json"


def measure(target: Target, tools: Toolchain) -> Peaks:
    """Measure this machine now."""
    library = load(shared_object(_text(target), target, tools=tools))
    gflops: dict[str, float] = {}
    for name, bits in (("float32", 32), ("float64", 64)):
        lanes = target.vector_bytes * 8 // bits
        rates = []
        for form in range(2):
            for count in _ACCUMULATORS:
                function = _function(library, f"peak_{name}_{form}_{count}")
                rates.append(2.0 * lanes * count * _rate(function))
        gflops[name] = max(rates) / 1e3
    return Peaks(gflops, tuple(_bandwidths(library, target)))


def _bandwidths(library: ctypes.CDLL, target: Target) -> Iterator[float]:
    """Bytes per microsecond from each cache and from memory: the best of working sets that a level
    holds and the one before it does not."""
    import numpy as np

    caches = target.caches[:3]
    sets = [[caches[0] // 2]]
    for before, cache in itertools.pairwise(caches):
        sets.append([2 * before] if 4 * before > cache else [2 * before, 4 * before])
    sets.append([max(_MEMORY_BYTES, 3 * max(caches))])
    data = np.ones(max(map(max, sets)) + 64, dtype=np.uint8)
    start = data.ctypes.data + (-data.ctypes.data) % 64
    read = _function(library, "read_bytes")

    def rate(size: int) -> float:
        size -= size % (target.vector_bytes * 8)
        count = max(1, int(_SAMPLE_US * 30e3) // size)
        repeats = _REPEATS if size < _MEMORY_BYTES else 4
        taken = min(read(ctypes.c_void_p(start), ctypes.c_int64(size), ctypes.c_int64(count)) for _ in range(repeats))
        return float(1e3 * size * count / taken)

    for sizes in sets:
        yield max(rate(size) for size in sizes)


def _function(library: ctypes.CDLL, name: str) -> ctypes._NamedFuncPointer:
    function: ctypes._NamedFuncPointer = getattr(library, name)
    function.restype = ctypes.c_int64
    return function


def _rate(function: ctypes._NamedFuncPointer) -> float:
    """Loop iterations per microsecond, the best of some samples."""
    steps = 1000
    while function(ctypes.c_int64(steps)) < _SAMPLE_US * 1e3 / 4:
        steps *= 2
    return max(float(steps / (function(ctypes.c_int64(steps)) / 1e3)) for _ in range(_REPEATS))


def _text(target: Target) -> str:
    parts = [
        "#include <stdint.h>\n#include <time.h>\n"
        "#define PUBLIC __attribute__((visibility(\"default\")))\n"
        "static int64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);"
        " return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec; }\n"
    ]  # fmt: skip
    for name, c_type in (("float32", "float"), ("float64", "double")):
        parts.append(f"typedef {c_type} v_{name} __attribute__((vector_size({target.vector_bytes}), aligned(8)));\n")
        for form in range(2):
            parts += [_peak(target, name, c_type, form, count) for count in _ACCUMULATORS]
    parts.append(_read(target))
    return "".join(parts)


def _peak(target: Target, name: str, c_type: str, form: int, count: int) -> str:
    """``count`` independent accumulators; form 0: both factors in registers, 1: one is broadcast
    from memory at each step."""
    registers = target.barrier or "m"
    names = [f"a{n}" for n in range(count)]
    lines = [f"PUBLIC int64_t peak_{name}_{form}_{count}(int64_t steps) {{"]
    lines.append(f"    {c_type} m[2] = {{0.5f, 0.25f}}; v_{name} x = m[0] - (v_{name}){{}}, y = m[1] - (v_{name}){{}};")
    # opaque start values, or equal accumulators would be computed once
    lines += [f'    v_{name} {a} = x; __asm__ volatile("" : "+{registers}"({a}));' for a in names]
    lines.append(f'    __asm__ volatile("" : "+{registers}"(x), "+{registers}"(y));')
    lines.append("    int64_t begin = now_ns();")
    lines.append("    for (int64_t n = 0; n < steps; n++) {")
    if form:
        lines.append(f"        v_{name} b = *(volatile {c_type} *)m - (v_{name}){{}};")
        lines += [f"        {a} += b * y;" for a in names]
    else:
        lines += [f"        {a} += x * y;" for a in names]
        lines.append(f'        __asm__ volatile("" : "+{registers}"(x));')
    lines.append("    }")
    lines.append("    int64_t taken = now_ns() - begin;")
    lines += [f'    __asm__ volatile("" :: "{registers}"({a}));' for a in names]
    lines.append("    return taken;\n}\n")
    return "\n".join(lines)


def _read(target: Target) -> str:
    registers = target.barrier or "m"
    step = 8 * target.vector_bytes
    loads = "\n".join(
        f'            v_float32 r{n} = p[{n}]; __asm__ volatile("" :: "{registers}"(r{n}));' for n in range(8)
    )
    return f"""
PUBLIC int64_t read_bytes(const char *data, int64_t bytes, int64_t count) {{
    int64_t begin = now_ns();
    for (int64_t n = 0; n < count; n++)
        for (int64_t i = 0; i < bytes; i += {step}) {{
            const v_float32 *p = (const v_float32 *)(data + i);
{loads}
        }}
    return now_ns() - begin;
}}
"""
