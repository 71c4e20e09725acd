"""Targets: ids, hints, pickling, and what the native machine says about itself."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tensordsl import dtypes
from tensordsl.errors import BuildError
from tensordsl.targets import KNOWN, target
from tensordsl.targets.avx2 import AVX2
from tensordsl.targets.avx512 import AVX512, FMA_PER_CYCLE
from tensordsl.targets.native import _microarchitecture, cache_bytes, native, processor_facts


def test_lanes_follow_the_width_of_the_element() -> None:
    avx512 = target("x86_64-v4-avx512")
    assert [avx512.lanes(t) for t in (dtypes.float32, dtypes.float64, dtypes.int8)] == [16, 8, 64]
    assert target("avx2").lanes(dtypes.float32) == 8
    assert target("portable").lanes(dtypes.float64) == 2


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_ids_and_isa_names_lead_to_the_same_target(name: str) -> None:
    t = target(name)
    assert target(t.isa) is t and target(t) is t
    assert all(row.gcc or row.clang for row in t.instructions.values())


def test_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(BuildError) as error:
        target("x86_64-v4-avx51")
    assert "did you mean 'x86_64-v4-avx512'?" in str(error.value)
    assert "aarch64-neon" in str(error.value)


@pytest.mark.parametrize("t", [*KNOWN.values(), native()], ids=lambda t: t.isa)
def test_pickled_targets_keep_facts_and_instructions(t: object) -> None:
    copy = pickle.loads(pickle.dumps(t))
    assert copy == t and hash(copy) == hash(t)
    assert copy.instructions == t.instructions  # type: ignore[attr-defined]


def test_native_is_a_known_instruction_set_with_real_caches() -> None:
    t = target("native")
    assert t is native() and t.id in KNOWN
    assert t.cores >= 1 and t.caches and list(t.caches) == sorted(t.caches)


def test_facts_are_read_from_the_files_of_the_system(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    first = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nflags\t\t: avx2 fma\n"
    info.write_text(first + "\nprocessor : 1\n")
    facts = processor_facts(str(info))
    assert facts["vendor_id"] == "AuthenticAMD" and facts["cpu family"] == "25" and facts["flags"] == "avx2 fma"
    assert processor_facts(str(tmp_path / "none")) == {}
    caches = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M")]
    for n, (level, kind, size) in enumerate(caches):
        entry = tmp_path / f"index{n}"
        entry.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (entry / name).write_text(value + "\n")
    assert cache_bytes(str(tmp_path)) == (48 << 10, 2 << 20)
    assert cache_bytes(str(tmp_path / "none")) == ()


def test_a_hidden_processor_is_known_by_its_flags() -> None:
    server = {"avx512f", "amx_tile", "avx512_fp16"}
    assert _microarchitecture(AVX512, "GenuineIntel", 6, server) == "sapphirerapids"
    assert FMA_PER_CYCLE["sapphirerapids"] == 2
    assert _microarchitecture(AVX2, "GenuineIntel", 6, server) != "sapphirerapids"
