"""Run a printed CUDA kernel on the CPU: g++ compiles its text with the emulator, ctypes calls it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensordsl.codegen.cuda.printer import CudaSource
from tensordsl.schedules.loopnest import Buffer

from tensordsl.errors import BuildError

HEADERS = Path(__file__).parent
_RED_ZONE = 256  # bytes before and after every array
_MESSAGE_BYTES = 4096
_ORDERS = {"forward": 0, "reverse": 1}

#: Local arrays start as a pattern, not as what the stack held (a warning only where unknown).
_FLAGS = ("-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-x", "c++", "-fwrapv", "-ftrivial-auto-var-init=pattern")


@dataclass(frozen=True, slots=True, eq=False)
class Emulation:
    """Compiled kernels, ready to run on numpy arrays."""

    sources: tuple[CudaSource, ...]
    library: ctypes.CDLL

    def run(
        self, source: CudaSource, arrays: Mapping[str, Any], order: str | int = "forward", late: bool = True
    ) -> None:
        """Run one kernel in place.

        arrays: one per parameter, by name (rank 0: a number or an array, outputs are arrays).
        order: of threads and blocks: "forward", "reverse" or the seed of a random order.
        late: asynchronous copies arrive when waited for (False: when issued).

        Raises BuildError for a missing or wrong array, a deadlock, a misaligned access, or a write
        outside an array.
        """
        number = _ORDERS[order] if isinstance(order, str) and order in _ORDERS else 2 + int(order)
        guarded = [_Guarded(p, arrays.get(p.name)) for p in source.parameters]
        pointers = (ctypes.c_void_p * max(1, len(guarded)))(*[g.address for g in guarded])
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        entry = getattr(self.library, f"td_emulate_{source.symbol}")
        failed = entry(pointers, ctypes.c_uint(number), ctypes.c_int(late), message, ctypes.c_size_t(_MESSAGE_BYTES))
        outside = [f"a write outside {g.name}" for g in guarded if not g.intact()]
        faults = [message.value.decode()] if failed else outside
        if faults:
            raise BuildError(
                f"{source.symbol}, emulated: {faults[0]}",
                context=source.text,
                hint=f"order={order!r}, late={late} reproduces it",
            )
        for g in guarded:
            g.give_back()


class _Guarded:
    """A copy of an array between red zones."""

    def __init__(self, parameter: Buffer, array: Any) -> None:
        name, dtype, shape = parameter.name, np.dtype(parameter.dtype.name), parameter.shape
        if array is None:
            raise BuildError(f"emulate: no array for parameter {name}")
        self.name, self.original = name, array
        data = np.asarray(array)
        if data.dtype != dtype or data.shape != shape:
            raise BuildError(
                f"emulate: {name} is {data.dtype}{list(data.shape)}, the kernel takes {dtype}{list(shape)}"
            )
        self.memory = np.full(data.nbytes + 2 * _RED_ZONE + 64, 0xFF, np.uint8)
        start = -(-(self.memory.ctypes.data + _RED_ZONE) // 64) * 64 - self.memory.ctypes.data
        self.zone = slice(start, start + data.nbytes)
        self.memory[self.zone] = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self.address = self.memory.ctypes.data + start
        self.data = self.memory[self.zone].view(data.dtype).reshape(shape)

    def intact(self) -> bool:
        outside = (self.memory[: self.zone.start], self.memory[self.zone.stop :])
        return all(bool((zone == 0xFF).all()) for zone in outside)

    def give_back(self) -> None:
        if isinstance(self.original, np.ndarray):
            self.original[...] = self.data


def compile_emulation(
    sources: Sequence[CudaSource], compiler: str | None = None, definitions: Sequence[str] = ()
) -> Emulation:
    """Compile kernels with distinct symbols into one library.

    compiler: of C++17 (default: $CXX, g++ or clang++); definitions: macros (see emulator.h).
    Raises BuildError without a compiler or with its words.
    """
    sources = tuple(sources)
    if len({s.symbol for s in sources}) != len(sources):
        raise BuildError("two kernels to emulate have one symbol")
    program = compiler or os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if program is None:
        raise BuildError("no C++ compiler to emulate CUDA with", hint="install g++ or clang++, or name one with CXX")
    text = "\n".join([*(s.text for s in sources), *(_entry(s) for s in sources)])
    with tempfile.TemporaryDirectory(prefix="tensordsl-") as folder:
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        file, library = Path(folder, f"{name}.cu"), Path(folder, f"{name}.so")
        file.write_text(text)
        command = [program, *_FLAGS, *(f"-D{d}" for d in definitions), f"-I{HEADERS}", str(file), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"{program} does not compile the emulation", context=done.stderr[:4000])
        return Emulation(sources, ctypes.CDLL(str(library)))


def emulate(source: CudaSource, arrays: Mapping[str, Any], order: str | int = "forward", late: bool = True) -> None:
    """Compile one kernel for the CPU and run it in place on numpy arrays (see `Emulation.run`)."""
    compile_emulation([source]).run(source, arrays, order, late)


def _entry(s: CudaSource) -> str:
    grid, block = (", ".join(map(str, x)) for x in (s.grid, s.block))
    parameters = "void **arrays, unsigned order, int late, char *message, size_t bytes"
    return (
        f'extern "C" int td_emulate_{s.symbol}({parameters}) {{\n'
        f"  return td_emulator::launch({s.symbol}, arrays, {{{grid}}}, {{{block}}}, order, late, message, bytes);\n}}\n"
    )
