"""Libraries and processors: LIB_supported, other architectures, nothing of the compiler's own runtime."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from handwritten import axpy
from tensordsl.codegen.library import build_library
from tensordsl.codegen.library.supported import supported
from test_library import CC, COMPILERS, divide, linear, shell

from tensordsl.errors import BuildError
from tensordsl.targets import KNOWN, Target
from tensordsl.targets import target as td_target

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_static_library_needs_nothing_of_the_compiler(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TD_CC", compiler)
    library = build_library([linear(8, 16, 24), divide()], tmp_path / "out", name="bare")
    undefined = {line.split()[-1] for line in shell("nm", "-u", library.static).splitlines() if " U " in line}
    assert undefined <= {"_GLOBAL_OFFSET_TABLE_"}


@pytest.mark.parametrize("target", KNOWN.values(), ids=str)
def test_every_target_can_be_asked_for(target: Target) -> None:
    """``LIB_supported`` knows the processor features of every target."""
    text = supported("demo", target)
    assert "int32_t demo_supported(void)" in text
    assert ("cpuid" in text) == (target.architecture == "x86_64")


@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="no qemu-x86_64 here")
def test_supported_tells_an_older_processor(tmp_path: Path) -> None:
    library = build_library([axpy(8).program], tmp_path / "out", name="demo", target="avx2")
    program = tmp_path / "ask.c"
    program.write_text('#include "demo.h"\nint main(void) { return demo_supported(); }\n')
    shell(CC, "-static", program, f"-I{library.header.parent}", library.static, "-o", tmp_path / "ask")
    old, new = (
        subprocess.run(["qemu-x86_64", "-cpu", cpu, str(tmp_path / "ask")], check=False).returncode
        for cpu in ("Nehalem", "max")
    )
    assert old == 0
    assert new in (0, 1)  # qemu before 7.2 has no AVX2


def test_a_compiler_for_another_architecture(tmp_path: Path) -> None:
    other = "neon" if td_target("native").architecture == "x86_64" else "avx2"
    with pytest.raises(BuildError, match=r"compiles for \w+, the target .* needs \w+") as caught:
        build_library([axpy(8).program], tmp_path / "out", name="demo", target=other)
    assert "set TD_CC to a compiler for it" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-gcc"), reason="no cross compiler here")
@pytest.mark.parametrize("command", ["aarch64-linux-gnu-gcc", "clang --target=aarch64-linux-gnu"])
def test_it_is_built_for_another_architecture(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which(command.split()[0]):
        pytest.skip(f"no {command.split()[0]} here")
    monkeypatch.setenv("TD_CC", command)
    library = build_library([linear(8, 16, 24), divide()], tmp_path / "out", name="demo", target="neon")
    program = tmp_path / "use.c"
    program.write_text(
        '#include "demo.h"\nint main(void) {\n    int64_t a[5] = {7, -7, 9, 0, 1}, q[5]; int32_t b[5] = {2, 2, -4, 3, 1}, r[5];\n'
        "    return demo_divide_int64_int32(0, a, b, q, r) || q[1] != -4 || r[1] != 1 || !demo_supported();\n}\n"
    )
    shell(
        "aarch64-linux-gnu-gcc",
        "-static",
        program,
        f"-I{library.header.parent}",
        library.static,
        "-o",
        tmp_path / "use",
    )
    names = {
        line.split()[-1] for line in shell("nm", "-g", "--defined-only", library.static).splitlines() if " T " in line
    }
    assert names and all(name.startswith("demo_") and "__" not in name for name in names)
    if shutil.which("qemu-aarch64"):
        shell("qemu-aarch64", tmp_path / "use")
