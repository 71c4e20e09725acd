"""Small C programs of the tuner itself (timing loops, probes of the machine), compiled once and kept."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path

from tensordsl.codegen.cache import kernel_cache
from tensordsl.codegen.toolchain import CompileFailure, Toolchain, compile_unit, toolchain

from tensordsl.errors import BuildError, InternalError
from tensordsl.targets import Target


def shared_object(text: str, target: Target, flags: Sequence[str] = (), tools: Toolchain | None = None) -> Path:
    """The shared object of a text that is ours, from the cache or compiled now.  Raises BuildError."""
    tools = tools or toolchain()
    every = [*tools.flags(target, flags), "-shared"]
    key = hashlib.sha256("\0".join(["tuner", tools.id, *every, text]).encode()).hexdigest()
    cache = kernel_cache()
    found = cache.get(key)
    if found:
        return found[0]
    with cache.work() as folder:
        built = folder / "tuner.so"
        try:
            compile_unit(tools, text, built, every)
        except CompileFailure as failure:
            if failure.diagnostics:
                raise InternalError(f"a C text of the tuner does not compile: {failure.message}") from None
            raise BuildError(f"the C compiler failed: {failure.message}") from None
        return cache.put(key, built, "tuner", {"compiler": str(tools), "use": "tuner"})


def load(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))
