"""A minute of fuzzing with fresh seeds (see fuzz.py); a failure says how to run its case again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests import fuzz

pytestmark = [pytest.mark.slow, pytest.mark.compiler]
SECONDS = 60


def test_fresh_seeds(tmp_path: Path) -> None:
    """Another seed each day: what one run finds, the next one of that day finds as well."""
    seed = 1_000_000 + 10_000 * (int(time.time()) // 86_400 % 10_000)
    wrong, count = fuzz.fuzz(SECONDS, seed, tmp_path)
    assert set(count) == set(fuzz.KINDS)
    for (kind, bad), text in wrong.items():
        raise AssertionError(f"python -m tests.fuzz --kinds {kind} --seed {bad} --seconds 1\n{text}")


def test_failures_are_kept_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seed: int) -> None:
        if seed == 3:
            raise fuzz.Wrong("three")

    monkeypatch.setitem(fuzz.CHECKS, "program", broken)
    wrong, count = fuzz.fuzz(0.0, 0, tmp_path, ["program"], batch=5)
    assert wrong == {("program", 3): "three"} and count["program"] == 5
    assert fuzz.replay(tmp_path / "program-3.json") == "three"
    monkeypatch.setitem(fuzz.CHECKS, "program", lambda seed: None)
    assert fuzz.main(["--replay", str(tmp_path / "program-3.json")]) == 0
