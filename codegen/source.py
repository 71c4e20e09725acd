"""Source: one printed kernel, as text without headers that any gcc or clang compiles.

A source is a piece of a translation unit: shared preludes (types and helpers, each a text that is
emitted once) and the kernel's own body.  Many sources go into one unit, so every file-scope name
of a body is the kernel's symbol or starts with it (``gemm_kernel``, ``gemm_kernel_task_0``), and
every name of a prelude starts with ``td_``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tensordsl.errors import BuildError

if TYPE_CHECKING:
    from tensordsl.schedules.loopnest import Buffer

    from tensordsl.targets import Target

#: The first prelude of every C source: the integers of the interface, and who may see a kernel.
#: A kernel is defined as ``TD_KERNEL int32_t SYMBOL(const td_call *call, ...)``, so that the same
#: text is a function of its own, an exported one, or a static one inside a library.
C_TYPES = """\
#ifndef TD_KERNEL
#define TD_KERNEL
#endif
typedef __INT32_TYPE__ int32_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT64_TYPE__ uint64_t;
"""

#: The second prelude: what a caller may pass to a kernel (NULL: serial, no workspace).
#: A kernel returns 3 where ``size`` is less than that of the struct, 4 where a pointer it needs is NULL,
#: and 2 where it needs more workspace than given.
C_CALL = """\
typedef struct td_call {
    uint32_t size;
    uint32_t reserved;
    void *workspace;
    uint64_t workspace_bytes;
    int32_t (*parallel_for)(void *pool, void (*task)(void *context, int64_t begin, int64_t end),
                            void *context, int64_t count);
    void *pool;
    void *stream;
} td_call;
"""

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One printed kernel.

    prelude: texts shared between sources, in order; body: the kernel's own text; symbol: its
    function.  parameters: the caller's buffers in calling order; workspace_bytes: scratch the caller
    provides, alignment slack included.  flags: compiler flags beyond those of the target
    (such as ``-ffp-contract=off``).
    """

    symbol: str
    prelude: tuple[str, ...]
    body: str
    parameters: tuple[Buffer, ...]
    workspace_bytes: int
    target: Target
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _IDENTIFIER.fullmatch(self.symbol):
            raise BuildError(f"{self.symbol!r} is not a name in C", hint="use letters, digits and underscores")

    @property
    def text(self) -> str:
        """A whole translation unit with just this kernel."""
        return unit([self])

    def renamed(self, symbol: str) -> Source:
        """The same kernel under another symbol (its further file-scope names follow)."""
        if symbol == self.symbol:
            return self
        return replace(self, symbol=symbol, body=_prefix(self.symbol).sub(symbol, self.body))

    def __str__(self) -> str:
        return self.text


def unit(sources: Iterable[Source]) -> str:
    """One translation unit: every prelude once, then the bodies in order."""
    sources = list(sources)
    preludes = dict.fromkeys(p for s in sources for p in s.prelude)
    return "\n".join([*(p.rstrip("\n") + "\n" for p in preludes), *(s.body.rstrip("\n") + "\n" for s in sources)])


def _prefix(symbol: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9_]){re.escape(symbol)}(?=_|\b)")
