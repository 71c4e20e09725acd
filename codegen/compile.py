"""Sources -> shared objects: in batches, in parallel, and never twice.

About ten sources share a translation unit (starting a compiler costs as much as compiling a small
kernel).  Where a unit fails, the sources its errors point at are compiled alone, and the rest
again without them, so that one bad kernel costs only itself.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tensordsl.codegen.cache import SCHEMA, KernelCache, kernel_cache
from tensordsl.codegen.source import Source, unit
from tensordsl.codegen.toolchain import (
    TIMEOUT_S,
    CompileFailure,
    Running,
    Toolchain,
    compile_unit,
    excerpt,
    toolchain,
)  # fmt: skip

from tensordsl.errors import BuildError, Location, user_location
from tensordsl.settings import settings

#: Sources per translation unit: 0.043 s of gcc a candidate, against 0.11 s one by one.
BATCH = 10
#: What a kernel of the cache is: seen by the loader, while everything else stays hidden.
_EXPORTED = '#define TD_KERNEL __attribute__((visibility("default")))\n'


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A kernel ready to load.  path: the shared object; symbol: its function in there (not the
    source's: many kernels of one name live in one object); cached: it had been compiled before.
    """

    source: Source
    path: Path
    symbol: str
    cached: bool


def compile_source(source: Source, tools: Toolchain | None = None) -> CompiledKernel:
    """One source.  Raises BuildError."""
    [result] = compile_sources([source], tools)
    if isinstance(result, BuildError):
        raise result
    return result


