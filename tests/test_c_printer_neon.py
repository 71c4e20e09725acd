"""NEON text: compiled by clang's cross compiler, and run by an emulator where one is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import printer_cases_storage  # noqa: F401  (fills CASES)
import pytest
from printer_cases import CASES as NESTS
from tensordsl.codegen.c.printer import to_c
from tensordsl.codegen.source import Source, unit
from tensordsl.schedules.interpreter import interpret
from tensordsl.schedules.loopnest import LoopNest
from test_c_printer_operations import CASES as OPERATIONS
from test_c_printer_operations import FEW, vectorised

from tensordsl.targets import target

NEON = target("neon")
GCC, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
FLAGS = ("-std=gnu11", "-O2", "-fno-math-errno", "-Wall", "-Werror", "-Wno-psabi", "-Wno-uninitialized")
QUIET = ("-Wno-unused-but-set-variable",)
EMIT = """\
extern long write(int, const void *, unsigned long);
static void emit(const void *p, unsigned long n) { if (write(1, p, n) != (long)n) __builtin_trap(); }
"""
#: an emulator is slow to start, so one program runs every kernel
CASES: dict[str, tuple[LoopNest, dict[str, Any]]] = {
    **{name: build() for name, build in NESTS.items()},
    **{name: (vectorised(OPERATIONS[name][0]), OPERATIONS[name][1]) for name in FEW},
}


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    return {name: to_c(n, NEON, f"k_{name}") for name, (n, _) in CASES.items()}


@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")
def test_neon_text_compiles_with_clang(sources: dict[str, Source], tmp_path: Path) -> None:
    (tmp_path / "unit.c").write_text(unit(sources.values()))
    command = ["clang", "--target=aarch64-linux-gnu", *NEON.compiler_flags, *FLAGS, *QUIET, "-c", "unit.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert not done.returncode, done.stderr[:4000]


def literal(data: np.ndarray[Any, Any]) -> str:
    return ", ".join(map(str, data.tobytes()))


def program(sources: dict[str, Source]) -> str:
    """A main that runs every kernel on data of its own and writes all outputs."""
    text = [unit(sources.values()), "int main(void) {"]
    for name, (n, arrays) in CASES.items():
        arguments = ["&call"]
        scratch = sources[name].workspace_bytes
        text.append("    {")
        text.append(f"        static char scratch[{max(1, scratch)}];")
        text.append(
            f"        td_call call = {{.size = sizeof call, .workspace = scratch, .workspace_bytes = {scratch}}};"
        )
        outputs = {t.name for t in n.program.outputs}
        for b in sources[name].parameters:
            data = np.zeros(b.shape, b.dtype.name)
            data[...] = arrays.get(b.name, 0)
            text.append(f"        static {b.dtype.c_name} {b.name}[{max(1, data.size)}] __attribute__((aligned(64)));")
            text.append(f"        static const unsigned char {b.name}_data[] = {{{literal(data)}}};")
            text.append(f"        __builtin_memcpy({b.name}, {b.name}_data, sizeof {b.name});")
            arguments.append(b.name if b.shape or b.name in outputs else f"{b.name}[0]")
        text.append(f"        if (k_{name}({', '.join(arguments)})) return 1;")
        text += [f"        emit({b.name}, sizeof {b.name});" for b in sources[name].parameters if b.name in outputs]
        text.append("    }")
    return EMIT + "\n".join([*text, "    return 0;", "}", ""])


@pytest.mark.skipif(shutil.which(GCC) is None or shutil.which(EMULATOR) is None, reason=f"needs {GCC} and {EMULATOR}")
def test_neon_kernels_run_in_an_emulator(sources: dict[str, Source], tmp_path: Path) -> None:
    (tmp_path / "unit.c").write_text(program(sources))
    command = [GCC, *NEON.compiler_flags, *FLAGS, *QUIET, "-static", "unit.c", "-o", "unit", "-lm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert not done.returncode, done.stderr[:4000]
    ran = subprocess.run([EMULATOR, str(tmp_path / "unit")], capture_output=True, check=True)
    at = 0
    for name, (n, arrays) in CASES.items():
        expected = interpret(n, arrays, dtype="float32")
        for b in sources[name].parameters:
            if b.name in expected:
                size = int(np.prod(b.shape)) * b.dtype.bytes
                got = np.frombuffer(ran.stdout[at : at + size], b.dtype.name).reshape(b.shape)
                at += size
                tolerance = 0 if not name.startswith("smooth") else 1e-6 if "32" in name else 1e-14
                np.testing.assert_allclose(
                    got, expected[b.name], rtol=tolerance, atol=tolerance, err_msg=f"{name}: {b.name}"
                )
    assert at == len(ran.stdout)
