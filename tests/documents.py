"""Documents that are run: the code of a Markdown file, what it prints, the text generated in it.

A block is fenced, or indented by four spaces.  Python blocks run in order, in one namespace a file;
the block after one that prints is its output.  Lines of other blocks that start with ``tensordsl`` are
commands.  In an output a line ``...`` stands for one or more lines, and `` ... `` for any text of a line.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import shlex
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

GAP = "..."


@dataclass(frozen=True, slots=True)
class Block:
    """language: of a fenced block ("" without one), "indented" otherwise.  line: of its first line, from 1.
    first, last: the lines of its text in the document (from 0, past the end)."""

    language: str
    text: str
    first: int
    last: int

    @property
    def line(self) -> int:
        return self.first + 1

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of each ``tensordsl`` command, comments dropped."""
        lines = [] if self.language in ("python", "text", "c") else self.text.splitlines()
        return [shlex.split(x, comments=True)[1:] for x in lines if x.startswith("tensordsl ")]


def blocks(document: str) -> list[Block]:
    lines = document.splitlines()
    found: list[Block] = []
    n = 0
    while n < len(lines):
        fence = re.match(r"```(\w*)$", lines[n])
        if fence:
            end = next(k for k in range(n + 1, len(lines)) if lines[k] == "```")
            found.append(Block(fence.group(1), "\n".join(lines[n + 1 : end]), n + 1, end))
            n = end + 1
        elif lines[n].startswith("    ") and (n == 0 or not lines[n - 1].strip()):
            end = n
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            while not lines[end - 1].strip():
                end -= 1
            found.append(Block("indented", "\n".join(x[4:] for x in lines[n:end]), n, end))
            n = end
        else:
            n += 1
    return found


@dataclass(frozen=True, slots=True)
class Run:
    """A Python block that printed something, with what it printed and the block that shows it."""

    code: Block
    printed: str
    shown: Block | None


def run(document: str, file: str) -> Iterator[Run]:
    """Run the Python blocks of a document, each as a file ``example.py``, whose lines errors name.

    Raises AssertionError with the line of the document for whatever a block raises.
    """
    scope: dict[str, Any] = {"__name__": "example"}
    every = blocks(document)
    for n, block in enumerate(every):
        if block.language != "python":
            continue
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output):
                exec(compile(block.text, "example.py", "exec"), scope)
        except Exception as error:
            lines = [f.lineno or 0 for f in traceback.extract_tb(error.__traceback__) if f.filename == "example.py"]
            line = block.first + (lines[-1] if lines else 1)
            raise AssertionError(f"{file}:{line}: {type(error).__name__}: {error}") from error
        follower = every[n + 1] if n + 1 < len(every) else None
        shown = follower if follower is not None and follower.language in ("text", "c", "indented") else None
        if output.getvalue():
            yield Run(block, output.getvalue(), shown)


def same(shown: str, printed: str) -> bool:
    """Is the text what was printed, up to gaps and trailing blanks?"""
    pattern = r"\n".join(
        r"(?:.*\n)*?.*" if x.strip() == GAP else re.escape(x.rstrip()).replace(re.escape(GAP), ".*")
        for x in shown.rstrip().splitlines()
    )
    text = "\n".join(x.rstrip() for x in printed.rstrip().splitlines())
    return re.fullmatch(pattern, text) is not None


def updated(document: str, runs: list[Run]) -> str:
    """The document with every output that differs replaced by the whole of what was printed."""
    lines = document.splitlines()
    for r in reversed(runs):
        if r.shown is not None and not same(r.shown.text, r.printed):
            indent = "    " if r.shown.language == "indented" else ""
            text = [(indent + x).rstrip() for x in r.printed.rstrip().splitlines()]
            lines[r.shown.first : r.shown.last] = text
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- generated text

#: Everything after this line of docs/scheduling.md comes from the docstrings of the primitives.
MARK = "<!-- From here on generated from docstrings: pytest --update-golden tests/test_docs.py -->"


def with_primitives(document: str) -> str:
    """docs/scheduling.md with its reference written anew."""
    return document.partition(MARK)[0] + f"{MARK}\n\n{primitives()}"


def primitives() -> str:
    """The reference of all primitives, from their signatures and docstrings."""
    from tensordsl.schedules import schedule

    schedule.load_primitives()
    return "\n".join(_entry(name, schedule.PRIMITIVES[name]) for name in sorted(schedule.PRIMITIVES))


def _entry(name: str, primitive: Any) -> str:
    parameters = list(inspect.signature(primitive).parameters.values())[1:]
    called = [_parameter(p) for p in parameters]
    named = next((n for n, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    if named is not None:
        called.insert(named, "*")
    return f"### {name}\n\n    {name}({', '.join(called)})\n\n{_listed(inspect.getdoc(primitive) or '')}\n"


def _parameter(p: inspect.Parameter) -> str:
    star = "*" if p.kind is p.VAR_POSITIONAL else ""
    default = "" if p.default is p.empty else f" = {p.default!r}"
    return f"{star}{p.name}: {p.annotation}{default}"


def _listed(text: str) -> str:
    """A docstring with its last fields as a list, each item on one line."""
    parts = re.split(r"^(Requires|Rewrite|Raises): ", text, flags=re.M)
    fields = [f"- {name}: {' '.join(body.split())}" for name, body in zip(parts[1::2], parts[2::2])]
    return "\n".join([*parts[0].splitlines(), *fields])
