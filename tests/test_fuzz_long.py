"""A round of fuzzing (see fuzz.py, which goes on without an end and with seeds of your choice)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fuzz

pytestmark = [pytest.mark.slow, pytest.mark.compiler]
SEED = 2_000_000
ROUNDS = 8


def test_many_seeds(tmp_path: Path) -> None:
    wrong, count = fuzz.fuzz(1000, SEED, tmp_path, rounds=ROUNDS)
    assert set(count) == set(fuzz.KINDS)
    for (kind, bad), text in wrong.items():
        raise AssertionError(f"python -m tests.fuzz --kinds {kind} --seed {bad} --seconds 1\n{text}")


def test_failures_are_kept_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seed: int) -> None:
        if seed == 3:
            raise fuzz.Wrong("three")

    monkeypatch.setitem(fuzz.CHECKS, "program", broken)
    wrong, count = fuzz.fuzz(0.001, 0, tmp_path, ["program"], batch=5)
    assert wrong == {("program", 3): "three"} and count["program"] == 5
    assert fuzz.replay(tmp_path / "program-3.json") == "three"
    monkeypatch.setitem(fuzz.CHECKS, "program", lambda seed: None)
    assert fuzz.main(["--replay", str(tmp_path / "program-3.json")]) == 0
