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
    """Name of the nest -> C identifier, unique; ``spread`` names also get ``_0_1`` suffixes."""

    def __init__(self, names: Iterable[str], spread: Iterable[str] = (), reserved: Iterable[str] = ()) -> None:
        self._table: dict[str, str] = {}
        prefixes = set(spread)
        taken = set(reserved)
        stems: set[str] = set()
        for name in names:
            text = identifier(name)
            while text in taken or re.sub(r"(_\d+)+$", "", text) in stems or (name in prefixes and _grows(text, taken)):
                text += "_"
            taken.add(text)
            if name in prefixes:
                stems.add(text)
            self._table[name] = text

    def __getitem__(self, name: str) -> str:
        return self._table[name]


def _grows(stem: str, taken: set[str]) -> bool:
    """Would a suffixed form of the stem meet a name already given?"""
    return any(t.startswith(f"{stem}_") for t in taken)
