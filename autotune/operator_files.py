"""Programs in Python files, as the command line names them: ``FILE`` or ``FILE:NAME``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from tensordsl.errors import Location, ProgramError, closest
from tensordsl.operators import Operator, load_module
from tensordsl.program import Program


def programs(spec: str, sizes: Mapping[str, int] | None = None) -> dict[str, Program]:
    """The Programs of a file by their module-level names; of one name for ``FILE:NAME``.

    sizes: dimensions that bind an operator, or bind a Program's operator anew.  Raises ProgramError
    for a missing file or name, a file that raises, and sizes that do not fit.
    """
    path, names = split(spec)
    module = _run(path)
    found = {n: v for n, v in vars(module).items() if not n.startswith("_")}
    bound = {n: v for n, v in found.items() if isinstance(v, Program)}
    operators = {n: v for n, v in found.items() if isinstance(v, Operator)}
    if names:
        chosen = {}
        for name in names:
            chosen[name] = _named(name, bound, operators, sizes or {}, path)
        return chosen
    if sizes:
        bindable = {n: _bind(v, sizes, n) for n, v in operators.items() if set(sizes) == set(v.dims)}
        if bindable:
            return bindable
        raise ProgramError(
            f"no operator of {path} has exactly the dimensions {', '.join(sorted(sizes))}",
            location=Location(str(path), 1),
            legal=[f"{n}({', '.join(v.dims)})" for n, v in operators.items()] or "there is no operator",
            hint=f"name the operator: {path}:NAME",
        )
    if not bound:
        raise ProgramError(
            f"{path} has no Program at module level",
            location=Location(str(path), 1),
            legal=[f"{n}({', '.join(v.dims)}), not bound" for n, v in operators.items()] or None,
            hint="bind an operator: matmul512 = matmul.bind(M=512, K=512, N=512), or give --set M=512 ...",
        )
    # a second name for a Program is no second Program
    return {n: v for n, v in bound.items() if next(m for m, w in bound.items() if w is v) == n}


def split(spec: str) -> tuple[Path, list[str]]:
    """FILE:NAME,NAME or FILE:NAME:NAME; a drive letter is part of the file."""
    head, *names = spec.split(":")
    if len(head) == 1 and names and names[0][:1] in ("\\", "/"):
        head, names = f"{head}:{names[0]}", names[1:]
    found = [n for part in names for n in part.split(",")]
    if not head or not all(found):
        what = "no file before" if not head else "no name after"
        raise ProgramError(f"{spec!r} has {what} the colon" if spec else "the name of the file is empty",
                           hint="give FILE.py, or FILE.py:NAME")  # fmt: skip
    return Path(head), found


def _run(path: Path) -> ModuleType:
    if path.is_dir():
        raise ProgramError(f"{path} is a folder", hint="give a Python file: FILE.py or FILE.py:NAME")
    if not path.is_file():
        near = closest(path.name, [p.name for p in path.parent.glob("*.py")]) if path.parent.is_dir() else None
        raise ProgramError(
            f"there is no file {path}",
            hint=f"did you mean {path.with_name(near)}?" if near else "give a Python file: FILE.py or FILE.py:NAME",
        )
    return load_module(path)


def _named(
    name: str, bound: Mapping[str, Program], operators: Mapping[str, Operator], sizes: Mapping[str, int], path: Path
) -> Program:
    if name in bound:
        program = bound[name]
        if not sizes:
            return program
        operator = next((o for o in operators.values() if o.name == program.name), None)
        if operator is None:
            raise ProgramError(
                f"{name} is a Program of fixed sizes: --set does not apply to it", location=Location(str(path), 1),
                hint="--set binds operators (functions declared with @td.operator)",
            )  # fmt: skip
        return _bind(operator, {**program.dims, **sizes}, name)
    if name in operators:
        return _bind(operators[name], sizes, name)
    known = [*bound, *operators]
    like = closest(name, known)
    raise ProgramError(
        f"{path} has no Program or operator {name!r}", location=Location(str(path), 1), legal=known or "none",
        hint=f"did you mean {like!r}?" if like else None,
    )  # fmt: skip


def _bind(operator: Operator, sizes: Mapping[str, int], name: str) -> Program:
    missing = [d for d in operator.dims if d not in sizes]
    if missing:
        raise ProgramError(
            f"{name} has no size for {', '.join(missing)}",
            hint="give them: " + " ".join(f"--set {d}=128" for d in operator.dims),
        )
    return operator.bind(**sizes)


def parse_sizes(items: Sequence[str]) -> dict[str, int]:
    """``M=512`` -> {"M": 512}.  Raises ProgramError for anything else."""
    sizes: dict[str, int] = {}
    for item in items:
        for part in item.split(","):
            name, equals, value = part.partition("=")
            name, value = name.strip(), value.strip()
            if not (equals and name.isidentifier() and value.isascii() and value.isdigit() and len(value) < 30):
                raise ProgramError(f"--set {item} is not NAME=SIZE", hint="such as --set M=512")
            if sizes.setdefault(name, int(value)) != int(value):
                raise ProgramError(f"--set gives {name} two sizes: {sizes[name]} and {int(value)}")
    return sizes
