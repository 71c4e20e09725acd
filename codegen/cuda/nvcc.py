"""Compile printed CUDA for a device with nvcc, and read what the assembler says of the kernels."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tensordsl.codegen.cuda.printer import CudaSource

from tensordsl.errors import BuildError
from tensordsl.targets.cuda import CudaTarget

HEADERS = Path(__file__).parent
_KERNEL = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True, slots=True)
class Resources:
    """What one kernel uses of a thread: registers (32 bits), local memory and spills (bytes)."""

    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code for one architecture, and the resources of each kernel by symbol."""

    code: bytes
    architecture: str
    resources: dict[str, Resources]


def find_nvcc() -> str | None:
    """The path of nvcc, or None."""
    return shutil.which("nvcc")


def compile_cubin(sources: Sequence[CudaSource], target: CudaTarget) -> Cubin:
    """Compile kernels with distinct symbols in one run.  Raises BuildError without nvcc or with its words."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("nvcc is not on the PATH", hint="install the CUDA toolkit; printing and emulating need none")
    text = "\n".join(s.text for s in sources)
    code = target.architecture.removeprefix("sm_")
    with tempfile.TemporaryDirectory(prefix="tensordsl-") as folder:
        file, cubin = Path(folder, "kernels.cu"), Path(folder, "kernels.cubin")
        file.write_text(text)
        command = [
            nvcc, "-std=c++17", f"-I{HEADERS}", "-gencode", f"arch=compute_{code},code=sm_{code}",
            "-Xptxas", "-v", "-cubin", str(file), "-o", str(cubin),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"nvcc does not compile for {target.id}", context=done.stderr[:4000])
        return Cubin(cubin.read_bytes(), target.architecture, _resources(done.stderr))


def _resources(log: str) -> dict[str, Resources]:
    """The assembler's notes: a kernel's name, then its stack and spills, then its registers."""
    found: dict[str, Resources] = {}
    name, spills = "", (0, 0, 0)
    for line in log.splitlines():
        if m := _KERNEL.search(line):
            name = m[1]
        elif m := _SPILLS.search(line):
            spills = (int(m[1]), int(m[2]), int(m[3]))
        elif (m := _USED.search(line)) and name:
            found[name] = Resources(int(m[1]), *spills)
    return found
