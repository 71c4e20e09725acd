"""C identifiers for the names of a nest: loops, buffers, and the values registers are printed as."""

from __future__ import annotations

import re
from collections.abc import Iterable

_KEYWORDS = frozenset(
    [
        "auto",
        "break",
        "case",
        "char",
        "const",
        "continue",
        "default",
        "do",
        "double",
        "else",
        "enum",
        "extern",
        "float",
        "for",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "register",
        "restrict",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "struct",
        "switch",
        "typedef",
        "union",
        "unsigned",
        "void",
        "volatile",
        "while",
        "asm",
        "typeof",
        "call",
        "context",
        "begin",
        "end",
        "slot",
        "workspace",
        "int32_t",
        "uint32_t",
        "int64_t",
        "uint64_t",
        "linux",
        "unix",
        "main",
    ]
)
#: names the printer makes itself: temporaries (t1), pointers (p1, q1), masks (m1), vector types
_OWN = re.compile(r"td_.*|TD_.*|[tpqm]\d+|[fiuc]\d+x\d+u?")


def identifier(name: str) -> str:
    """A C identifier like a name (``i.o`` -> ``i_o``); not unique by itself."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII)
    if not text or not text[0].isalpha():
        text = f"v{text}"
    return f"{text}_" if text in _KEYWORDS or _OWN.fullmatch(text) else text


class Names:
    """Names of the buffers and loops of a nest -> C identifiers, all different.

    A loop may have the name of a buffer.  ``spread`` buffers also get ``_0_1`` suffixes.
    """

    def __init__(
        self,
        buffers: Iterable[str],
        loops: Iterable[str] = (),
        spread: Iterable[str] = (),
        reserved: Iterable[str] = (),
    ) -> None:
        self._taken = set(reserved)
        self._stems: set[str] = set()
        prefixes = set(spread)
        self._buffers = {name: self._new(name, name in prefixes) for name in buffers}
        self._loops = {name: self._new(name, False) for name in loops}

    def _new(self, name: str, spreads: bool) -> str:
        text = identifier(name)
        while (
            text in self._taken
            or re.sub(r"(_\d+)+$", "", text) in self._stems
            or (spreads and _grows(text, self._taken))
        ):
            text += "_"
        self._taken.add(text)
        if spreads:
            self._stems.add(text)
        return text

    def __getitem__(self, buffer: str) -> str:
        return self._buffers[buffer]

    def loop(self, var: str) -> str:
        return self._loops[var]


def _grows(stem: str, taken: set[str]) -> bool:
    """Would a suffixed form of the stem meet a name already given?"""
    return any(t.startswith(f"{stem}_") for t in taken)
