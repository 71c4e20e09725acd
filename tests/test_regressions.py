"""Failures that fuzzing found, kept as files: each is right now.  And the parts that keep and replay them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tensordsl as td
from tests import fuzz, program_json
from tests.random_programs import WHOLE, random_program, small_integers, smooth_values

pytestmark = pytest.mark.compiler
FOLDER = Path(__file__).parent / "regressions"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda p: p.stem)
def test_a_failure_of_fuzzing_is_right_now(path: Path) -> None:
    assert fuzz.replay(path) is None


@pytest.mark.parametrize("seed", [*range(40), *range(WHOLE, WHOLE + 60)])
def test_programs_survive_json(seed: int) -> None:
    for options in fuzz.OPTIONS:
        program = random_program(seed, **options)
        try:
            kept = program_json.to_json(program)
        except ValueError:  # such as a reducer of one's own: the seed alone is kept
            continue
        assert str(program_json.from_json(json.loads(json.dumps(kept)))) == str(program)


def test_a_failure_keeps_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of the file is run, not what the generator makes of the seed by then."""
    seen: list[str] = []

    def broken(seed: int) -> None:
        seen.append(str(random_program(seed)))
        raise fuzz.Wrong("no")

    monkeypatch.setitem(fuzz.CHECKS, "program", broken)
    fuzz.keep(tmp_path, "program", WHOLE + 7, "no")
    path = tmp_path / f"program-{WHOLE + 7}.json"
    other = program_json.to_json(random_program(WHOLE + 3))
    data = json.loads(path.read_text())
    data["programs"] = [[o, other] for o, _ in data["programs"]]
    path.write_text(json.dumps(data))
    assert fuzz.replay(path) == "no"
    assert seen == [str(random_program(WHOLE + 3))] != [str(random_program(WHOLE + 7))]


def test_the_nightly_command_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def check(seed: int) -> None:
        seeds.append(seed)
        if seed == WHOLE + 3:
            raise fuzz.Wrong("three")

    monkeypatch.setattr(fuzz, "KINDS", ("program",))
    monkeypatch.setattr(fuzz.fuzz, "__defaults__", (None, ("program",), 12, None))
    monkeypatch.setitem(fuzz.CHECKS, "program", check)
    progress = tmp_path / "progress.json"
    assert fuzz.nightly(20, 1e-9, progress, tmp_path) == (0, 0)
    assert fuzz.nightly(5, 60, progress, tmp_path) == (5, 1)
    assert fuzz.nightly(20, 60, progress, tmp_path) == (20, 1)
    assert seeds == list(range(WHOLE, WHOLE + 20))
    assert [p.name for p in tmp_path.glob("program-*.json")] == [f"program-{WHOLE + 3}.json"]
    arguments = ["--programs", "20", "--progress", str(progress), "--out", str(tmp_path)]
    assert fuzz.main(arguments) == 1, "a failure is kept"


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_programs_of_every_node_kind(kind: str) -> None:
    wrong = fuzz.failures(kind, range(WHOLE + 100, WHOLE + (112 if kind in fuzz.COMPILED else 120)))
    for seed, text in wrong.items():
        raise AssertionError(f"python -m tests.fuzz --kinds {kind} --seed {seed} --seconds 1\n{text}")


def test_smooth_programs_have_bounds() -> None:
    for seed in range(WHOLE, WHOLE + 30):
        program = random_program(seed, smooth=True)
        bounds = td.error_bound(program, smooth_values(program, seed))
        assert all((b >= 0).all() for b in bounds.values())
        assert set(bounds) == set(td.interpret(program, small_integers(program, seed)))
