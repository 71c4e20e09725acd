"""The house rules of the source: who imports whom, how long files are, what `import tensordsl` loads."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tensordsl as td

ROOT = Path(__file__).parent.parent
#: One way only: a folder imports from itself and from those before it.
LAYERS = ("tensordsl", "schedules", "codegen", "autotune")
#: Lines: a longer file holds two ideas.
LONGEST = 600
#: Loaded on first use only.
HEAVY = ("numpy", "islpy", "sympy", "xgboost", "scipy", "rich", "click", "msgspec", "archspec", "ml_dtypes", "torch")
#: The face re-exports names of every layer, lazily.
FACE = ROOT / "tensordsl" / "__init__.py"


def sources(*folders: str) -> list[Path]:
    return sorted(p for f in folders for p in (ROOT / f).rglob("*.py") if "__pycache__" not in p.parts)


CODE = sources(*LAYERS)
EVERYWHERE = CODE + sources("tests", "examples", "benchmarks", "docs")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the full name of every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def layer(module: str) -> int | None:
    """The position of a module of ours in `LAYERS`."""
    parts = module.split(".")
    if parts[0] != "tensordsl":
        return None
    return LAYERS.index(parts[1]) if len(parts) > 1 and parts[1] in LAYERS else 0


def test_imports_run_one_way() -> None:
    wrong = []
    for path in CODE:
        own = LAYERS.index(path.relative_to(ROOT).parts[0])
        for line, module in imports(path):
            to = layer(module)
            if to is not None and to > own and path != FACE:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {LAYERS[own]} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_imports_go_through_the_root() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in EVERYWHERE
        for line, module in imports(path)
        if module.split(".")[0] in LAYERS[1:]
    ]
    assert not wrong, "\n".join(wrong)


def test_isl_is_known_to_one_folder() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in CODE
        for line, module in imports(path)
        if module.split(".")[0] == "islpy" and path.parent != ROOT / "schedules" / "polyhedral"
    ]
    assert not wrong, "\n".join(wrong)


def test_code_does_not_import_tests() -> None:
    outside = ("tests", "examples", "benchmarks", "pytest", "hypothesis")
    wrong = [f"{p}:{line}: {m}" for p in CODE for line, m in imports(p) if m.split(".")[0] in outside]
    assert not wrong, "\n".join(wrong)


def test_records_are_data() -> None:
    """Nothing is unpickled: a log from elsewhere must not run code."""
    wrong = [
        f"{p}:{line}" for p in CODE for line, m in imports(p) if m.split(".")[0] in ("pickle", "marshal", "shelve")
    ]
    assert not wrong, "\n".join(wrong)


def test_files_hold_one_idea() -> None:
    long = [f"{p.relative_to(ROOT)}: {n} lines" for p in EVERYWHERE if (n := p.read_text().count("\n")) > LONGEST]
    assert not long, "\n".join(long)
    vague = [p for p in EVERYWHERE if p.stem in ("utils", "util", "common", "helpers", "helper", "misc")]
    assert not vague, vague


def test_modules_say_what_they_are() -> None:
    silent = [p for p in EVERYWHERE if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent, "\n".join(map(str, silent))


def test_nothing_is_left_for_later() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error")
    wrong = [
        f"{p.relative_to(ROOT)}:{k}: {line.strip()}"
        for p in EVERYWHERE
        for k, line in enumerate(p.read_text().splitlines(), 1)
        if any(m in line for m in marks)
    ]
    assert not wrong, "\n".join(wrong)


# ---------------------------------------------------------------- what importing costs, what it offers


def test_importing_loads_nothing_heavy() -> None:
    code = f"import sys, tensordsl; print(*[m for m in {HEAVY} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not loaded, f"import tensordsl loads {loaded}"


def test_defining_a_program_loads_no_prover() -> None:
    code = """
import sys
import tensordsl as td
x = td.placeholder((4,), name="x")
td.Program([x], [td.compute((4,), lambda i: x[i] * 2.0, name="y")])
print(*[m for m in ("islpy", "sympy", "xgboost", "torch") if m in sys.modules])
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not loaded, f"defining a program loads {loaded}"


@pytest.mark.parametrize("name", sorted(td._HOMES))
def test_public_names_exist_and_are_documented(name: str) -> None:
    value = getattr(td, name)
    assert name in dir(td)
    text = inspect.getdoc(value)
    assert text and len(text) > 10, f"td.{name} has no docstring"


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        td.no_such_name  # noqa: B018
    assert not hasattr(td, "__wrapped__")


def test_primitives_are_documented() -> None:
    """One sentence, then what is required, the rewrite and what is raised."""
    from tensordsl.schedules.schedule import PRIMITIVES, load_primitives

    load_primitives()
    for name, fn in PRIMITIVES.items():
        text = inspect.getdoc(fn) or ""
        assert text.split("\n")[0].rstrip(), name
        for part in ("Requires:", "Rewrite:", "Raises:"):
            assert part in text, f"{name}: its docstring has no {part}"