def compile_sources(
    sources: Sequence[Source],
    tools: Toolchain | None = None,
    *,
    cache: KernelCache | None = None,
    batch: int = BATCH,
    jobs: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> list[CompiledKernel | BuildError]:
    """Compile many sources; a source that does not compile gives its BuildError in its place.

    batch: most sources a unit; jobs: compilers at once (None: one a core); timeout_s: seconds for
    one unit.  Raises BuildError for what is no source's fault: no compiler, a full disk.
    """
    tools = tools or toolchain()
    cache = cache or kernel_cache()
    jobs = jobs or settings().cores
    keys = [source_key(s, tools) for s in sources]
    done: dict[str, CompiledKernel | BuildError] = {}
    missing: dict[str, Source] = {}
    for key, source in zip(keys, sources):
        if key in done or key in missing:
            continue
        found = cache.get(key)
        if found:
            done[key] = CompiledKernel(source, *found, cached=True)
        else:
            missing[key] = source
    if missing:
        work = _Work(tools, cache, timeout_s, Running(), settings().debug, user_location())
        units = _batches(missing, batch, jobs)
        with ThreadPoolExecutor(min(jobs, len(units)), thread_name_prefix="tensordsl-compile") as pool:
            try:
                for result in pool.map(work.compile, units):
                    done.update(result)
            except BaseException as error:
                work.running.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                if isinstance(error, BuildError):
                    error.location = work.location
                raise
    return [_for(source, done[key]) for key, source in zip(keys, sources)]


def source_key(source: Source, tools: Toolchain) -> str:
    """What a compiled kernel is addressed by: text, flags and compiler, but not the symbol's name."""
    flags = tools.flags(source.target, source.flags)
    host = _host() if any("native" in f for f in flags) else ""
    parts = (str(SCHEMA), tools.id, host, *flags, str(settings().debug), source.renamed("kernel").text)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@lru_cache(maxsize=1)
def _host() -> str:
    """This machine's processor: flags that say "native" mean another thing on the next machine."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine()
    kept = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part", "CPU implementer")
    return "\n".join(line for line in text.splitlines() if line.split("\t")[0].split(":")[0].strip() in kept)


def _batches(missing: dict[str, Source], batch: int, jobs: int) -> list[dict[str, Source]]:
    """Units of sources with equal flags and target, small enough that every core has one."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for key, source in missing.items():
        groups.setdefault((source.target.id, source.flags), []).append(key)
    most = max(1, min(batch, -(-len(missing) // jobs)))
    units: list[dict[str, Source]] = []
    for keys in groups.values():
        count = -(-len(keys) // most)
        units += [{k: missing[k] for k in keys[i::count]} for i in range(count)]
    return units


@dataclass(frozen=True, slots=True)
class _Work:
    """Compiling one unit of sources, by key."""

    tools: Toolchain
    cache: KernelCache
    timeout_s: float
    running: Running
    debug: bool
    location: Location | None  # of the caller: a worker thread has no frames of the user's

    def compile(
        self, sources: dict[str, Source], further: tuple[str, ...] = ()
    ) -> dict[str, CompiledKernel | BuildError]:
        """further: flags after those of the sources."""
        pieces = {key: s.renamed(f"kernel_{key[:16]}") for key, s in sources.items()}
        text = _EXPORTED + unit(pieces.values())
        first = next(iter(sources.values()))
        flags = self.tools.flags(first.target, first.flags)
        options = [*flags, "-shared", *(["-g"] if self.debug else []), *further]
        try:
            with self.cache.work() as folder:
                compile_unit(self.tools, text, folder / "unit.so", options, self.timeout_s, self.running)
                return {
                    key: CompiledKernel(sources[key], self._keep(key, piece, folder / "unit.so"), piece.symbol, False)
                    for key, piece in pieces.items()
                }
        except CompileFailure as failure:
            if len(sources) == 1:
                [key] = sources
                if crashed(failure) and not further:
                    return self.compile(sources, CAUTIOUS)
                return {key: compile_error(failure, text, sources[key].symbol, self.location)}
            guilty = _guilty(pieces, text, failure)
        done: dict[str, CompiledKernel | BuildError] = {}
        for part in _apart(sources, guilty):
            done.update(self.compile(part))
        return done

    def _keep(self, key: str, piece: Source, library: Path) -> Path:
        notes = {
            "compiler": str(self.tools),
            "target": piece.target.id,
            "flags": " ".join(self.tools.flags(piece.target, piece.flags)),
        }
        return self.cache.put(key, library, piece.symbol, notes, piece.text if self.debug else None)


#: What makes a compiler do less where it fails by itself.
CAUTIOUS = ("-O2", "-fno-tree-vectorize", "-fno-tree-slp-vectorize")


def crashed(failure: CompileFailure) -> bool:
    """Is it the compiler that is at fault, not the text?  (gcc 12 -O3 has such cases.)"""
    return "internal compiler error" in failure.output or "PLEASE submit a bug report" in failure.output


def compile_error(failure: CompileFailure, text: str, name: str, location: Location | None = None) -> BuildError:
    """What the compiler said about a source, with the C around it."""
    return BuildError(
        f"{name} does not compile: {failure.message}",
        location=location,
        context=excerpt(text, failure.diagnostics) or failure.output[:2000] or None,
        hint="smaller tiles or less unrolling give a smaller kernel" if "longer than" in failure.message else None,
    )


def _guilty(pieces: dict[str, Source], text: str, failure: CompileFailure) -> set[str]:
    """The sources whose own text holds an error; empty where the compiler does not say."""
    found: set[str] = set()
    for key, piece in pieces.items():
        body = piece.body.rstrip("\n")
        first = text[: text.index(body)].count("\n") + 1
        last = first + body.count("\n")
        if any(first <= d.line <= last for d in failure.diagnostics):
            found.add(key)
    return found


def _apart(sources: dict[str, Source], guilty: Iterable[str]) -> list[dict[str, Source]]:
    """Each guilty source alone and the others together; two halves where nobody is named."""
    guilty = set(guilty)
    keys = list(sources)
    if not guilty:
        middle = len(keys) // 2
        return [{k: sources[k] for k in part} for part in (keys[:middle], keys[middle:])]
    rest = {k: s for k, s in sources.items() if k not in guilty}
    return [*({k: sources[k]} for k in keys if k in guilty), *([rest] if rest else [])]


def _for(source: Source, result: CompiledKernel | BuildError) -> CompiledKernel | BuildError:
    """A result under the very source that asked for it (equal ones were compiled once)."""
    if isinstance(result, BuildError) or result.source is source:
        return result
    return CompiledKernel(source, result.path, result.symbol, result.cached)
