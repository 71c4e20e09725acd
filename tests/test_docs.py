"""The README and the documentation: their Python runs, prints what they show, and their commands work."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import documents
import pytest
from tensordsl.autotune.cli import main
from tensordsl.schedules import schedule

import tensordsl as td
from tensordsl import targets

pytestmark = pytest.mark.compiler

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Commands that need no minutes: the others are only parsed.
QUICK = ("show", "log", "verify")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the examples; what a document registers is gone after it."""
    schedule.load_primitives()
    monkeypatch.setattr(schedule, "PRIMITIVES", dict(schedule.PRIMITIVES))
    monkeypatch.setattr(targets, "KNOWN", dict(targets.KNOWN))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TD_LOG_DIR", "tuning_logs")
    monkeypatch.setenv("TD_QUIET", "1")
    return tmp_path


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_outputs_are_what_is_printed(path: Path, request: pytest.FixtureRequest) -> None:
    document = path.read_text()
    runs = list(documents.run(document, path.name))
    if request.config.getoption("--update-golden"):
        path.write_text(documents.updated(document, runs))
        return
    for r in runs:
        where = f"{path.name}:{r.code.line}"
        assert r.shown is not None, f"{where}: what the code prints is not shown after it:\n{r.printed}"
        if not documents.same(r.shown.text, r.printed):
            pytest.fail(f"{where}: the code prints\n{r.printed}\nand the document shows\n{r.shown.text}")


def commands() -> list[tuple[str, list[str]]]:
    return [(p.name, c) for p in FILES for b in documents.blocks(p.read_text()) for c in b.commands]


def test_commands(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    """Quick commands run; of the others the options and the files are checked."""
    x = td.placeholder((8, 8), name="x")
    td.tune(td.Program([x], [x * 2], "double"), trials=1)  # so that there is a log to look at
    done: dict[tuple[str, ...], str] = {}
    for document, arguments in commands():
        if tuple(arguments) in done:
            continue
        quick = arguments[0] in QUICK
        with pytest.raises(SystemExit) as ended:
            main(arguments if quick else [*arguments, "--help"])
        said = capsys.readouterr()
        done[tuple(arguments)] = document
        assert ended.value.code == 0, f"{document}: tensordsl {' '.join(arguments)}\n{said.out}{said.err}"
        for name in arguments:
            if ".py" in name:
                assert (place / name.partition(":")[0]).is_file(), f"{document}: there is no {name}"
    assert {d for d in done.values()} >= {"README.md", "tuning.md"}


def test_reference_of_primitives_is_up_to_date(request: pytest.FixtureRequest) -> None:
    path = ROOT / "docs" / "scheduling.md"
    fresh = documents.with_primitives(path.read_text())
    if request.config.getoption("--update-golden"):
        path.write_text(fresh)
    assert path.read_text() == fresh, "pytest --update-golden tests/test_docs.py writes it anew"
    table = re.findall(r"^\| .*", fresh.partition(documents.MARK)[0], re.M)
    named = re.findall(r"`(\w+)`", "\n".join(table))
    assert sorted(named) == sorted(schedule.PRIMITIVES), "the table of all primitives"


def test_links_lead_somewhere() -> None:
    for path in FILES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_files_that_are_named_exist() -> None:
    """Paths in backticks that look like files of the repository."""
    folders = "tensordsl|schedules|codegen|autotune|tests|benchmarks|examples|docs"
    for path in FILES:
        for name in re.findall(rf"`((?:{folders})/[\w./]+)`", path.read_text()):
            assert os.path.exists(ROOT / name), f"{path.name}: there is no {name}"


# ---------------------------------------------------------------- the reader of documents itself

DOCUMENT = """\
# Title

```python
for n in range(12):
    print("line", n)
```

    line 0
    ...
    line 11

Text, then a command:

```sh
tensordsl show a.py:b --nest   # a comment
make test
```
"""


def test_blocks_and_gaps() -> None:
    found = documents.blocks(DOCUMENT)
    assert [(b.language, b.line) for b in found] == [("python", 4), ("indented", 8), ("sh", 15)]
    assert [c for b in found for c in b.commands] == [["show", "a.py:b", "--nest"]]
    [run] = documents.run(DOCUMENT, "x.md")
    assert run.shown is found[1] or run.shown == found[1]
    assert documents.same(run.shown.text, run.printed) and documents.updated(DOCUMENT, [run]) == DOCUMENT
    wrong = DOCUMENT.replace("line 11\n", "line 12\n")
    [run] = documents.run(wrong, "x.md")
    assert run.shown is not None and not documents.same(run.shown.text, run.printed)
    assert documents.updated(wrong, [run]) == DOCUMENT.replace(
        "    ...\n", "".join(f"    line {n}\n" for n in range(1, 11))
    )


@pytest.mark.parametrize(
    "shown,printed,equal",
    [
        ("a\n...\nz", "a\nb\nc\nz", True),
        ("a\n...\nz", "a\nz", False),
        ("a ... z", "a b c z", True),
        ("a ... z", "a\nz", False),
        ("a", "a  \n", True),
        ("a", "a\nb", False),
        ("a.c", "abc", False),
        ("a\n...", "a\nb\nc", True),
    ],
)
def test_what_a_gap_stands_for(shown: str, printed: str, equal: bool) -> None:
    assert documents.same(shown, printed) is equal


def test_errors_name_the_line_of_the_document() -> None:
    with pytest.raises(AssertionError, match=r"^x\.md:5: ZeroDivisionError"):
        list(documents.run("text\n\n```python\nx = 1\n1 / 0\n```\n", "x.md"))
