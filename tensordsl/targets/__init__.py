"""Targets: what a machine offers, by id.  ``target("native")`` is resolved at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Union

from tensordsl.errors import BuildError, closest
from tensordsl.targets.avx2 import AVX2
from tensordsl.targets.avx512 import AVX512
from tensordsl.targets.machine import Instruction, Target
from tensordsl.targets.neon import NEON
from tensordsl.targets.portable import PORTABLE

__all__ = ["KNOWN", "Instruction", "Target", "restore", "target"]

#: id -> the target with typical caches and cores; ``native`` fills in the real ones
KNOWN: dict[str, Target] = {t.id: t for t in (AVX512, AVX2, NEON, PORTABLE)}


def target(name: Union[str, Target] = "native") -> Target:
    """A target by id, by instruction set (``"avx2"``), or ``"native"``.  Raises BuildError for others."""
    if isinstance(name, Target):
        return name
    if name == "native":
        from tensordsl.targets.native import native

        return native()
    if name in KNOWN:
        return KNOWN[name]
    for known in KNOWN.values():
        if known.isa == name:
            return known
    like = closest(str(name).lower(), [*KNOWN, "native", *(t.isa for t in KNOWN.values())])
    raise BuildError(
        f"unknown target {name!r}",
        legal=["native", *KNOWN],
        hint=f"did you mean {like!r}?" if like else None,
    )


def restore(facts: dict[str, Any]) -> Target:
    """A target from its fields without the instruction table (what pickles and records keep)."""
    return replace(target(facts["isa"]), **facts)
