"""Small C programs of the tuner itself (timing loops, probes of the machine), compiled once and kept."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path

from tensordsl.codegen.cache import kernel_cache
from tensordsl.codegen.toolchain import CompileFailure, Toolchain, compile_unit, excerpt, toolchain

from tensordsl.errors import BuildError
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
            raise BuildError(
                f"the C compiler failed on a C text of the tuner: {failure.message}",
                context=excerpt(text, failure.diagnostics) or None,
                hint="if this compiler works otherwise, please report this with the text above",
            ) from None
        return cache.put(key, built, "tuner", {"compiler": str(tools), "use": "tuner"})


def load(path: Path) -> ctypes.CDLL:
    """Raises BuildError where the system cannot load it."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(
            f"what {toolchain()} compiled cannot be loaded: {error}",
            hint="if the cache was cleared meanwhile, try again",
        ) from None
