"""Compiling: batches, the guilty source alone, the cache, and what can go wrong outside."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from handwritten import axpy_source
from tensordsl.codegen import cache as cache_module
from tensordsl.codegen import toolchain as toolchain_module
from tensordsl.codegen.cache import KernelCache, kernel_cache
from tensordsl.codegen.compile import CompiledKernel, compile_source, compile_sources, source_key
from tensordsl.codegen.source import unit
from tensordsl.codegen.toolchain import Toolchain, toolchain

from tensordsl.errors import BuildError
from tensordsl.settings import Settings, settings


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fake_compiler(tmp_path: Path, script: str) -> Toolchain:
    """A compiler that runs a shell script first, with the real one as $REAL."""
    real = toolchain()
    path = tmp_path / "cc"
    path.write_text(f"#!/bin/sh\nREAL={real.command[0]}\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Toolchain((str(path),), "gcc", "0.0.0", real.machine)


def entries(root: Path) -> list[Path]:
    return sorted(root.glob("??/*"))


def test_many_sources_of_one_name_share_units() -> None:
    sources = [axpy_source(n) for n in range(1, 24)]
    results = compile_sources(sources)
    assert all(isinstance(r, CompiledKernel) and not r.cached for r in results)
    assert len({r.symbol for r in results}) == 23  # type: ignore[union-attr]
    assert [r.source for r in results] == sources  # type: ignore[union-attr]
    inodes = {r.path.stat().st_ino for r in results}  # type: ignore[union-attr]
    assert len(inodes) <= 4


def test_equal_sources_are_compiled_once_and_never_again(own_cache: Path) -> None:
    one, other = compile_sources([axpy_source(), axpy_source(symbol="renamed_kernel")])
    assert isinstance(one, CompiledKernel) and isinstance(other, CompiledKernel)
    assert one.path == other.path and len(entries(own_cache)) == 1
    assert compile_source(axpy_source()).cached
    assert other.source.symbol == "renamed_kernel"


def test_a_bad_source_costs_only_itself() -> None:
    sources = [axpy_source(n) for n in range(1, 9)]
    sources[2] = axpy_source(3, text="a * x[i] +")
    sources[6] = axpy_source(7, text="unknown[i]")
    results = compile_sources(sources)
    assert [isinstance(r, BuildError) for r in results] == [i in (2, 6) for i in range(8)]
    text = str(results[2])
    assert text.startswith("axpy_kernel does not compile: gcc: expected expression") or "clang" in text
    assert "tests/test_compile.py" in text
    assert "> " in text and "y[i] = a * x[i] +;" in text
    assert "unknown" in str(results[6])
    with pytest.raises(BuildError, match="does not compile"):
        compile_source(sources[2])


def test_a_failure_without_lines_is_found_by_halving(tmp_path: Path) -> None:
    tools = fake_compiler(tmp_path, 'if grep -q poison unit.c; then echo "internal error"; exit 1; fi; exec $REAL "$@"')
    sources = [axpy_source(n) for n in range(1, 11)]
    sources[4] = axpy_source(5, text="/* poison */ x[i]")
    results = compile_sources(sources, tools)
    assert [isinstance(r, BuildError) for r in results] == [i == 4 for i in range(10)]
    assert "internal error" in str(results[4])


def test_a_compiler_that_crashes_gets_easier_flags(tmp_path: Path) -> None:
    crash = 'case "$*" in *-fno-tree-vectorize*) ;; *) grep -q poison unit.c && echo "internal compiler error: x" && exit 1;; esac'
    tools = fake_compiler(tmp_path, f'{crash}; exec $REAL "$@"')
    sources = [axpy_source(1), axpy_source(2, text="/* poison */ x[i]")]
    assert all(isinstance(r, CompiledKernel) for r in compile_sources(sources, tools))


def test_a_hanging_compiler_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    tools = fake_compiler(
        tmp_path, f'if grep -q poison unit.c; then sleep 60 & echo $! > {pid}; wait; fi; exec $REAL "$@"'
    )
    sources = [axpy_source(1), axpy_source(2, text="/* poison */ x[i]")]
    results = compile_sources(sources, tools, timeout_s=0.5, batch=1)
    assert isinstance(results[0], CompiledKernel)
    assert "took longer than 0.5 s" in str(results[1])
    child = int(pid.read_text())
    for _ in range(100):  # a killed process may stay a moment as a zombie of init
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        if "Z" in Path(f"/proc/{child}/stat").read_text().split(")")[1][:3]:
            break
        time.sleep(0.02)
    else:
        pytest.fail("the compiler's child is still running")


def test_helper_names_follow_the_symbol() -> None:
    source = axpy_source(symbol="k")
    source = type(source)(
        "k", source.prelude, source.body.replace("TD_KERNEL", "static int k_helper(void) { return 1; }\nTD_KERNEL"),
        source.parameters, 0, source.target,
    )  # fmt: skip
    renamed = source.renamed("other").body
    assert "other_helper" in renamed and "k_helper" not in renamed and "other(const td_call *call" in renamed
    assert unit([source, renamed_source(source)]).count("typedef struct td_call") == 1
    assert all(isinstance(r, CompiledKernel) for r in compile_sources([source, renamed_source(source)]))


def renamed_source(source):  # type: ignore[no-untyped-def]
    return source.renamed("third")


def test_keys_depend_on_text_flags_and_compiler() -> None:
    tools = toolchain()
    source = axpy_source()
    other = Toolchain(tools.command, tools.kind, "99.0.0", tools.machine)
    flagged = type(source)(
        source.symbol, source.prelude, source.body, source.parameters, 0, source.target, ("-ffp-contract=off",)
    )
    keys = {source_key(axpy_source(9), tools), source_key(source, tools), source_key(source, other),
            source_key(flagged, tools)}  # fmt: skip
    assert len(keys) == 4
    assert source_key(source.renamed("other"), tools) == source_key(source, tools)


@pytest.mark.parametrize("damage", ["truncate", "swap", "no library", "torn entry", "old schema"])
def test_a_damaged_entry_is_built_again(damage: str) -> None:
    compiled = compile_source(axpy_source())
    entry = compiled.path.parent / "entry.json"
    if damage == "truncate":
        data = compiled.path.read_bytes()
        compiled.path.write_bytes(data[: len(data) // 2])
    elif damage == "swap":
        compiled.path.write_bytes(compiled.path.read_bytes().replace(b"kernel_", b"kernol_"))
    elif damage == "no library":
        compiled.path.unlink()
    elif damage == "torn entry":
        entry.write_bytes(entry.read_bytes()[:20])
    else:
        entry.write_text(entry.read_text().replace('"schema": 1', '"schema": 0'))
    again = compile_source(axpy_source())
    assert not again.cached
    assert compile_source(axpy_source()).cached


def test_the_bound_evicts_what_was_used_longest_ago(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "GRACE_S", 0.0)
    results = [compile_source(axpy_source(n)) for n in range(1, 9)]
    for age, r in enumerate(reversed(results)):
        os.utime(r.path.parent / "entry.json", (time.time() - 1000 * age - 10,) * 2)
    assert compile_source(axpy_source(1)).cached  # used now: the oldest no more
    full = kernel_cache().size_bytes()
    bounded = KernelCache(own_cache, full // 2)
    removed = bounded.prune()
    assert removed >= 4
    assert bounded.size_bytes() <= 0.8 * (full // 2)
    assert compile_source(axpy_source(1)).cached
    assert compile_source(axpy_source(8)).cached
    assert not compile_source(axpy_source(2)).cached
    assert list((own_cache / "work").iterdir()) == []


def test_an_entry_in_use_is_not_evicted(own_cache: Path) -> None:
    compile_source(axpy_source())
    assert KernelCache(own_cache, 1).prune() == 0


def test_processes_share_the_cache(own_cache: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from handwritten import axpy_source\n"
        "from tensordsl.codegen.compile import compile_sources\n"
        "from tensordsl.codegen.runtime import load\n"
        "for n in range(3):\n"
        "    for r in compile_sources([axpy_source(n) for n in range(1, 7)]): load(r)\n"
    )
    root = Path(__file__).parent.parent
    processes = [subprocess.Popen([sys.executable, "-c", program], cwd=root) for _ in range(3)]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    assert len(entries(own_cache)) == 6
    assert all(isinstance(r, CompiledKernel) and r.cached for r in compile_sources([axpy_source(n) for n in (1, 6)]))


def test_full_disk_while_compiling(tmp_path: Path, own_cache: Path) -> None:
    tools = fake_compiler(tmp_path, 'echo "cannot write unit.so: No space left on device"; touch unit.so; exit 1')
    with pytest.raises(BuildError, match="the disk is full") as caught:
        compile_sources([axpy_source(n) for n in range(1, 4)], tools)
    assert "TD_CACHE_DIR" in str(caught.value) and "tests/test_compile.py" in str(caught.value)
    assert entries(own_cache) == [] and list((own_cache / "work").iterdir()) == []


@pytest.mark.parametrize("step", ["text", "entry"])
def test_full_disk_while_writing(step: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.write_bytes

    def write_bytes(self: Path, data: bytes) -> int:
        if self.name == {"text": "unit.c", "entry": "entry.json"}[step]:
            whole(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return whole(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(BuildError, match="the disk is full"):
        compile_source(axpy_source())
    monkeypatch.undo()
    assert entries(own_cache) == [] and list((own_cache / "work").iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TD_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="cannot be written"):
        compile_source(axpy_source())


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TD_CC", "no-such-compiler -m64")
    with pytest.raises(BuildError, match="'no-such-compiler -m64' is not installed") as caught:
        compile_source(axpy_source())
    assert "without a compiler everything up to the C text works" in str(caught.value)
    monkeypatch.delenv("TD_CC")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BuildError, match="no C compiler is installed"):
        toolchain()


def test_a_program_that_is_no_c_compiler() -> None:
    with pytest.raises(BuildError, match="is not gcc or clang"):
        toolchain("true")


def test_the_compiler_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TD_CC", raising=False)
    name = "gcc" if shutil.which("gcc") else "clang"
    monkeypatch.setenv("CC", f"{name} -m64")
    assert toolchain().command[1:] == ("-m64",)
    monkeypatch.setenv("TD_CC", name)
    assert toolchain().command[1:] == ()
    assert toolchain().kind in toolchain().id and toolchain().version[0].isdigit()


def test_settings_are_read_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CC", "TD_CC", "TD_CACHE_DIR", "TD_JOBS", "TD_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    assert settings() == Settings()
    monkeypatch.setenv("TD_CACHE_BYTES", "500M")
    monkeypatch.setenv("TD_DEBUG", "1")
    monkeypatch.setenv("TD_JOBS", "3")
    now = settings()
    assert (now.cache_bytes, now.debug, now.cores) == (500 * 2**20, True, 3)
    for name, value in (("TD_CACHE_BYTES", "much"), ("TD_JOBS", "0"), ("TD_DEBUG", "perhaps")):
        with monkeypatch.context() as m:
            m.setenv(name, value)
            with pytest.raises(BuildError, match=f"{name}='{value}' cannot be read"):
                settings()


def test_debug_keeps_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TD_DEBUG", "1")
    compiled = compile_source(axpy_source())
    assert "a * x[i] + z[i]" in (compiled.path.parent / "kernel.c").read_text()


def test_an_interrupt_ends_the_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    tools = fake_compiler(tmp_path, "sleep 60")

    def interrupted(self: object, process: subprocess.Popen[str]) -> None:
        original(self, process)
        raise KeyboardInterrupt

    original = toolchain_module.Running.add
    monkeypatch.setattr(toolchain_module.Running, "add", interrupted)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        compile_sources([axpy_source(n) for n in range(1, 9)], tools, batch=1, jobs=2)
    assert time.monotonic() - started < 30
    assert entries(own_cache) == [] and list((own_cache / "work").iterdir()) == []
